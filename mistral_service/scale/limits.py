"""Limits for each caller: the size and rate of its messages, and the time of its handshake.

A message is checked before the bot gets it. Audio that comes too fast is delayed; a message that no
honest client sends ends the call with a sentence.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from google.protobuf.message import DecodeError
from loguru import logger
from pipecat.frames.protobufs import frames_pb2

MAX_MESSAGE = 65_536
"""Bytes of a message: two seconds of 16 kHz audio; a client sends 20 ms."""
MAX_FIRST_MESSAGE = 1_000_000
"""Bytes of the first message, which repeats the words of a reply."""
MAX_FILE = 2_097_152
"""Bytes of a `send-file`: an image of 1.5 MB. Pipecat blocks the event loop for 15 ms with it."""
WS_MAX_SIZE = max(MAX_MESSAGE, MAX_FIRST_MESSAGE, MAX_FILE) + 1
"""The server's own limit in bytes: with one byte too many we can refuse a message in words."""
MAX_TEXT = 10_000
"""Characters that a caller may write at once: some ten minutes of speech."""

BYTES_PER_SECOND, BYTES_BURST = 524_288, 8_388_608
MESSAGES_PER_SECOND, MESSAGES_BURST = 200, 1_000
"""Beyond this the sender waits. A second of 48 kHz stereo is 50 messages with 192 kB."""
TEXT_PER_SECOND, TEXT_BURST = 1_000, 50_000
"""Characters written into the conversation; typing and speech are a tenth of that."""

TOO_FAST, TOO_LARGE = 1008, 1009
"""Close codes."""

_SENTENCES = {
    "message": f"A message has {{}} bytes: allowed are {MAX_MESSAGE}.",
    "hello": f"The first message has {{}} bytes: allowed are {MAX_FIRST_MESSAGE}.",
    "file": f"A send-file has {{}} bytes: allowed are {MAX_FILE}. Send a smaller image.",
    "text": f"A text has {{}} characters: allowed are {MAX_TEXT}.",
    "flood": f"Too much text: allowed are {TEXT_PER_SECOND} characters a second.",
}


class LimitExceeded(Exception):
    """A message that ends its call; the text is the sentence for its sender."""

    def __init__(self, kind: str, size: int = 0) -> None:
        """Make it for a key of the sentences above."""
        super().__init__(_SENTENCES[kind].format(size))
        self.code = TOO_FAST if kind == "flood" else TOO_LARGE


class TokenBucket:
    """A rate limit with bursts."""

    def __init__(self, rate: float, burst: float) -> None:
        """Make a full bucket for `rate` tokens a second, and `burst` tokens at once."""
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._when: float | None = None

    def take(self, tokens: float, now: float) -> float:
        """Take tokens, also where there are too few; returns the seconds until they are there."""
        passed = 0.0 if self._when is None else now - self._when
        self._tokens = min(self._burst, self._tokens + passed * self._rate) - tokens
        self._when = now
        return max(0.0, -self._tokens / self._rate)


class MessageLimiter:
    """Checks the messages of one caller."""

    def __init__(self) -> None:
        self._bytes = TokenBucket(BYTES_PER_SECOND, BYTES_BURST)
        self._messages = TokenBucket(MESSAGES_PER_SECOND, MESSAGES_BURST)
        self._text = TokenBucket(TEXT_PER_SECOND, TEXT_BURST)
        self._warned = False

    def check(self, data: str | bytes, now: float, longest: int = MAX_MESSAGE) -> float | None:
        """Check a message at a time in seconds; a `send-file` may be longer than `longest` bytes.

        Returns:
            Seconds until it may be passed on; None for a message that is dropped.

        Raises:
            LimitExceeded: If it ends the call.
        """
        size = len(data)
        if isinstance(data, str) or _is_audio(data):
            if size > longest:
                raise LimitExceeded("message" if longest == MAX_MESSAGE else "hello", size)
        elif size > MAX_FILE:
            raise LimitExceeded("file", size)
        elif not self._check_frame(data, now):
            return None
        return max(self._bytes.take(size, now), self._messages.take(1, now))

    def _check_frame(self, data: bytes, now: float) -> bool:
        kind, message = _parsed(data)
        written = ""
        is_file = message.get("type") == "send-file"
        if len(data) > MAX_MESSAGE and not is_file:
            raise LimitExceeded("message", len(data))
        if kind == "text":
            # Pipecat would have the bot say it, and add it to the context as the bot's.
            if not self._warned:
                self._warned = True
                logger.warning("A caller sends TextFrames, which are the bot's to send: dropped")
            return False
        if kind == "transcription":
            written = message["text"]
        elif is_file or message.get("type") == "send-text":
            content = message.get("data")
            inner = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
            written = inner.get("content")
        if isinstance(written, str) and written:
            if len(written) > MAX_TEXT:
                raise LimitExceeded("text", len(written))
            if self._text.take(len(written), now):
                raise LimitExceeded("flood")
        return True


def _is_audio(data: bytes) -> bool:
    """Whether it is an audio frame of Pipecat's, and nothing else."""
    if data[:1] != b"\x12":  # field 2 with its length: no field after it may replace it
        return False
    size = shift = 0
    for at in range(1, min(len(data), 6)):
        size |= (data[at] & 127) << shift
        shift += 7
        if data[at] < 128:
            return len(data) == at + 1 + size
    return False


def _parsed(data: bytes) -> tuple[str | None, Mapping[str, Any]]:
    """The kind and fields of a frame; no kind for bytes that are not a frame of Pipecat's."""
    try:
        frame: Any = cast(Any, frames_pb2).Frame.FromString(data)
        kind = frame.WhichOneof("frame")
        if kind == "transcription":
            return kind, {"text": frame.transcription.text}
        fields: object = json.loads(frame.message.data) if kind == "message" else None
    except DecodeError:
        return None, {}  # the bot has its own serializer
    except (ValueError, RecursionError):
        return "message", {}
    return kind, cast("dict[str, Any]", fields) if isinstance(fields, dict) else {}


class Full(Exception):
    """The process has as many calls, or as many newer handshakes, as it may have."""


class PendingHandshakes:
    """Connections without a first message. The oldest is evicted where there are too many."""

    def __init__(self, limit: Callable[[], int]) -> None:
        """Make it; `limit` says how many connections may wait now."""
        self._limit = limit
        self._deadlines: dict[asyncio.Timeout, None] = {}

    @asynccontextmanager
    async def handshake(self, seconds: float) -> AsyncGenerator[None]:
        """Limit the handshake in the `async with` block to some seconds.

        Raises:
            Full: If newer handshakes are too many.
            TimeoutError: If it takes too long.
        """
        evicted = False
        try:
            async with asyncio.timeout(seconds) as deadline:
                self._deadlines[deadline] = None
                if len(self._deadlines) > self._limit():
                    oldest = next(iter(self._deadlines))
                    del self._deadlines[oldest]
                    oldest.reschedule(asyncio.get_running_loop().time())
                try:
                    yield
                finally:
                    evicted = deadline not in self._deadlines
                    self._deadlines.pop(deadline, None)
        except TimeoutError:
            raise Full if evicted else TimeoutError from None
