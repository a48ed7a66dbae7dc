"""The messages of a request that continues a reply which was cut."""

from collections.abc import Mapping, Sequence
from typing import Any

from mistral_service.conversation.calls import calls_of
from mistral_service.wire.trees import object_of


def continued(messages: Sequence[Mapping[str, Any]], words: str) -> list[Mapping[str, Any]]:
    """The messages, with the text of the reply to them that was cut as the assistant's.

    If they end with an assistant message already, which the reply continued, both are one.
    """
    last = object_of(messages[-1]) if messages else {}
    content = last.get("content")
    if last.get("role") == "assistant" and isinstance(content, str) and not calls_of(last):
        return [*messages[:-1], {**last, "content": content + words}]
    return [*messages, {"role": "assistant", "content": words}]
