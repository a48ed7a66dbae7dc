"""The images of a request: which are sent, and in which form."""

from collections.abc import Mapping, Sequence
from typing import Any

from mistral_service.conversation.conversion import Conversion, Message, Messages, differ
from mistral_service.conversation.data_urls import MAX_URL_LENGTH, url_key
from mistral_service.conversation.foreign import in_mistrals_form
from mistral_service.conversation.parts import (
    EARLIER_IMAGE,
    UNREADABLE_IMAGE,
    UNSEEN_IMAGE,
    ImageError,
    Part,
    has_content,
    image_in,
)
from mistral_service.wire.trees import object_of


def images_within_the_budget(messages: Messages, conversion: Conversion) -> Messages:
    """R10: a request has at most eight images, of a size that the model sees.

    The newest stay, in their prepared form; older and broken ones, and all of them where the model
    has no vision, are replaced by a short text; the text around them stays. Prevents 400 "At most
    8 images are allowed", "Image could not be decoded", and the like.
    """
    quota = _ImageQuota(conversion)
    start = _first_with_images(messages, conversion)
    result = list(messages)
    for index in _with_parts_newest_first(messages):
        message = messages[index]
        if index < start:
            quota.images_left = 0
        parts = [quota.take(part) for part in reversed(message["content"])][::-1]
        if differ(parts, message["content"]):
            new = {**message, "content": parts}
            reason = "; ".join(quota.reasons)
            result[index] = conversion.record_change("R10", message, reason, new)
            quota.reasons.clear()
    return result


def images_to_send(messages: Sequence[Message], conversion: Conversion) -> list[str]:
    """The URLs of the images that a request may have, the newest first."""
    start = _first_with_images(messages, conversion)
    urls = [
        _url_of(part)
        for index in _with_parts_newest_first(messages)
        if index >= start
        for part in reversed(messages[index]["content"])
    ]
    # One that is too long is not even looked up: Python would hash all of it.
    return [url for url in urls if url and len(url) <= MAX_URL_LENGTH]


def bytes_of_images(messages: Sequence[Message]) -> int:
    """Bytes of all images in the messages, as they are stored there."""
    return sum(
        len(_url_of(part) or "")
        for index in _with_parts_newest_first(messages)
        for part in messages[index]["content"]
    )


_FOR_NEWER = "left out an image in favour of newer ones"


class _ImageQuota:
    """How many more images the request may have; the newest take from it first."""

    def __init__(self, conversion: Conversion) -> None:
        self._conversion = conversion
        self.images_left = conversion.budget.images
        self._bytes_left = conversion.budget.total_bytes
        self.reasons: dict[str, None] = {}  # why the last message changed, in order

    def take(self, part: Any) -> Any:
        """A part as it is sent: an image within the quota, or a text in its place."""
        url = _url_of(part)
        if not url:
            return part
        if self._conversion.sees is False:
            self._conversion.unseen_images += 1
            return self._placeholder(UNSEEN_IMAGE, "left out an image: the model has no vision")
        if self.images_left == 0:
            return self._placeholder(EARLIER_IMAGE, _FOR_NEWER)
        if len(url) > MAX_URL_LENGTH:
            sent = self._conversion.oversized
        else:
            sent = self._conversion.images.get(url_key(url), url)
        if isinstance(sent, ImageError):
            self._conversion.image_errors.append(sent)
            return self._placeholder(UNREADABLE_IMAGE, f"left out an image: {sent}")
        size = len(sent) if sent.startswith("data:") else 0
        is_newest = self.images_left == self._conversion.budget.images
        if size > max(0, self._bytes_left) and not is_newest:  # the newest is always sent
            self.images_left = 0
            return self._placeholder(EARLIER_IMAGE, _FOR_NEWER)
        self.images_left -= 1
        self._bytes_left -= size
        if sent is url:
            return part
        self.reasons["scaled an image to what the model sees"] = None
        inner = image_in(part) or {}
        image = inner["image_url"]
        made = {**inner, "image_url": sent if isinstance(image, str) else {**image, "url": sent}}
        return made if inner is part else {**part, "content": made}

    def _placeholder(self, text: str, reason: str) -> Part:
        self.reasons[reason] = None
        return {"type": "text", "text": text}


def _first_with_images(messages: Sequence[Message], conversion: Conversion) -> int:
    """The index of the first message whose images may be sent.

    The last turn begins after the last answer that is followed by the user. Text before a call, and
    text that is still to be continued, is no answer yet.
    """
    if not conversion.budget.last_turn_only:
        return 0
    for index in range(len(messages) - 2, -1, -1):
        message, after = messages[index], messages[index + 1]
        if (
            message.get("role") == "assistant"
            and not message.get("tool_calls")
            and has_content(message.get("content"))
            and after.get("role") in ("user", "developer", "system")
        ):
            return index + 1
    return 0


def _with_parts_newest_first(messages: Sequence[Message]) -> list[int]:
    """The indices of the messages that may have images: those whose content is a list."""
    indices = [index for index, m in enumerate(messages) if isinstance(m.get("content"), list)]
    return indices[::-1]


def _url_of(part: Any) -> str | None:
    """The URL of an image part; None for any other part."""
    image = (image_in(object_of(part)) or {}).get("image_url")
    url = object_of(image).get("url", image)
    return url if isinstance(url, str) else None


def has_images(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there are images in a conversation, in the form of any API."""
    formed = in_mistrals_form([dict(message) for message in messages], Conversion())
    return bytes_of_images(formed) > 0
