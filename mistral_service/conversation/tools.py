"""The functions and tools that a request offers, as Mistral takes them."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic_core import from_json, to_json

from mistral_service.conversation.calls import safe_name
from mistral_service.conversation.conversion import Conversion, ToolFault
from mistral_service.conversation.foreign import in_mistrals_form
from mistral_service.conversation.keywords import GONE, flag, mended_keyword
from mistral_service.conversation.plain import BadSchema, is_json, plain
from mistral_service.conversation.schemas import mended

Tool = dict[str, Any]

MAX_TOOLS = 128
"""Tools that a request may offer (R11)."""

MAX_TOOLS_BYTES = 2_000_000
"""Bytes that the tools of a request may have as JSON: twice what fits in the longest context."""

# Bytes from which on a set is judged in a thread: on the loop it would take some milliseconds.
_LARGE = 16_000

BUILT_IN = frozenset({"image_generation", "document_library", "connector"})
"""Types of tools that Mistral runs itself in a chat."""

_ELSEWHERE = ("web_search", "web_search_premium", "code_interpreter")
"""Those that Mistral runs in its conversations and agents, and no longer in a chat."""

# The options of each, as Mistral's closed schema has them, and what each cannot do without.
_OPTIONS = {
    "image_generation": {"tool_configuration"},
    "document_library": {"library_ids", "tool_configuration"},
    "connector": {"connector_id", "authorization", "tool_configuration"},
}
_NEEDED = {
    "document_library": ("library_ids", list, "a list of the libraries' ids"),
    "connector": ("connector_id", str, "the connector's id"),
}

# MCP's, Anthropic's and Google's names for a function's parameters.
_PARAMETERS = ("parameters", "inputSchema", "input_schema", "parametersJsonSchema")

# A conversation has one set of tools, or goes to and fro between a few: one for each of its steps.
_REMEMBERED_SETS = 16


class ToolsNotPassable(ValueError):
    """Tools that Mistral would refuse; the message says what is allowed."""


@dataclass(frozen=True)
class OfferedTools:
    """What a request can offer of a set of tools.

    Parameters:
        tools: The tools in Mistral's form.
        names: The functions' names as they are sent → as the user gave them, where the two differ.
        faults: What is wrong with each tool that is left out.
    """

    tools: list[Tool] = field(default_factory=list[Tool])
    names: dict[str, str] = field(default_factory=dict[str, str])
    faults: list[ToolFault] = field(default_factory=list[ToolFault])

    def copy(self) -> "OfferedTools":
        """The same, with tools and functions that may be changed."""
        tools = [
            {**tool, "function": dict(tool["function"])} if "function" in tool else dict(tool)
            for tool in self.tools
        ]
        return OfferedTools(tools, dict(self.names), list(self.faults))

    def choice(self, choice: Any) -> Any:
        """Bring the choice of tools into Mistral's form.

        Args:
            choice: `auto`, `any`, `required`, `none`, or a named function.

        Returns:
            The same, with the function's name as it is sent; `auto` for a function that is not
            offered, which Mistral would refuse.
        """
        if not isinstance(choice, Mapping):
            return choice
        named = cast("Tool", choice)
        function = named.get("function") or named
        name = cast("Tool", function).get("name") if isinstance(function, Mapping) else None
        sent = safe_name(name) if isinstance(name, str) else ""
        if not any(tool.get("function", {}).get("name") == sent for tool in self.tools):
            return "auto"
        return {"type": "function", "function": {"name": sent}}


def mistrals_tools(tools: Sequence[Any]) -> OfferedTools:
    """Bring tools into Mistral's form, and leave out those that Mistral would refuse.

    Names are respelled where Mistral does not take them, schemas mended where it is clear what is
    meant (`mistral_service.conversation.schemas`), fields outside the API's form left out. A set
    of tools is judged once, as long as it stays as it is.

    Args:
        tools: Functions in OpenAI's form, and Mistral's built-in tools by their type; left as they
            are.

    Returns:
        What can be offered, and what is wrong with the rest.

    Raises:
        ToolsNotPassable: If more than `MAX_TOOLS` can be offered.
    """
    return _passable(judged_tools(tools))


async def mistrals_tools_beside(tools: Sequence[Any]) -> OfferedTools:
    """Do as `mistrals_tools`; a large set that is new is judged in a thread.

    Args:
        tools: As for `mistrals_tools`.

    Returns:
        As `mistrals_tools`.

    Raises:
        ToolsNotPassable: If there are too many, or they are too large together.
    """
    others: list[Any] = []
    key = _key_of(tools, others)
    if key is not None and len(key) > MAX_TOOLS_BYTES:
        raise ToolsNotPassable(
            f"The tools have {len(key):,} bytes as JSON, and {MAX_TOOLS_BYTES:,} are the most that "
            "are allowed: offer fewer, or such as need fewer words."
        )
    if key is None or (len(key) > _LARGE and key not in _judged):
        return _passable(await asyncio.to_thread(_judged_once, tools, key, others))
    return _passable(_judged_once(tools, key, others))


def _passable(offered: OfferedTools) -> OfferedTools:
    if len(offered.tools) > MAX_TOOLS:
        raise ToolsNotPassable(
            f"{len(offered.tools)} tools are offered, and Mistral takes at most {MAX_TOOLS}: offer "
            "fewer."
        )
    return offered


def judged_tools(tools: Sequence[Any]) -> OfferedTools:
    """Bring tools into Mistral's form as `mistrals_tools` does, however many they are."""
    others: list[Any] = []
    return _judged_once(tools, _key_of(tools, others), others)


