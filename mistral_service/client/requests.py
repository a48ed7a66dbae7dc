"""Requests that are tried again within the time that their caller has."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from openai import AsyncOpenAI

from mistral_service.reply.events import Event
from mistral_service.reply.reader import ReplyReader
from mistral_service.reply.templates import TEMPLATES
from mistral_service.turn.deadline import now, within
from mistral_service.turn.retries import Attempts, Limits
from mistral_service.wire.chunks import Chunk
from mistral_service.wire.client import (
    CHAT,
    error_of,
    fetch_object,
    open_reply,
    place_of,
    read_chunks,
)
from mistral_service.wire.endpoint import endpoint_of
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.request import function_names

T = TypeVar("T")

_NOT_WHOLE = "the whole reply did not come"


class Requests:
    """Asks one address.

    Whether a fault is met with another attempt is decided where a call's turns decide it
    (`turn/retries.py`).
    """

    def __init__(self, client: AsyncOpenAI, limits: Limits) -> None:
        """Prepare to ask.

        Args:
            client: The client whose connections, key and headers are used.
            limits: How long a request may take, and how often it is tried.
        """
        self.client = client
        self.limits = limits
        self._accepted = False

    def parts_for(self, model: str) -> frozenset[str] | None:
        """The kinds of parts that a content may have; None for all of Mistral's."""
        return endpoint_of(self.client).of(model).parts

    async def one(self, path: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for one JSON object.

        Raises:
            MistralError: If there is none within the limits.
        """

        async def attempt(seconds: float) -> dict[str, Any]:
            connect = self.limits.connect
            async with asyncio.timeout(seconds):
                return await fetch_object(self.client, path, params, connect=connect)

        return await self.within_limits(attempt)

    async def whole(
        self,
        path: str,
        params: Mapping[str, Any],
        look: Callable[[list[Event]], list[Event]] = list,
    ) -> list[Event]:
        """Ask for a reply and wait for its end.

        It is streamed all the same: only so a connection that has died is told from a long reply.

        Args:
            path: The endpoint.
            params: What is asked.
            look: Looks at the events of a reply before it counts as one; may raise a
                `MistralError`.

        Raises:
            MistralError: If there is none within the limits.
        """

        async def attempt(seconds: float) -> list[Event]:
            told: list[Event] = []
            async with aclosing(self._attempt(path, params, seconds, whole=True)) as reads:
                async for events in reads:
                    told += events
            return look(told)

        return await self.within_limits(attempt)

    async def stream(self, path: str, params: Mapping[str, Any]) -> AsyncGenerator[Event]:
        """Ask for a reply and take it as it comes.

        A fault before its first event is met with another attempt, a later one is raised: what was
        given away cannot be taken back.

        Raises:
            MistralError: If there is no reply within the limits, or it breaks.
        """
        attempts = Attempts(self.limits, now())
        began = False
        while True:
            try:
                seconds = attempts.first_token_within(now())
                async with aclosing(self._attempt(path, params, seconds)) as reads:
                    async for events in reads:
                        for event in events:
                            began = True
                            yield event
                self._accepted = True
                return
            except Exception as e:
                error = self.understood(e)
                if began:
                    raise error from None
                await _pause(attempts, error)

    async def within_limits(self, attempt: Callable[[float], Awaitable[T]]) -> T:
        """Make an attempt, and others after it where that is worth while.

        Args:
            attempt: The attempt; it is told how many seconds it may take to its first output.

        Raises:
            MistralError: If none succeeds.
        """
        attempts = Attempts(self.limits, now())

        async def until_there_is_one() -> T:
            while True:
                try:
                    answer = await attempt(attempts.first_token_within(now()))
                except Exception as e:
                    await _pause(attempts, self.understood(e))
                else:
                    self._accepted = True
                    return answer

        return await within(self.limits.whole, until_there_is_one(), _NOT_WHOLE)

    def understood(self, exception: Exception) -> MistralError:
        """An exception as a `MistralError` without anything secret in it; others are raised."""
        error = error_of(exception, self.client)
        if error is None:
            raise exception
        return error.with_key_accepted_before() if self._accepted else error

    async def _attempt(
        self, path: str, params: Mapping[str, Any], seconds: float, *, whole: bool = False
    ) -> AsyncGenerator[list[Event]]:
        """The events of each read; with `whole`, of all of them at the end."""
        until = now() + seconds
        left = self.limits.whole
        offered = function_names(params.get("tools") or [])
        model = (place_of(self.client), str(params.get("model")))
        # Code that is filled in may hold what would be a marker in a conversation.
        chats = path == CHAT
        in_thought = chats and TEMPLATES.begins_in_thought(model)
        reader = ReplyReader(offered, begins_in_thought=in_thought, markup=chats)
        read: list[Chunk] = []
        waited = "no first token came"
        try:
            async with asyncio.timeout_at(until):
                connect = self.limits.connect
                stream = await open_reply(self.client, params, connect=connect, path=path)
        except TimeoutError:
            raise MistralError(Reason.TIMEOUT, f"{waited} in {seconds:g} s") from None
        try:
            async with aclosing(read_chunks(stream)) as reads:
                while True:
                    began = now()
                    try:
                        # Around each read and nothing else: the time of whoever takes the events
                        # is not the server's.
                        async with asyncio.timeout_at(min(until, began + left)):
                            chunks = await anext(reads, None)
                    except TimeoutError:
                        if now() < until:
                            waited, seconds = _NOT_WHOLE, self.limits.whole
                        raise MistralError(Reason.TIMEOUT, f"{waited} in {seconds:g} s") from None
                    left -= now() - began
                    if chunks is None:
                        break
                    progress = reader.progress
                    events = reader.feed_all(chunks)
                    if whole:
                        read += chunks
                    elif events:
                        yield events
                    if reader.progress > progress:
                        waited, seconds = "nothing more came", self.limits.stall
                        until = now() + seconds
        finally:
            await stream.close()
        events = reader.finish()
        TEMPLATES.learn(model, reader.begins_in_thought)
        if whole:
            # In one piece a thought is one, also where its end alone says so.
            reader = ReplyReader(offered, begins_in_thought=in_thought, markup=chats)
            events = [*reader.feed_all(read), *reader.finish()]
        if reader.broken is not None:
            raise MistralError(Reason.STREAM, f"the reply ended with {reader.broken!r}")
        yield events


async def _pause(attempts: Attempts, error: MistralError) -> None:
    """Wait for the next attempt; without one, raise what went wrong."""
    again = attempts.after(error, now())
    if again is None:
        raise error from None
    await asyncio.sleep(again.delay)
