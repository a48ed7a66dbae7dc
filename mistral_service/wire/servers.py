"""How servers with Mistral's API differ from it: one table, and how each is recognised.

A body is written for Mistral's own API. `adapt_body` rewrites it for another server;
`revise_server` reads a refusal and returns what to change. Both are pure: `wire/endpoint.py` stores
what is known of each address.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

Continues = Literal["prefix", "continue_final_message", "words"]
"""How a reply that was cut is continued: the assistant's message is the last one, with Mistral's
`prefix`; the same with `continue_final_message` in the body; or a user message asks for it."""

ServerName = Literal[
    "mistral", "azure", "vertex", "vllm", "sglang", "llama.cpp", "ollama", "litellm", "unknown"
]

CONTINUE_TEXT = "(Go on.)"
"""The user message that asks the assistant to continue."""

OPTIONAL_FIELDS = ("prompt_cache_key", "service_tier", "reasoning_effort")
"""Fields that the service sends by default. A server that does not know them gets the request
without them; a field that only a user can have set stays, and its refusal is an error."""


@dataclass(frozen=True, slots=True)
class Server:
    """What one kind of server accepts.

    Parameters:
        name: The kind of server.
        continues: How a reply that was cut is continued.
        exact: Whether a continued reply begins exactly at the end of the assistant's text, within a
            word or a number if need be, and never repeats it.
        any_choice: Its value of `tool_choice` that forces a call of any function.
        named_choice: Whether it accepts a `tool_choice` with the name of a function. If not, only
            that function is offered, and any function is forced.
        parts: The types of content parts that it accepts; None for all of Mistral's.
        openai_names: Whether it has OpenAI's `seed`, and only reports the tokens of a stream with
            OpenAI's `stream_options`. Mistral has `random_seed`, refuses the options and always
            reports them.
        unknown_fields: Those of `OPTIONAL_FIELDS` that it refuses.
        keeps_connections: Whether a connection can be reused after a stream. A connection that the
            server closes silently costs the next request an attempt, so none is kept open.
    """

    name: ServerName
    continues: Continues = "prefix"
    exact: bool = False
    any_choice: Literal["any", "required"] = "required"
    named_choice: bool = True
    parts: frozenset[str] | None = None
    openai_names: bool = True
    unknown_fields: frozenset[str] = frozenset()
    keeps_connections: bool = True


_AS_MISTRAL = Server("mistral", any_choice="any", openai_names=False)
_NEWER = frozenset({"prompt_cache_key", "service_tier"})
_CLOUD = frozenset({"text", "image_url", "reference"})
_SHOWN = frozenset({"text", "image_url"})

SERVERS: Mapping[str, Server] = {
    server.name: server
    for server in (
        _AS_MISTRAL,
        replace(_AS_MISTRAL, name="azure", parts=_CLOUD, unknown_fields=_NEWER),
        replace(_AS_MISTRAL, name="vertex", parts=_CLOUD, unknown_fields=_NEWER),
        Server("vllm", continues="continue_final_message", exact=True, parts=_SHOWN),
        Server("sglang", continues="continue_final_message", exact=True, parts=_SHOWN),
        # These two ignore `prefix`, and always continue a last message of the assistant.
        Server("llama.cpp", exact=True, named_choice=False, parts=_SHOWN, keeps_connections=False),
        Server("ollama", parts=_SHOWN),
        Server("litellm", parts=_SHOWN),
        replace(_AS_MISTRAL, name="unknown"),
    )
}
"""The table. Azure's and Vertex's rows are read from the request models of `mistralai` 3.7, those
of vLLM, llama.cpp and LiteLLM from the running servers (`docs/servers.md`), those of SGLang and
Ollama from their documentation."""

_OPTIONS = "stream_options"

_BY_HOST: tuple[tuple[str, ServerName], ...] = (
    ("mistral.ai", "mistral"),
    ("azure.com", "azure"),
    ("azure.us", "azure"),
    ("googleapis.com", "vertex"),
)
_BY_OWNER: Mapping[str, ServerName] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama.cpp",
    "library": "ollama",
}

_FORBIDDEN = re.compile(
    r"extra inputs are not permitted|extra_forbidden|extra fields not permitted"
    r"|unrecogni[sz]ed|unexpected (?:keyword|field|property|argument)"
    r"|unknown (?:name|parameter|field|argument|property)|cannot find field|no such field"
    r"|(?:un|not )supported (?:parameter|field|argument|property)"
    r"|(?:does not|doesn't) support (?:the )?param|is (?:unsupported|not allowed|not permitted)"
    r"|additional propert",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(r"not support|unsupported|not available|not allowed", re.IGNORECASE)
_OF_CONTINUING = re.compile(
    r"\bprefix\b|\bassistant\b|add_generation_prompt|\blast (?:message|role)", re.IGNORECASE
)
_OF_CHOICE = re.compile(r"tool[_ ]choice|named tools", re.IGNORECASE)


def check_server(owner: str, name: str, server: str | None) -> Server | None:
    """Look up a server by its name; None if it is not set.

    Raises:
        ValueError: If the name is unknown, with the class and the argument that were given it.
    """
    if server is None:
        return None
    if server not in SERVERS:
        allowed = ", ".join(get_args(ServerName))
        raise ValueError(f"{owner}({name}={server!r}): allowed are {allowed}, or None.")
    return SERVERS[server]


def by_address(url: str) -> Server:
    """The server at an address; `unknown` for most."""
    host = urlsplit(url).hostname or ""
    names = (name for end, name in _BY_HOST if host == end or host.endswith("." + end))
    return SERVERS[next(names, "unknown")]


def by_models(owners: Iterable[str], *, has_capabilities: bool) -> Server | None:
    """The server of a list of models, by the `owned_by` of each; None if that does not show it."""
    names = (_BY_OWNER.get(owner.lower()) for owner in owners)
    name = next(filter(None, names), "mistral" if has_capabilities else None)
    return SERVERS[name] if name else None


def by_headers(headers: Mapping[str, str]) -> Server | None:
    """The server by the headers of an answer; None for most."""
    if headers.get("server", "").lower() == "llama.cpp":
        return SERVERS["llama.cpp"]
    if any(name.lower().startswith("x-litellm-") for name in headers):
        return SERVERS["litellm"]
    return None


def adapt_body(body: Mapping[str, Any], server: Server) -> dict[str, Any]:
    """Rewrite a body for a server; the body for Mistral is left as it is."""
    left_out = {name for name in server.unknown_fields if not _is_chosen(name, body)}
    sent = {name: value for name, value in body.items() if name not in left_out}
    choice: Any = body.get("tool_choice")
    if isinstance(choice, Mapping) and not server.named_choice:
        named = _function(choice)
        given = cast("list[Any]", body.get("tools") or [])
        if tools := [tool for tool in given if named and _function(tool) == named]:
            sent["tools"], choice = tools, "any"
    if choice == "any":
        sent["tool_choice"] = server.any_choice
    if server.openai_names:
        if "random_seed" in sent:
            sent.setdefault("seed", sent.pop("random_seed"))
        if sent.get("stream"):
            sent.setdefault(_OPTIONS, {"include_usage": True})
    if server.continues != "prefix" and _has_prefix(body):
        *before, last = cast("list[dict[str, Any]]", body["messages"])
        last = {name: value for name, value in last.items() if name != "prefix"}
        sent["messages"] = [*before, last]
        if server.continues == "words":
            sent["messages"].append({"role": "user", "content": CONTINUE_TEXT})
        else:
            sent |= {"continue_final_message": True, "add_generation_prompt": False}
    return sent


def revise_server(server: Server, body: Mapping[str, Any], message: str) -> Server | None:
    """What a server may accept instead of a body for Mistral, by all messages of its refusal.

    None if the refusal has another cause.
    """
    sent = adapt_body(body, server)
    unknown = {name for name in OPTIONAL_FIELDS if _refuses(name, sent, message)}
    if unknown - server.unknown_fields:
        return replace(server, unknown_fields=server.unknown_fields | unknown)
    if server.openai_names and any(_refuses(name, sent, message) for name in ("seed", _OPTIONS)):
        return replace(server, openai_names=False)
    if body.get("tool_choice") == "any" and _OF_CHOICE.search(message):
        other = "any" if server.any_choice == "required" else "required"
        return replace(server, any_choice=other)
    if _has_prefix(body) and server.continues != "words":
        if server.continues == "prefix" and "continue_final_message" in message:
            return replace(server, continues="continue_final_message", exact=True)
        if _OF_CONTINUING.search(message) or "continue_final_message" in message:
            return replace(server, continues="words", exact=False)
    return None


def is_guess(before: Server, after: Server) -> bool:
    """Whether the change after a refusal is a guess: the refusal may have another cause."""
    return (before.any_choice, before.continues) != (after.any_choice, after.continues)


def merge_learned(server: Server, before: Server, after: Server) -> Server:
    """Apply what one request has learned to what is known now.

    Other requests may have changed that since `before`, when the request began. `after` is what was
    known when it was accepted.
    """
    unknown = server.unknown_fields | (after.unknown_fields - before.unknown_fields)
    changed: dict[str, Any] = {
        each.name: getattr(after, each.name)
        for each in fields(Server)
        if each.name not in ("name", "unknown_fields")
        and getattr(after, each.name) != getattr(before, each.name)
    }
    return replace(server, unknown_fields=unknown, **changed)


def describe_learned(before: Server, after: Server) -> str:
    """What was learned about a server, for the end of a sentence."""
    learned = [f"without {name}" for name in sorted(after.unknown_fields - before.unknown_fields)]
    if after.openai_names != before.openai_names:
        learned.append("with random_seed instead of seed, and without stream_options")
    if after.any_choice != before.any_choice:
        learned.append(f"with tool_choice {after.any_choice!r} instead of {before.any_choice!r}")
    if after.continues != before.continues:
        how = "a user message" if after.continues == "words" else after.continues
        learned.append(f"with {how} to continue a reply that was cut")
    return ", ".join(learned)


def _function(tool: Any) -> str:
    """The name of the function in a tool, or in a choice; empty if there is none."""
    try:
        return str(tool["function"]["name"])
    except (KeyError, TypeError):
        return ""


def _has_prefix(body: Mapping[str, Any]) -> bool:
    messages: Any = body.get("messages")
    return bool(messages) and messages[-1].get("prefix") is True


def _refuses(name: str, body: Mapping[str, Any], message: str) -> bool:
    if name not in body or _is_chosen(name, body) or not re.search(rf"\b{name}\b", message):
        return False
    return bool(_FORBIDDEN.search(message) or _UNSUPPORTED.search(message))


def _is_chosen(name: str, body: Mapping[str, Any]) -> bool:
    """Whether a user has set the value: the default of the service is no reasoning."""
    return name == "reasoning_effort" and body.get(name) != "none"
