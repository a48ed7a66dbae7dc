"""One request, or two in parallel: the first to speak wins.

`turn/hedge.py` decides when the second one goes out.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from openai import AsyncStream

from mistral_service.reply.events import Event
from mistral_service.reply.reader import ReplyReader
from mistral_service.turn.portions import in_portions
from mistral_service.wire.chunks import Chunk
from mistral_service.wire.client import read_chunks

Stream = AsyncStream[Any] | AsyncIterator[Any]

T = TypeVar("T")


class Request(Generic[T]):
    """One request and its reply, as far as it has been read.

    `send` returns its stream, a note for the caller, and what reads the reply.

    Attributes:
        reader: What has read the reply.
        stream: The reply's stream; None until its headers are there.
        note: What the sender has noted of the request; None until it is sent.
        spoke: Whether there was any output: words that a voice can say, thoughts, a call.
    """

    def __init__(self, send: Callable[[], Awaitable[tuple[Stream, T, ReplyReader]]]) -> None:
        self.reader = ReplyReader()
        self.stream: Stream | None = None
        self.note: T | None = None
        self.spoke = False
        self._send = send
        self._chunks: AsyncGenerator[list[Chunk]] | None = None
        self._first: list[Event] = []

    async def begin(self) -> None:
        """Send it, and read until it says something, or ends; closed, if that fails."""
        try:
            self.stream, self.note, self.reader = await self._send()
            self._chunks = in_portions(read_chunks(self.stream))
            async for chunks in self._chunks:
                self._first += self.reader.feed_all(chunks)
                if self.reader.progress or self.reader.calling:
                    self.spoke = True
                    return
        except BaseException:
            await self.close()
            raise

    async def events(self) -> AsyncGenerator[list[Event]]:
        """The events of each read, from the first that says something."""
        if self._chunks is not None:
            yield self._first
            async for chunks in self._chunks:
                yield self.reader.feed_all(chunks)

    async def close(self) -> None:
        """Close the connection, or let it serve the next request if the reply was read whole."""
        if self._chunks is not None:
            await self._chunks.aclose()
        for name in ("close", "aclose"):
            close = getattr(self.stream, name, None)
            if close is not None:
                await close()
                return


async def first_to_speak(
    request: Request[T],
    after: float | None,
    second: Callable[[], Request[T] | None],
    lost: Callable[[Exception], Awaitable[None]],
) -> Request[T]:
    """Begin a request, and hedge it with another if it is late.

    Args:
        request: What goes out first.
        after: Seconds of silence after which `second` is asked for another; None for never.
        second: Makes the other request, or none.
        lost: Told of a request that failed while the other goes on.

    Returns:
        The request that spoke first, or the last to end without a word. The other is closed, and
        both are where this is cancelled or fails.

    Raises:
        Exception: What the last of them failed with.
    """
    running = {asyncio.create_task(request.begin()): request}
    won: Request[T] | None = None
    silent: Request[T] | None = None
    try:
        while True:
            done, _ = await asyncio.wait(
                running, timeout=after, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                after = None
                other = second()
                if other is not None:
                    running[asyncio.create_task(other.begin())] = other
            for task in done:
                ended = running[task]
                failure = task.exception()
                if failure is None and ended.spoke:
                    won = ended
                    return won
                del running[task]
                if failure is None:
                    silent = ended
                elif running and isinstance(failure, Exception):
                    await lost(failure)
                elif silent is None:
                    raise failure
            if not running and silent is not None:
                won = silent
                return won
    finally:
        others = {task: each for task, each in running.items() if each is not won}
        for task in others:
            task.cancel()
        left = [silent] if silent is not won else []
        try:
            await asyncio.gather(*others, return_exceptions=True)
        except BaseException:
            left.append(won)  # interrupted by now: no one takes it
            raise
        finally:
            # Those that are still running close what they have opened.
            left += [each for task, each in others.items() if task.done()]
            for each in left:
                if each is not None:
                    await each.close()
