"""The functions and tools that a request offers, in Mistral's form."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic_core import from_json, to_json

from mistral_service.conversation.calls import safe_name
from mistral_service.conversation.conversion import Conversion, ToolFault
from mistral_service.conversation.foreign import in_mistrals_form
from mistral_service.conversation.keywords import OMITTED, flag, repair_keyword
from mistral_service.conversation.plain import BadSchema, is_json, to_json_value
from mistral_service.conversation.schemas import repair_schema
from mistral_service.wire.trees import object_of

Tool = dict[str, Any]

MAX_TOOLS = 128
"""Tools that a request may offer (R11)."""

MAX_TOOLS_BYTES = 2_000_000
"""Bytes that the tools of a request may have as JSON: twice what fits the longest context."""

# A larger set is checked in a thread: it would block the event loop for some milliseconds.
_LARGE = 16_000

# The types of tools that Mistral runs itself in a chat: the options of each in its closed schema,
# and the required one.
_BUILT_IN = {
    "connector": ("connector_id", "authorization", "tool_configuration"),
    "document_library": ("library_ids", "tool_configuration"),
    "image_generation": ("tool_configuration",),
}
# Those that it runs in its conversations and agents, but no longer in a chat.
_ELSEWHERE = ("web_search", "web_search_premium", "code_interpreter")
_REQUIRED = {
    "document_library": ("library_ids", list, "a list of the libraries' ids"),
    "connector": ("connector_id", str, "the connector's id"),
}

# MCP's, Anthropic's and Google's names for a function's parameters.
_PARAMETERS = ("parameters", "inputSchema", "input_schema", "parametersJsonSchema")

# A conversation has one set of tools, or alternates between a few: one for each of its steps.
_CACHED_SETS = 16


class ToolsNotPassable(ValueError):
    """Tools that Mistral would refuse; the message says what is allowed."""


@dataclass(frozen=True)
class OfferedTools:
    """The tools that a request can offer, of a set of tools.

    Parameters:
        tools: The tools in Mistral's form.
        names: The functions' names as they are sent → as the user gave them, where the two differ.
        faults: What is wrong with each tool that is left out.
    """

    tools: list[Tool] = field(default_factory=list[Tool])
    names: dict[str, str] = field(default_factory=dict[str, str])
    faults: list[ToolFault] = field(default_factory=list[ToolFault])

    def copy(self) -> "OfferedTools":
        """A copy whose tools and functions may be changed."""
        tools = [
            {**tool, "function": dict(tool["function"])} if "function" in tool else dict(tool)
            for tool in self.tools
        ]
        return OfferedTools(tools, dict(self.names), list(self.faults))

    def choice(self, choice: Any) -> Any:
        """`auto`, `any`, `required` or `none` as it is; a function by its name as it is sent.

        It is `auto` for a function that is not offered, which Mistral would refuse.
        """
        if not isinstance(choice, Mapping):
            return choice
        sent = safe_name(_name_in(choice) or "")
        if not any(tool.get("function", {}).get("name") == sent for tool in self.tools):
            return "auto"
        return {"type": "function", "function": {"name": sent}}


def convert_tools(tools: Sequence[Any]) -> OfferedTools:
    """Convert tools to Mistral's form, and leave out those that Mistral would refuse.

    They are functions in any API's form, and Mistral's built-in tools by their type. Names are
    respelled where Mistral does not take them, schemas repaired where it is clear what is meant
    (`mistral_service.conversation.schemas`), unknown fields left out. The result is cached as long
    as the set of tools does not change.

    Raises:
        ToolsNotPassable: If more than `MAX_TOOLS` can be offered.
    """
    return _within_limit(convert_all_tools(tools))


async def convert_tools_in_thread(tools: Sequence[Any]) -> OfferedTools:
    """As `convert_tools`, but a large set that is not cached is converted in a thread.

    Raises:
        ToolsNotPassable: If there are too many, or they are too large in total.
    """
    key, others = _key_of(tools)
    if key is not None and len(key) > MAX_TOOLS_BYTES:
        raise ToolsNotPassable(
            f"The tools have {len(key):,} bytes as JSON, and {MAX_TOOLS_BYTES:,} are the most that "
            "are allowed: offer fewer, or such as need fewer words."
        )
    if key is None or _takes_long(key):
        return _within_limit(await asyncio.to_thread(_convert_cached, tools, key, others))
    return _within_limit(_convert_cached(tools, key, others))


def _within_limit(offered: OfferedTools) -> OfferedTools:
    if len(offered.tools) > MAX_TOOLS:
        raise ToolsNotPassable(
            f"{len(offered.tools)} tools are offered, and Mistral takes at most {MAX_TOOLS}: offer "
            "fewer."
        )
    return offered


def convert_all_tools(tools: Sequence[Any]) -> OfferedTools:
    """Convert tools to Mistral's form as `convert_tools` does, without a limit of their number."""
    return _convert_cached(tools, *_key_of(tools))


def tools_to_show(tools: list[Any]) -> list[Any]:
    """The tools that are offered, for a log or a span; a large uncached set as it was given.

    A connector's credentials are redacted.
    """
    key, others = _key_of(tools)
    if key is not None and _takes_long(key):
        return [_redacted(tool) for tool in from_json(key)]
    return [_redacted(tool) for tool in _convert_cached(tools, key, others).tools]


def _redacted(tool: Any) -> Any:
    return {**tool, "authorization": "…"} if "authorization" in object_of(tool) else tool


def _takes_long(key: bytes) -> bool:
    return len(key) > _LARGE and key not in _cache


