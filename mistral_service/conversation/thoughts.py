"""Thoughts that the context stores return to their place in later requests."""

from typing import Any

from mistral_service.conversation.conversion import Conversion, Message, Messages
from mistral_service.conversation.parts import as_parts
from mistral_service.wire.trees import object_of

OWN = "mistral"
"""The mark of messages in a context that are Mistral's own."""

_KIND = "thought"


def thought_of(message: Any) -> Message | None:
    """A thought as Pipecat stores it, if a message of Mistral's own is one."""
    own = object_of(message)
    if own.get("type") == _KIND and own.get("text"):
        return {"role": _KIND, "content": str(own["text"])}
    return None


def thoughts_return_to_their_place(messages: Messages, conversion: Conversion) -> Messages:
    """R15: a thought becomes a thinking part before the text or the call that follows it.

    Only where the model takes thoughts; otherwise they are left out, as is a thought that nothing
    follows. Prevents 422 for an unknown role.
    """
    result: Messages = []
    thoughts: list[str] = []
    for message in messages:
        if message.get("role") == _KIND:
            thoughts.append(message["content"])
            continue
        if thoughts and message.get("role") == "assistant" and conversion.takes_thoughts:
            thinking = [{"type": "text", "text": text} for text in thoughts]
            thought = {"type": "thinking", "thinking": thinking}
            reason = "put the thought before the text or call that follows it"
            new = {**message, "content": [thought, *as_parts(message.get("content"))]}
            message = conversion.record_change("R15", message, reason, new)
        thoughts = []
        result.append(message)
    return result
