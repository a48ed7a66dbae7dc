"""A conversation in which a reply goes on that was cut."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mistral_service.conversation.calls import calls_of


def continued(messages: Sequence[Mapping[str, Any]], words: str) -> list[Mapping[str, Any]]:
    """The messages, and the words after which the reply was cut.

    Args:
        messages: The messages that were answered; they are left as they are.
        words: The words.

    Returns:
        The messages with one of the assistant at the end. Where they end with words of the
        assistant already, which the reply went on from, both are one message.
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