def tools_to_show(tools: list[Any]) -> list[Any]:
    """The tools that are offered, for a log or a span; a large set that is new as it was given.

    What opens a connector is not shown.
    """
    others: list[Any] = []
    key = _key_of(tools, others)
    if key is not None and len(key) > _LARGE and key not in _judged:
        return [_shown(tool) for tool in from_json(key)]
    return [_shown(tool) for tool in _judged_once(tools, key, others).tools]


def _shown(tool: Any) -> Any:
    if not isinstance(tool, dict) or "authorization" not in tool:
        return cast("Any", tool)
    return {**cast("Tool", tool), "authorization": "…"}


def _judged_once(tools: Sequence[Any], key: bytes | None, others: list[Any]) -> OfferedTools:
    if key is None:
        return _judge(tools)
    found = _judged.pop(key, None) or (_judge(tools), others)
    _judged[key] = found
    while len(_judged) > _REMEMBERED_SETS:
        _judged.pop(next(iter(_judged)), None)
    return found[0].copy()


# What was made of the sets of tools that were seen of late, for all conversations of a process; and
# the objects in them that are known again by their identity, which is theirs as long as they live.
_judged: dict[bytes, tuple[OfferedTools, list[Any]]] = {}


def choice_now(choice: Any, messages: Sequence[Mapping[str, Any]]) -> Any:
    """The choice of tools for a request, given how far the turn has come.

    A choice that forces a call holds for the caller's request. After the call's result it would
    force another, for ever: from then on the model chooses.

    Args:
        choice: `auto`, `any`, `required`, `none`, or a named function; None for no choice.
        messages: The messages of the request, in their order.
    """
    if choice in (None, "auto", "none"):
        return choice
    known = in_mistrals_form(cast("list[dict[str, Any]]", list(messages)), Conversion())
    roles = [message.get("role") for message in known]
    since = max((index for index, role in enumerate(roles) if role == "user"), default=-1)
    return "auto" if "tool" in roles[since + 1 :] else choice


def _key_of(tools: Sequence[Any], others: list[Any]) -> bytes | None:
    """What two sets of tools share that say the same; None for one that cannot be written.

    Tools may be changed in place, and `==` takes true for 1: their text is compared.
    """

    def identity(value: Any) -> Any:
        if isinstance(value, Mapping):
            return dict(cast("Mapping[Any, Any]", value))
        others.append(value)
        return f"{id(value):#x}"

    try:
        return to_json(tools, fallback=identity, inf_nan_mode="constants", bytes_mode="base64")
    except ValueError:
        return None


def _judge(tools: Sequence[Any]) -> OfferedTools:
    offered = OfferedTools()
    given: set[str] = set()
    for place, tool in enumerate(tools, 1):
        try:
            made, name = _judged_alone(tool, given)
        except BadSchema as e:
            offered.faults.append(ToolFault(_name_in(tool) or f"tool {place}", str(e)))
        except Exception as e:
            # Any object may stand in a schema. Whatever it does when it is read, the other
            # functions are offered.
            reason = f"it cannot be read ({type(e).__name__}: {e})"
            offered.faults.append(ToolFault(_name_in(tool) or f"tool {place}", reason))
        else:
            offered.tools.append(made)
            if name is not None:
                given.add(name)
                if (sent := made["function"]["name"]) != name:
                    offered.names[sent] = name
    return offered


def _judged_alone(tool: Any, given: set[str]) -> tuple[Tool, str | None]:
    """A tool in Mistral's form; for a function the name that the user gave it."""
    if not isinstance(tool, Mapping):
        raise BadSchema(f"it is {tool!r:.60}, and a mapping is allowed")
    kind = cast("Tool", tool).get("type") or "function"
    if isinstance(kind, str) and kind in BUILT_IN:
        return _built_in(cast("Tool", tool), kind), None
    function = _function_in(tool)
    if kind != "function" or function is None:
        allowed = f"function, {', '.join(sorted(BUILT_IN))} are allowed"
        if kind in _ELSEWHERE:
            allowed += " in a chat: Mistral has this one in its conversations and agents"
        raise BadSchema(f"its type is {kind!r:.60}, and {allowed}")
    name = plain(function.get("name"))
    if not isinstance(name, str) or not name.strip():
        raise BadSchema(f"its name is {name!r:.60}, and a text is allowed")
    if name in given:
        raise BadSchema("its name is given twice, and the first function of the name is offered")
    return {"type": "function", "function": _function(function, safe_name(name))}, name


def _built_in(tool: Tool, kind: str) -> Tool:
    """A tool that Mistral runs itself, with the options that it has there."""
    made: Any = plain({name: tool[name] for name in ("type", *_OPTIONS[kind]) if name in tool})
    if not is_json(made):
        raise BadSchema("it has a value that JSON does not know, and only JSON is allowed")
    if needed := _NEEDED.get(kind):
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
    made: Tool = {"name": name, "parameters": mended(parameters)}
    description = mended_keyword("description", plain(function.get("description")))
    if description and description is not GONE:
        made["description"] = description
    if (strict := flag(function.get("strict"))) is not None:
        made["strict"] = strict
    return made


def _function_in(tool: Any) -> Tool | None:
    """What a tool says of its function.

    The Responses API, Anthropic and MCP have no mapping of its own for it.
    """
    if not isinstance(tool, Mapping):
        return None
    known = cast("Tool", tool)
    inner = known.get("function") or known
    return cast("Tool", inner) if isinstance(inner, Mapping) else None


def _name_in(tool: Any) -> str | None:
    """The name of a tool that cannot be offered, as far as it has one."""
    name: Any = (_function_in(tool) or {}).get("name")
    return name if isinstance(name, str) and name.strip() else None
