"""The images of a request: which of them are sent, and as what."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mistral_service.conversation.conversion import Conversion, Message, Messages
from mistral_service.conversation.data_urls import MOST_CHARACTERS
from mistral_service.conversation.foreign import in_mistrals_form
from mistral_service.conversation.parts import (
    PICTURE_FROM_EARLIER,
    UNREADABLE_PICTURE,
    UNSEEN_PICTURE,
    ImageError,
    Part,
    has_content,
    image_in,
)


def images_within_the_budget(messages: Messages, conversion: Conversion) -> Messages:
    """R10: a request has at most eight images, of a size that the model sees.

    The newest stay, as they were made ready; older ones, broken ones, and all of them where the
    model does not see, are replaced by a short text, and the words beside them kept. Prevents 400
    "At most 8 images are allowed", "Image could not be decoded", and the like.
    """
    shelf = _Shelf(conversion)
    start = _first_with_images(messages, conversion)
    result = list(messages)
    for place in _shown_newest_first(messages):
        message = messages[place]
        if place < start:
            shelf.close()
        parts = [shelf.put(part) for part in reversed(message["content"])][::-1]
        if any(new is not old for new, old in zip(parts, message["content"], strict=True)):
            new = {**message, "content": parts}
            result[place] = conversion.record_change(
                "R10", message, "; ".join(shelf.take_reasons()), new
            )
    return result


def images_to_send(messages: Sequence[Message], conversion: Conversion) -> list[str]:
    """The URLs of the images that a request may have, the newest first."""
    start = _first_with_images(messages, conversion)
    urls = [
        _url_of(part)
        for place in _shown_newest_first(messages)
        if place >= start
        for part in reversed(messages[place]["content"])
    ]
    # One that is too long is not even looked up: Python would read all of it.
    return [url for url in urls if url and len(url) <= MOST_CHARACTERS]


def bytes_of_images(messages: Sequence[Message]) -> int:
    """Bytes of all images in the messages, as they stand there."""
    return sum(
        len(_url_of(part) or "")
        for place in _shown_newest_first(messages)
        for part in messages[place]["content"]
    )


class _Shelf:
    """The room for images, which fills from the newest to the oldest."""

    def __init__(self, conversion: Conversion) -> None:
        self._conversion = conversion
        self._room = conversion.budget.images
        self._bytes = conversion.budget.total_bytes
        self._reasons: dict[str, None] = {}

    def close(self) -> None:
        self._room = 0

    def take_reasons(self) -> list[str]:
        reasons, self._reasons = list(self._reasons), {}
        return reasons

    def put(self, part: Any) -> Any:
        """A part as it is sent."""
        url = _url_of(part)
        if not url:
            return part
        if self._conversion.sees is False:
            self._conversion.unseen += 1
            return self._said(UNSEEN_PICTURE, "left out an image: the model does not see")
        if self._room == 0:
            return self._said(PICTURE_FROM_EARLIER, "left out an image to make room for newer")
        if len(url) > MOST_CHARACTERS:
            sent = self._conversion.oversized
        else:
            sent = self._conversion.images.get(url, url)
        if isinstance(sent, ImageError):
            self._conversion.faults.append(sent)
            return self._said(UNREADABLE_PICTURE, f"left out an image: {sent}")
        size = len(sent) if sent.startswith("data:") else 0
        if size > max(0, self._bytes) and self._room < self._conversion.budget.images:
            self.close()  # but the newest is sent, however large
            return self._said(PICTURE_FROM_EARLIER, "left out an image to make room for newer")
        self._room -= 1
        self._bytes -= size
        if sent is url:
            return part
        self._reasons["made an image as the model sees it"] = None
        inner = image_in(part) or {}
        image = inner["image_url"]
        made = {**inner, "image_url": sent if isinstance(image, str) else {**image, "url": sent}}
        return made if inner is part else {**part, "content": made}

    def _said(self, text: str, reason: str) -> Part:
        self._reasons[reason] = None
        return {"type": "text", "text": text}


def _first_with_images(messages: Sequence[Message], conversion: Conversion) -> int:
    """The place of the first message whose images may be sent.

    The last turn begins behind the last answer that the user has followed. Words before a call,
    and words that are still to be finished, are no answer yet.
    """
    if not conversion.budget.last_turn_only:
        return 0
    for place in range(len(messages) - 2, -1, -1):
        message, after = messages[place], messages[place + 1]
        if (
            message.get("role") == "assistant"
            and not message.get("tool_calls")
            and has_content(message.get("content"))
            and after.get("role") in ("user", "developer", "system")
        ):
            return place + 1
    return 0


def _shown_newest_first(messages: Sequence[Message]) -> list[int]:
    """The places of the messages that may show something: few of many."""
    lists = [place for place, m in enumerate(messages) if isinstance(m.get("content"), list)]
    return lists[::-1]


def _url_of(part: Any) -> str | None:
    """The URL of an image; None for a part that is none."""
    inner = image_in(cast("Part", part)) if isinstance(part, dict) else None
    if inner is None:
        return None
    image = inner.get("image_url")
    url = cast("Part", image).get("url") if isinstance(image, dict) else image
    return url if isinstance(url, str) else None


def has_images(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there are images in a conversation, in the form of any API."""
    for message in in_mistrals_form([dict(message) for message in messages], Conversion()):
        content = message.get("content")
        if isinstance(content, list) and any(map(_has_image, cast("list[Any]", content))):
            return True
    return False


def _has_image(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    fields = cast("dict[str, Any]", part)
    file: Any = fields.get("file")
    if fields.get("type") in ("file_base64", "file_url") and isinstance(file, dict):
        kind = cast("dict[str, Any]", file).get("mime_type")
        return str(kind).startswith("image/")
    return fields.get("type") == "image_url"