def _convert_cached(tools: Sequence[Any], key: bytes | None, others: list[Any]) -> OfferedTools:
    if key is None:
        return _convert(tools)
    found = _cache.pop(key, None) or (_convert(tools), others)
    _cache[key] = found
    while len(_cache) > _CACHED_SETS:
        _cache.pop(next(iter(_cache)), None)
    return found[0].copy()


# The results of the latest sets of tools, for all conversations of a process; with the objects that
# the key has by their id(), which identifies them as long as they live.
_cache: dict[bytes, tuple[OfferedTools, list[Any]]] = {}


def choice_now(choice: Any, messages: Sequence[Mapping[str, Any]]) -> Any:
    """The choice of tools for a request, given how far the turn has come.

    A choice that forces a call applies to the first request of a turn. After the call's result it
    would force another, in an endless loop: from then on the model chooses.
    """
    if choice in (None, "auto", "none"):
        return choice
    known = in_mistrals_form(cast("list[dict[str, Any]]", list(messages)), Conversion())
    roles = [message.get("role") for message in known]
    since = max((index for index, role in enumerate(roles) if role == "user"), default=-1)
    return "auto" if "tool" in roles[since + 1 :] else choice


def _key_of(tools: Sequence[Any]) -> tuple[bytes | None, list[Any]]:
    """The cache key of a set of tools, its JSON, and the objects that are in it by their id().

    Tools may be changed in place, and `==` takes True for 1, so their text is compared. The key is
    None for a set that cannot be serialised.
    """
    others: list[Any] = []

    def identity(value: Any) -> Any:
        if isinstance(value, Mapping):
            return dict(cast("Mapping[Any, Any]", value))
        others.append(value)
        return f"{id(value):#x}"

    try:
        key = to_json(tools, fallback=identity, inf_nan_mode="constants", bytes_mode="base64")
    except ValueError:
        return None, others
    return key, others


def _convert(tools: Sequence[Any]) -> OfferedTools:
    offered = OfferedTools()
    given: set[str] = set()
    for place, tool in enumerate(tools, 1):
        try:
            made, name = _convert_one(tool, given)
        except Exception as e:
            # A schema may contain any object. Whatever it raises when it is read, the other
            # functions are offered.
            unread = f"it cannot be read ({type(e).__name__}: {e})"
            reason = str(e) if isinstance(e, BadSchema) else unread
            offered.faults.append(ToolFault(_name_in(tool) or f"tool {place}", reason))
        else:
            offered.tools.append(made)
            if name is not None:
                given.add(name)
                if (sent := made["function"]["name"]) != name:
                    offered.names[sent] = name
    return offered


def _convert_one(tool: Any, given: set[str]) -> tuple[Tool, str | None]:
    """A tool in Mistral's form; for a function also the name that the user gave it."""
    if not isinstance(tool, Mapping):
        raise BadSchema(f"it is {tool!r:.60}, and a mapping is allowed")
    kind = cast("Tool", tool).get("type") or "function"
    if isinstance(kind, str) and kind in _BUILT_IN:
        return _built_in(cast("Tool", tool), kind), None
    function = _function_in(tool)
    if kind != "function" or function is None:
        allowed = f"function, {', '.join(_BUILT_IN)} are allowed"
        if kind in _ELSEWHERE:
            allowed += " in a chat: Mistral runs this one in its conversations and agents"
        raise BadSchema(f"its type is {kind!r:.60}, and {allowed}")
    name = to_json_value(function.get("name"))
    if not isinstance(name, str) or not name.strip():
        raise BadSchema(f"its name is {name!r:.60}, and only a string is allowed")
    if name in given:
        raise BadSchema("another function has the same name, and the first one is offered")
    return {"type": "function", "function": _function(function, safe_name(name))}, name


def _built_in(tool: Tool, kind: str) -> Tool:
    """A tool that Mistral runs itself, with its options."""
    given = {name: tool[name] for name in ("type", *_BUILT_IN[kind]) if name in tool}
    made: Any = to_json_value(given)
    if not is_json(made):
        raise BadSchema("it has a value that JSON cannot represent")
    if needed := _REQUIRED.get(kind):
        name, form, allowed = needed
        if not made.get(name) or not isinstance(made[name], form):
            raise BadSchema(f"its {name} is {made.get(name)!r:.60}, and {allowed} is needed")
    return made


def _function(function: Tool, name: str) -> Tool:
    parameters = next((function[key] for key in _PARAMETERS if function.get(key)), None)
    required = function.get("required")
    if required and isinstance(parameters, Mapping) and "required" not in parameters:
        # Put one level too high, where the API refuses it (client-python#91).
        parameters = {**cast("Tool", parameters), "required": required}
    made: Tool = {"name": name, "parameters": repair_schema(parameters)}
    description = repair_keyword("description", to_json_value(function.get("description")))
    if description and description is not OMITTED:
        made["description"] = description
    if (strict := flag(function.get("strict"))) is not None:
        made["strict"] = strict
    return made


def _function_in(tool: Any) -> Tool | None:
    """What describes a tool's function: with Anthropic and MCP, the tool itself."""
    if not isinstance(tool, Mapping):
        return None
    known = cast("Tool", tool)
    inner = known.get("function") or known
    return cast("Tool", inner) if isinstance(inner, Mapping) else None


def _name_in(tool: Any) -> str | None:
    """The name of a tool that cannot be offered; None if it has none."""
    name: Any = (_function_in(tool) or {}).get("name")
    return name if isinstance(name, str) and name.strip() else None
