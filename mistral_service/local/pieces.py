"""The pieces of an engine's answer, as data: the same for a script and for a model."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Json = dict[str, Any]

CHAT = "chat/completions"
"""The endpoint that answers a chat."""


@dataclass(frozen=True, slots=True)
class Delta:
    """One chunk of the reply: its `delta` object, verbatim: `{"content": "Hel"}`."""

    delta: Json


@dataclass(frozen=True, slots=True)
class End:
    """The last chunk.

    Parameters:
        finish_reason: `stop`, `length`, `tool_calls` or `error`.
        usage: The `usage` object, verbatim; None for an estimate.
        delta: The `delta` object that comes with it.
    """

    finish_reason: str | None = "stop"
    usage: Json | None = None
    delta: Json = field(default_factory=lambda: {"content": ""})


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error instead of a reply; only the first piece may be one.

    Parameters:
        status: The HTTP status.
        body: JSON, or text that is sent as it is.
        headers: Further headers.
    """

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def error(cls, message: str, kind: str, code: str | None, *, status: int = 400) -> "Refusal":
        """A refusal with the body of Mistral's errors: `kind` is its `type`."""
        body = {"object": "error", "message": message, "type": kind, "param": None, "code": code}
        return cls(status, {**body, "raw_status_code": status})


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes sent verbatim, in place of chunks."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause; before the first chunk, not even headers are sent."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers are sent now, with these further ones, and not with the first chunk."""

    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection breaks."""


Piece = Delta | End | Refusal | Raw | Wait | Headers | Cut


class Engine(Protocol):
    """Answers requests that have passed the checks."""

    def answer(self, request: Json) -> AsyncIterator[Piece]:
        """The pieces of the answer to a checked request, as they come.

        The iterator is closed when the client disconnects.
        """
        ...

    async def close(self) -> None:
        """Release what the engine holds."""
        ...


def usage_of(prompt_tokens: int, completion_tokens: int) -> Json:
    """The `usage` object of an answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
