"""One raw request, and its answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mistral_service.turn.prices import Price
from mistral_service.wire.chunks import Usage
from mistral_service.wire.errors import printable
from mistral_service.wire.trees import Json, first_of, last_of, list_of, object_of, objects_of

MOST_SAID = 200
"""Characters of a message that are kept."""

_CHARACTERS_PER_TOKEN = 3
_IMAGE_TOKENS = 300
_TEMPLATE_TOKENS = 12  # the template's own, around a message


@dataclass(frozen=True)
class Request:
    """A request, as it is sent.

    Parameters:
        body: The body without the model, which is added; None for a GET request.
        path: The endpoint, without the version.
        model: Replaces the model under test.
        key: Replaces the valid key.
        leave_after: Chunks of the stream after which the connection is closed.
        if_refused: Whether it is sent only if the request before it was refused.
    """

    body: Json | None
    path: str = "chat/completions"
    model: str | None = None
    key: str | None = None
    leave_after: int | None = None
    if_refused: bool = False

    def sent(self, model: str) -> Json:
        """The body with the model."""
        return {"model": self.model or model, **(self.body or {})}

    @property
    def tokens(self) -> tuple[int, int]:
        """An upper estimate: tokens of the request, and the most of the reply."""
        if self.body is None or self.key is not None or self.model is not None:
            return 0, 0
        messages = list_of(self.body.get("messages"))
        prompt = sum(_TEMPLATE_TOKENS + _size(message) for message in messages)
        prompt += _size(self.body.get("tools") or [])
        replies = self.body.get("n") or 1
        return prompt, replies * (self.body.get("max_tokens") or 0)

    def cost(self, price: Price) -> float:
        """The most that it costs, in dollars, by a price."""
        prompt, completion = self.tokens
        return price.of(Usage(prompt, completion, prompt + completion))


@dataclass(frozen=True)
class Refused:
    """How a request was refused.

    Parameters:
        status: The HTTP status.
        form: The form of the body: `object` (`{"object": "error", "message": …}`), `detail`
            (`{"detail": […]}` or a text), `error` (`{"error": {…}}`), `message`, `text`, `other`.
        code: The error's `code`, verbatim: a string, a number, or None.
        type: The error's `type`; for a list of errors, that of the first.
        message: The error's message, bounded in length.
    """

    status: int
    form: str
    code: str | int | None = None
    type: str | None = None
    message: str = ""

    @classmethod
    def from_json(cls, data: Json) -> "Refused":
        """Read a refusal of a report.

        Raises:
            ValueError: If status and form are not those of a refusal.
        """
        status, form = data.get("status"), data.get("form")
        if not isinstance(status, int) or not 300 <= status <= 599 or not isinstance(form, str):
            raise ValueError(f"a refusal with the status {status!r} and the form {form!r}")
        return _of_object(status, form, data)

    def __str__(self) -> str:
        names = [str(self.status)]
        if self.code is not None and str(self.code) != str(self.status):
            names.append(f"code {self.code}")
        if self.type is not None:
            names.append(self.type)
        words = f": {self.message}" if self.message else ""
        return f"refused with {', '.join(names)}{words}"


@dataclass(frozen=True)
class Answer:
    """The answer to a request.

    Parameters:
        status: The HTTP status; None where there was no answer.
        headers: The answer's headers, names in lower case.
        body: The body, decoded from JSON; its text where it is not JSON; None for a stream.
        chunks: The events of a stream that are JSON.
        done: Whether the stream ended with `[DONE]`.
        garbled: The number of events that are neither.
        raw: The bytes of a stream.
        fault: Why there is no answer, in a few words.
        skipped: Whether the request was not sent, since the one before it was accepted.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Any = None
    chunks: tuple[Json, ...] = ()
    done: bool = False
    garbled: int = 0
    raw: bytes = b""
    fault: str = ""
    skipped: bool = False

    @property
    def accepted(self) -> bool:
        """Whether the server accepted the request."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def refused(self) -> Refused | None:
        """The refusal; None if it was accepted, or there was no answer."""
        if self.status is None or self.accepted:
            return None
        return _read(self.status, self.body)

    @property
    def choices(self) -> list[Json]:
        """The choices of a reply that was not streamed."""
        return objects_of(object_of(self.body).get("choices"))

    @property
    def message(self) -> Json:
        """The first choice's message of a reply that was not streamed."""
        return object_of(first_of(self.choices).get("message"))

    @property
    def streamed(self) -> list[Json]:
        """The pieces of the choices of a stream, in order."""
        return [piece for chunk in self.chunks for piece in objects_of(chunk.get("choices"))]

    @property
    def deltas(self) -> list[Json]:
        """The deltas of the first choice of a stream, in order."""
        return [object_of(piece.get("delta")) for piece in self.streamed if not piece.get("index")]

    @property
    def text(self) -> str:
        """The text of the reply, without its thoughts."""
        contents = [delta.get("content") for delta in self.deltas] or [self.message.get("content")]
        return "".join(map(_words, contents))

    @property
    def calls(self) -> list[Json]:
        """The function calls of the reply: the entries of `tool_calls`, in all deltas."""
        sources = self.deltas or [self.message]
        return [call for source in sources for call in objects_of(source.get("tool_calls"))]

    @property
    def finish_reason(self) -> str | None:
        """Why the reply ended; None where it is not reported."""
        reasons = [choice.get("finish_reason") for choice in self.streamed or self.choices]
        return next((str(reason) for reason in reversed(reasons) if reason), None)

    @property
    def usage(self) -> Json:
        """The last reported usage; empty where there is none."""
        reported = [object_of(chunk.get("usage")) for chunk in self.chunks]
        reported = [*reported, object_of(object_of(self.body).get("usage"))]
        return last_of([usage for usage in reported if usage])


def _read(status: int, body: Any) -> Refused:
    if isinstance(body, str):
        return Refused(status, "text", message=printable(body, MOST_SAID))
    data = object_of(body)
    if isinstance(data.get("error"), dict):
        return _of_object(status, "error", object_of(data["error"]))
    if "detail" in data:
        detail = data["detail"]
        first = first_of(detail)
        said = first.get("msg") if first else detail
        kind = first.get("type")
        place = ".".join(str(each) for each in list_of(first.get("loc"))[1:])
        words = f"{place}: {said}" if place else _text(said)
        return Refused(status, "detail", type=_name(kind), message=printable(words, MOST_SAID))
    if data.get("object") == "error":
        return _of_object(status, "object", data)
    if "message" in data:
        return _of_object(status, "message", data)
    return Refused(status, "other", message=printable(_text(body), MOST_SAID))


def _of_object(status: int, form: str, data: Json) -> Refused:
    code = data.get("code")
    return Refused(
        status,
        form,
        code if isinstance(code, str | int) else None,
        _name(data.get("type")),
        printable(_text(data.get("message")), MOST_SAID),
    )


def _size(value: Any) -> int:
    """Tokens of a part of a request, estimated; the bytes of images do not count."""
    if parts := list_of(value):
        return sum(map(_size, parts))
    data = object_of(value)
    if data.get("type") == "image_url":
        return _IMAGE_TOKENS
    if isinstance(data.get("content"), list):
        return _TEMPLATE_TOKENS + _size(data["content"])
    return len(json.dumps(value, ensure_ascii=False)) // _CHARACTERS_PER_TOKEN + 1


def _words(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [part for part in objects_of(content) if part.get("type") == "text"]
    return "".join(_text(part.get("text")) for part in parts)


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
