"""The pictures of a request: which of them are sent, and as what."""

from collections.abc import Sequence
from typing import Any, cast

from mistral_service.conversation.data_urls import MOST_CHARACTERS
from mistral_service.conversation.parts import (
    PICTURE_FROM_EARLIER,
    UNREADABLE_PICTURE,
    UNSEEN_PICTURE,
    Part,
    PictureError,
    has_content,
    image_in,
)
from mistral_service.conversation.run import Message, Messages, Run


def pictures_within_the_budget(messages: Messages, run: Run) -> Messages:
    """R10: a request has at most eight pictures, of a size that the model sees.

    The newest stay, as they were made ready; older ones, broken ones, and all of them where the
    model does not see, are replaced by a short text, and the words beside them kept. Prevents 400
    "At most 8 images are allowed", "Image could not be decoded", and the like.
    """
    shelf = _Shelf(run)
    start = _first_with_pictures(messages, run)
    result = list(messages)
    for place in _shown_newest_first(messages):
        message = messages[place]
        if place < start:
            shelf.close()
        parts = [shelf.put(part) for part in reversed(message["content"])][::-1]
        if any(new is not old for new, old in zip(parts, message["content"], strict=True)):
            new = {**message, "content": parts}
            result[place] = run.changed("R10", message, "; ".join(shelf.take_reasons()), new)
    return result


def pictures_to_send(messages: Sequence[Message], run: Run) -> list[str]:
    """The URLs of the pictures that a request may have, the newest first."""
    start = _first_with_pictures(messages, run)
    urls = [
        _url_of(part)
        for place in _shown_newest_first(messages)
        if place >= start
        for part in reversed(messages[place]["content"])
    ]
    # One that is too long is not even looked up: Python would read all of it.
    return [url for url in urls if url and len(url) <= MOST_CHARACTERS]


def bytes_of_pictures(messages: Sequence[Message]) -> int:
    """Bytes of all pictures in the messages, as they stand there."""
    return sum(
        len(_url_of(part) or "")
        for place in _shown_newest_first(messages)
        for part in messages[place]["content"]
    )


class _Shelf:
    """The room for pictures, which fills from the newest to the oldest."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._room = run.budget.images
        self._bytes = run.budget.total_bytes
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
        if self._run.sees is False:
            self._run.unseen += 1
            return self._said(UNSEEN_PICTURE, "left out a picture: the model does not see")
        if self._room == 0:
            return self._said(PICTURE_FROM_EARLIER, "left out a picture to make room for newer")
        if len(url) > MOST_CHARACTERS:
            sent = self._run.oversized
        else:
            sent = self._run.pictures.get(url, url)
        if isinstance(sent, PictureError):
            self._run.faults.append(sent)
            return self._said(UNREADABLE_PICTURE, f"left out a picture: {sent}")
        size = len(sent) if sent.startswith("data:") else 0
        if size > max(0, self._bytes) and self._room < self._run.budget.images:
            self.close()  # but the newest is sent, however large
            return self._said(PICTURE_FROM_EARLIER, "left out a picture to make room for newer")
        self._room -= 1
        self._bytes -= size
        if sent is url:
            return part
        self._reasons["made a picture as the model sees it"] = None
        inner = image_in(part) or {}
        image = inner["image_url"]
        made = {**inner, "image_url": sent if isinstance(image, str) else {**image, "url": sent}}
        return made if inner is part else {**part, "content": made}

    def _said(self, text: str, reason: str) -> Part:
        self._reasons[reason] = None
        return {"type": "text", "text": text}


def _first_with_pictures(messages: Sequence[Message], run: Run) -> int:
    """The place of the first message whose pictures may be sent.

    The last turn begins behind the last answer that the user has followed. Words before a call,
    and words that are still to be finished, are no answer yet.
    """
    if not run.budget.last_turn_only:
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
    """The URL of a picture; None for a part that is none."""
    inner = image_in(cast("Part", part)) if isinstance(part, dict) else None
    if inner is None:
        return None
    image = inner.get("image_url")
    url = cast("Part", image).get("url") if isinstance(image, dict) else image
    return url if isinstance(url, str) else None
