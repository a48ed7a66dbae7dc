"""Converts parameters of a chat completion to the body that Mistral takes.

Mistral's schema is closed: a request with an unknown field is refused (422). So OpenAI's fields
that Mistral does not have are renamed or left out here, in one place.
"""

from collections.abc import Mapping, Sequence
from typing import Any

# OpenAI's name → Mistral's.
_RENAMED = {"seed": "random_seed", "max_completion_tokens": "max_tokens"}

# OpenAI's fields that Mistral refuses and that have no counterpart.
_REFUSED = frozenset({"stream_options", "store", "user"})

# Keyword arguments of the OpenAI client that are not part of the body.
CLIENT_OPTIONS = frozenset({"extra_headers", "extra_query", "extra_body", "timeout"})


def request_body(params: Mapping[str, Any], *, unset: tuple[type, ...] = ()) -> dict[str, Any]:
    """Make the JSON body of a chat completion.

    Args:
        params: Parameters under OpenAI's or Mistral's names. None, unset values and client options
            (`CLIENT_OPTIONS`) are left out; the fields of `extra_body` are added to the body. If a
            parameter is given under both names, Mistral's wins.
        unset: Types whose instances mean "not given".

    Returns:
        The body, with Mistral's names. `tools` and `tool_choice` are absent if no function may be
        called: an empty list is refused, and `tool_choice: "none"` garbles replies.
    """
    given = {
        name: value
        for name, value in params.items()
        if value is not None
        and not isinstance(value, unset)
        and name not in CLIENT_OPTIONS
        and name not in _REFUSED
    }
    body: dict[str, Any] = {}
    for name, value in given.items():
        theirs = _RENAMED.get(name, name)
        if theirs == name or theirs not in given:
            body[theirs] = value
    body.update(params.get("extra_body") or {})

    if not body.get("tools") or body.get("tool_choice") == "none":
        body.pop("tools", None)
        body.pop("tool_choice", None)
        body.pop("parallel_tool_calls", None)
    return body


def function_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the functions among some tools in Mistral's form."""
    return [str(tool["function"]["name"]) for tool in tools if tool.get("type") == "function"]
