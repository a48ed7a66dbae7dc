"""The functions and tools that a request offers, as Mistral takes them."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mistral_service.conversation.calls import safe_name

Tool = dict[str, Any]

MAX_TOOLS = 128
"""Tools that a request may offer (R11)."""

BUILT_IN = frozenset(
    {
        "web_search",
        "web_search_premium",
        "code_interpreter",
        "image_generation",
        "document_library",
        "connector",
    }
)
"""Types of tools that Mistral runs itself."""

# Keys of JSON schema that broke Mistral's grammar compiler (litellm#13389).
_BREAKING = frozenset({"$schema", "$id"})


class ToolsNotPassable(ValueError):
    """Tools that Mistral would refuse; the message names them and says what is allowed."""


def mistrals_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[list[Tool], dict[str, str]]:
    """Bring tools into Mistral's form.

    Names are respelled where Mistral does not take them, schemas scrubbed of the keys that break
    its grammar compiler, fields outside the schema left out.

    Args:
        tools: Functions in OpenAI's form, and Mistral's built-in tools by their type.

    Returns:
        The tools; and the names as they are sent → as the user gave them, where the two differ.

    Raises:
        ToolsNotPassable: If there are more than `MAX_TOOLS`, or one is of an unknown type.
    """
    if len(tools) > MAX_TOOLS:
        raise ToolsNotPassable(
            f"{len(tools)} tools are offered, and Mistral takes at most {MAX_TOOLS}: offer fewer."
        )
    made: list[Tool] = []
    names: dict[str, str] = {}
    for tool in tools:
        kind = tool.get("type", "function")
        if kind in BUILT_IN:
            made.append(dict(tool))
        elif kind == "function" and isinstance(tool.get("function"), Mapping):
            function = cast("Tool", tool["function"])
            name = str(function.get("name") or "")
            sent = safe_name(name)
            if sent != name:
                names[sent] = name
            made.append({"type": "function", "function": _function(function, sent)})
        else:
            raise ToolsNotPassable(
                f"A tool of the type {kind!r} is offered, and Mistral takes `function` and its own "
                f"({', '.join(sorted(BUILT_IN))})."
            )
    return made, names


def mistrals_choice(choice: Any) -> Any:
    """Bring the choice of tools into Mistral's form.

    Args:
        choice: `auto`, `any`, `required`, `none`, or a named function.

    Returns:
        The same, with the function's name as it is sent.
    """
    if not isinstance(choice, Mapping):
        return choice
    named = cast("Tool", choice)
    function = cast("Tool", named.get("function") or {})
    return {"type": "function", "function": {"name": safe_name(str(function.get("name") or ""))}}


def scrubbed(schema: Any) -> Any:
    """A JSON schema without the keys that break Mistral's grammar compiler.

    A property that happens to be called `$id` stays: only the schema's own keys go.
    """
    if isinstance(schema, list):
        return [scrubbed(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, Mapping):
        return schema
    result: dict[str, Any] = {}
    for key, value in cast("Mapping[str, Any]", schema).items():
        if key in _BREAKING:
            continue
        if key in ("properties", "$defs", "definitions", "patternProperties"):
            named = cast("Mapping[str, Any]", value)
            result[key] = {name: scrubbed(inner) for name, inner in named.items()}
        elif key in ("enum", "const", "default", "examples"):
            result[key] = value
        else:
            result[key] = scrubbed(value)
    return result


def _function(function: Tool, name: str) -> Tool:
    parameters = scrubbed(function.get("parameters") or {"type": "object", "properties": {}})
    made: Tool = {"name": name, "parameters": parameters}
    if function.get("description"):
        made["description"] = str(function["description"])
    if function.get("strict") is not None:
        made["strict"] = bool(function["strict"])
    return made
