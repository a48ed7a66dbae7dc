"""Messages in other providers' own forms, which turn up where one context serves several."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

_ROLES = {"user": "user", "assistant": "assistant", "model": "assistant"}


def readable(message: Any) -> dict[str, Any] | None:
    """What a person could read in another provider's own message.

    Thoughts, signatures and other matters between that provider and its model are nobody else's.

    Args:
        message: A message in the form of OpenAI, Anthropic, Google, or another: a mapping, or an
            object with attributes of the same names.

    Returns:
        A message of the user or the assistant with the words; None if there are none.
    """
    if _get(message, "type") in ("reasoning", "thinking", "thought", "thought_signature"):
        return None
    role = _ROLES.get(str(_get(message, "role") or ""))
    if role is None:
        return None
    content = _get(message, "content")
    if content is None:
        content = _get(message, "parts")
    words = _words(content)
    return {"role": role, "content": words} if words else None


def _words(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    texts = [
        _get(part, "text")
        for part in cast("Sequence[Any]", content)
        if _get(part, "type") not in ("thinking", "reasoning") and not _get(part, "thought")
    ]
    return "\n".join(text for text in texts if isinstance(text, str) and text)


def _get(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value).get(name)
    return getattr(value, name, None)
