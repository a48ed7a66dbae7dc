"""What an engine's answer is made of, as data: the same for a script and for a model."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delta:
    """One chunk of the reply.

    Parameters:
        delta: The `delta` object, verbatim: `{"content": "Hel"}`.
    """

    delta: Json


@dataclass(frozen=True, slots=True)
class End:
    """The last chunk.

    Parameters:
        finish_reason: Mistral's word: `stop`, `length`, `tool_calls`, `error`.
        usage: Verbatim `usage` object; None has it counted.
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


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes sent as they are, in place of chunks.

    Parameters:
        data: The bytes.
    """

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is sent for a while; before the first chunk, not even headers.

    Parameters:
        seconds: How long.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers go out now, not with the first chunk.

    Parameters:
        headers: Further headers.
    """

    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection breaks."""


Piece = Delta | End | Refusal | Raw | Wait | Headers | Cut


class Engine(Protocol):
    """Answers requests that have passed the checks."""

    def answer(self, request: Json) -> AsyncIterator[Piece]:
        """Answer one request.

        Args:
            request: The request's body, checked.

        Returns:
            The pieces of the answer, in time. The iterator is closed early when the client leaves.
        """
        ...

    async def close(self) -> None:
        """Release what the engine holds."""
        ...
