"""What one caller may send, and how long one may wait before it says who it is: no one else waits.

A message is judged before the bot sees it. Sound that comes too fast waits; what no honest client
sends ends the call with a sentence.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from google.protobuf.message import DecodeError
from loguru import logger
from pipecat.frames.protobufs import frames_pb2

MESSAGE_LONGEST = 65_536
"""Bytes of a message: two seconds of 16 kHz; a client sends 20 ms."""
HELLO_LONGEST = 1_000_000
"""Bytes of the first message, which repeats the words of a reply."""
FILE_LONGEST = 2_097_152
"""Bytes of a `send-file`: an image of 1.5 MB. Pipecat takes 15 ms of the event loop for it."""
LARGEST = max(MESSAGE_LONGEST, HELLO_LONGEST, FILE_LONGEST) + 1
"""Bytes of which a server need hold no more: one byte too many is enough to refuse it in words."""
TEXT_LONGEST = 10_000
"""Characters that a caller may write at once: some ten minutes of speech."""

BYTES_A_SECOND, BYTES_AT_ONCE = 524_288, 8_388_608
MESSAGES_A_SECOND, MESSAGES_AT_ONCE = 200, 1_000
"""What is over waits, and so does its sender: 20 ms of 48 kHz stereo are 50 messages, 192 kB."""
TEXT_A_SECOND, TEXT_AT_ONCE = 1_000, 50_000
"""Characters written into the conversation; no one types, or speaks, a tenth of that."""

TOO_FAST, TOO_LARGE = 1008, 1009
"""Close codes."""

_SENTENCES = {
    "message": f"A message has {{}} bytes: allowed are {MESSAGE_LONGEST}.",
    "hello": f"The first message has {{}} bytes: allowed are {HELLO_LONGEST}.",
    "file": f"A send-file has {{}} bytes: allowed are {FILE_LONGEST}. Send a smaller image.",
    "text": f"A text has {{}} characters: allowed are {TEXT_LONGEST}.",
    "flood": f"Too much text: allowed are {TEXT_A_SECOND} characters a second.",
}


class TooMuch(Exception):
    """A message that ends its call; the text is the sentence for its sender."""

    def __init__(self, what: str, size: int = 0) -> None:
        """Say what is too much.

        Args:
            what: A key of the sentences above.
            size: How large it is.
        """
        super().__init__(_SENTENCES[what].format(size))
        self.code = TOO_FAST if what == "flood" else TOO_LARGE


class Bucket:
    """So much at once, and so much a second after that."""

    def __init__(self, rate: float, most: float) -> None:
        """Begin full.

        Args:
            rate: Units a second.
            most: Units at once.
        """
        self._rate = rate
        self._most = most
        self._left = most
        self._when: float | None = None

    def take(self, units: float, now: float) -> float:
        """Take some, also where there are not so many.

        Args:
            units: How many.
            now: The time, in seconds.

        Returns:
            Seconds until they are there.
        """
        passed = 0.0 if self._when is None else now - self._when
        self._left = min(self._most, self._left + passed * self._rate) - units
        self._when = now
        return max(0.0, -self._left / self._rate)


class Meter:
    """Judges the messages of one caller."""

    def __init__(self) -> None:
        self._bytes = Bucket(BYTES_A_SECOND, BYTES_AT_ONCE)
        self._messages = Bucket(MESSAGES_A_SECOND, MESSAGES_AT_ONCE)
        self._text = Bucket(TEXT_A_SECOND, TEXT_AT_ONCE)
        self._warned = False

    def weigh(self, data: str | bytes, now: float, longest: int = MESSAGE_LONGEST) -> float | None:
        """Judge a message.

        Args:
            data: The message.
            now: The time, in seconds.
            longest: Bytes that it may have; a `send-file` may have more.

        Returns:
            Seconds until it may be handed on; None for a message that no caller may send.

        Raises:
            TooMuch: If the call ends with it.
        """
        size = len(data)
        if isinstance(data, str) or _is_sound(data):
            if size > longest:
                raise TooMuch("message" if longest == MESSAGE_LONGEST else "hello", size)
        elif size > FILE_LONGEST:
            raise TooMuch("file", size)
        elif not self._may_say(data, now):
            return None
        return max(self._bytes.take(size, now), self._messages.take(1, now))

    def _may_say(self, data: bytes, now: float) -> bool:
        kind, message = _parsed(data)
        written = ""
        is_file = message.get("type") == "send-file"
        if len(data) > MESSAGE_LONGEST and not is_file:
            raise TooMuch("message", len(data))
        if kind == "text":
            # Pipecat would have the bot say it, and write it down as the bot's.
            if not self._warned:
                self._warned = True
                logger.warning("A caller sends TextFrames, which are the bot's to send: dropped")
            return False
        if kind == "transcription":
            written = message["text"]
        elif is_file or message.get("type") == "send-text":
            content: Any = message.get("data")
            written = cast("dict[str, Any]", content).get("content") if _is_map(content) else ""
        if isinstance(written, str) and written:
            if len(written) > TEXT_LONGEST:
                raise TooMuch("text", len(written))
            if self._text.take(len(written), now):
                raise TooMuch("flood")
        return True


def _is_map(value: object) -> bool:
    return isinstance(value, dict)


def _is_sound(data: bytes) -> bool:
    """Whether it is a frame of Pipecat's with sound in it and with nothing else."""
    if data[:1] != b"\x12":  # field 2, counted: nothing that follows may replace it
        return False
    size = shift = 0
    for at in range(1, min(len(data), 6)):
        size |= (data[at] & 127) << shift
        shift += 7
        if data[at] < 128:
            return len(data) == at + 1 + size
    return False


def _parsed(data: bytes) -> tuple[str | None, Mapping[str, Any]]:
    """The kind of a frame, and what it says; nothing of bytes that are no frame of Pipecat's."""
    try:
        frame: Any = cast(Any, frames_pb2).Frame.FromString(data)
        kind = frame.WhichOneof("frame")
        if kind == "transcription":
            return kind, {"text": frame.transcription.text}
        told: object = json.loads(frame.message.data) if kind == "message" else None
    except DecodeError:
        return None, {}  # a bot with a serializer of its own
    except (ValueError, RecursionError):
        return "message", {}
    return kind, cast("dict[str, Any]", told) if isinstance(told, dict) else {}


class HalfOpen(Exception):
    """A line gave way to newer ones before it said who it is."""


class Waiting:
    """Lines that have not said yet who they are. The oldest gives way where there are too many."""

    def __init__(self, most: int) -> None:
        """Begin without any.

        Args:
            most: How many may wait.
        """
        self._most = most
        self._lines: dict[asyncio.Timeout, None] = {}

    def __len__(self) -> int:
        return len(self._lines)

    @asynccontextmanager
    async def line(self, seconds: float) -> AsyncGenerator[None]:
        """Wait for what a line has to say.

        Args:
            seconds: How long it has.

        Raises:
            HalfOpen: If it has to give way.
            TimeoutError: If its time is up.
        """
        loop = asyncio.get_running_loop()
        gave_way = False
        try:
            async with asyncio.timeout(seconds) as deadline:
                self._lines[deadline] = None
                if len(self._lines) > self._most:
                    oldest = next(iter(self._lines))
                    del self._lines[oldest]
                    oldest.reschedule(loop.time())
                try:
                    yield
                finally:
                    gave_way = deadline not in self._lines
                    self._lines.pop(deadline, None)
        except TimeoutError:
            raise HalfOpen if gave_way else TimeoutError from None
