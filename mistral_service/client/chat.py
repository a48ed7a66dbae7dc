"""A conversation to the parameters of a request, and its reply back."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, cast

from loguru import logger

from mistral_service.client.parameters import ChatParameters
from mistral_service.conversation.conversion import Conversion, ToolFault
from mistral_service.conversation.parts import text_of
from mistral_service.conversation.rules import apply_rules
from mistral_service.conversation.tools import convert_tools
from mistral_service.reply.events import Event, Text, ToolCall
from mistral_service.reply.prefix import RepeatedPrefix

Finished = Callable[[AsyncIterator[Event]], AsyncIterator[Event]]


def chat_params(
    messages: Sequence[Mapping[str, Any]],
    model: str,
    asking: ChatParameters,
    told: set[ToolFault],
    parts: frozenset[str] | None = None,
) -> tuple[dict[str, Any], Finished]:
    """The parameters of a request, and what makes of its events those that the caller expects.

    `told` remembers which faults of tools have been logged; `parts` are the kinds of parts that the
    server knows.
    """
    params = cast("dict[str, Any]", {**asking})
    offered = convert_tools(params.pop("tools", None) or [])
    for fault in offered.faults:
        if fault not in told:
            told.add(fault)
            logger.warning(f"MistralClient: {fault}")
    if "tool_choice" in params:
        params["tool_choice"] = offered.choice(params["tool_choice"])
    has_tools = bool(offered.tools) and params.get("tool_choice") != "none"
    sent = apply_rules(
        [dict(message) for message in messages], Conversion(has_tools=has_tools, parts=parts)
    )
    prefix = text_of(sent[-1].get("content")) if sent[-1].get("prefix") else ""

    async def finished(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """Without the words that repeat a prefix, and with the names that functions were given."""
        repeated = RepeatedPrefix(prefix)
        async for event in events:
            if isinstance(event, Text):
                if text := repeated.feed(event.text):
                    yield Text(text)
                continue
            if rest := repeated.finish():
                yield Text(rest)
            if isinstance(event, ToolCall):
                event = ToolCall(
                    event.id, offered.names.get(event.name, event.name), event.arguments
                )
            yield event

    return {"model": model, "messages": sent, "tools": offered.tools, **params}, finished
