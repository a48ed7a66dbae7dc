"""The messages of a request that continues a reply which was cut."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mistral_service.conversation.calls import calls_of


def continued(messages: Sequence[Mapping[str, Any]], words: str) -> list[Mapping[str, Any]]:
    """Add the text of a reply that was cut to its messages.

    Args:
        messages: The messages that the reply answers; they are not changed.
        words: The text of the reply.

    Returns:
        The messages with an assistant message at the end. If they end with one already, which the
        reply continued, both are one message.
    """
    last: Any = messages[-1] if messages else None
    if isinstance(last, dict):
        message = cast("dict[str, Any]", last)
        content = message.get("content")
        if (
            message.get("role") == "assistant"
            and isinstance(content, str)
            and not calls_of(message)
        ):
            return [*messages[:-1], {**message, "content": content + words}]
    return [*messages, {"role": "assistant", "content": words}]
