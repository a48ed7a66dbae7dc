"""A conversation to the parameters of a request, and its reply back."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, cast

from mistral_service.conversation.parts import text_of
from mistral_service.conversation.rules import apply_rules
from mistral_service.conversation.run import Run
from mistral_service.conversation.tools import mistrals_tools
from mistral_service.endpoints.parameters import ChatParameters
from mistral_service.reply.events import Event, Text, ToolCall
from mistral_service.reply.prefix import RepeatedPrefix

Finished = Callable[[AsyncIterator[Event]], AsyncIterator[Event]]


def chat_params(
    messages: Sequence[Mapping[str, Any]], model: str, asking: ChatParameters
) -> tuple[dict[str, Any], Finished]:
    """The parameters of a request, and what makes of its events those that the caller expects."""
    params = cast("dict[str, Any]", {**asking})
    tools, names = mistrals_tools(params.pop("tools", None) or [])
    given = {name: sent for sent, name in names.items()}
    choice = asking.get("tool_choice")
    if isinstance(choice, dict) and (name := str(choice["function"]["name"])) in given:
        params["tool_choice"] = {"type": "function", "function": {"name": given[name]}}
    offered = tools if params.get("tool_choice") != "none" else []
    sent = apply_rules([dict(message) for message in messages], Run(has_tools=bool(offered)))
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
                event = ToolCall(event.id, names.get(event.name, event.name), event.arguments)
            yield event

    return {"model": model, "messages": sent, "tools": tools, **params}, finished
