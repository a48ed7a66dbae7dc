"""Replies to the client's requests, by the same turns that answer a call."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import replace

from mistral_service.client.conversation import ClientRequest
from mistral_service.conversation.conversion import Conversion
from mistral_service.reply.calls import Plan, PlannedCall
from mistral_service.reply.events import Event, Text, Thought, ToolCall
from mistral_service.reply.reader import ReplyReader
from mistral_service.turn.deadline import now, within
from mistral_service.turn.hedge import Pace
from mistral_service.turn.ports import Functions, Output, TurnObserver, TurnPorts
from mistral_service.turn.race import Stream
from mistral_service.turn.router import Router
from mistral_service.turn.runner import TurnRunner
from mistral_service.turn.state import AttemptResult, TurnOptions, TurnState
from mistral_service.wire.chunks import Chunk, Usage
from mistral_service.wire.client import CHAT, open_reply
from mistral_service.wire.endpoint import endpoint_of
from mistral_service.wire.errors import MistralError, Reason

_NOT_WHOLE = "the whole reply did not come"


class Turns:
    """Runs the turns of a client."""

    def __init__(self, router: Router, options: TurnOptions) -> None:
        self._router = router
        self._options = options
        self._pace = Pace()
        self._conversion: ContextVar[Conversion] = ContextVar("conversion")

    async def whole(self, asked: ClientRequest, model: str) -> list[Event]:
        """Ask, and wait for the end of the reply.

        It is streamed all the same: only so a connection that has died differs from a long reply.
        """
        output, observer = _Collected(), _Observer()
        runner = self._runner(asked, model, output, observer, _WholeReader)
        seconds = self._options.limits.whole
        # In a task of its own, so that the caller's task keeps no route of it.
        running = asyncio.create_task(_answer(runner.run(asked)))
        result = await within(seconds, running, _NOT_WHOLE)
        reader = result.reader
        if isinstance(reader, _WholeReader) and reader.begins_in_thought and observer.is_plain:
            # In one piece a thought is one, also where its end alone says so.
            output.events = reader.in_one_piece()
        return [*output.events, *observer.end(result)]

    async def stream(self, asked: ClientRequest, model: str) -> AsyncGenerator[Event]:
        """Ask, and take the reply as it comes.

        A reply that is cut goes on after its words, where it can; otherwise the fault is raised
        once there were words: what was given away cannot be taken back.
        """
        output, observer = _Streamed(), _Observer()
        runner = self._runner(asked, model, output, observer)

        async def run() -> None:
            try:
                result = await _answer(runner.run(asked))
            except Exception as e:
                await output.queue.put(e)
            else:
                for event in observer.end(result):
                    await output.queue.put(event)
                await output.queue.put(None)

        def on_done(task: asyncio.Task[None]) -> None:
            if task.cancelled():  # by other code than this, which would wait in vain
                output.fail(MistralError(Reason.STREAM, "its task was cancelled"))

        task = asyncio.create_task(run())
        task.add_done_callback(on_done)
        left = whole = self._options.limits.whole
        try:
            while True:
                began = now()
                # Only the time that the reader waits is the server's.
                try:
                    async with asyncio.timeout(left):
                        item = await output.queue.get()
                except TimeoutError:
                    what = f"{_NOT_WHOLE} in {whole:g} s"
                    raise MistralError(Reason.TIMEOUT, what) from None
                left -= now() - began
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _runner(
        self,
        asked: ClientRequest,
        model: str,
        output: "_Collected",
        observer: "_Observer",
        reader: type[ReplyReader] = ReplyReader,
    ) -> TurnRunner[ClientRequest]:
        router = self._router.for_model(model)

        async def open_stream(asked: ClientRequest) -> Stream:
            route = router.route
            client = router.client(route)
            parts = endpoint_of(client).of(route.model).parts
            params, conversion = asked.params(route.model, parts)
            self._conversion.set(conversion)
            connect = self._options.limits.connect
            return await open_reply(client, params, connect=connect, path=asked.path)

        chats = asked.path == CHAT
        return TurnRunner(
            TurnPorts(
                name="MistralClient",
                options=lambda: self._options,
                open_stream=open_stream,
                conversion=lambda: self._conversion.get(Conversion()),
                output=output,
                functions=_HandedCalls(),
                router=router,
                observer=observer,
                pace=self._pace,
                # Code that is filled in may hold what would be a marker in a conversation.
                make_reader=lambda *a, **k: reader(*a, markup=chats, **k),
            )
        )


async def _answer(running: Awaitable[AttemptResult | None]) -> AttemptResult:
    result = await running
    if result is None:  # only a conversation that is recorded has been answered already
        raise MistralError(Reason.EMPTY)
    return result


class _Collected(Output):
    """Collects what a reply says."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @property
    def has_voice(self) -> bool:
        return False

    def end_of_sentence(self, text: str) -> int:
        return 0

    def is_speech(self, words: str) -> bool:
        return bool(words.strip())

    async def write_text(self, text: str) -> None:
        self.events.append(Text(text))

    async def write_thought(self, text: str, *, keep: bool = False) -> None:
        self.events.append(Thought(text))

    def discard(self) -> bool:
        self.events.clear()
        return True


class _Streamed(_Collected):
    """Hands on what a reply says, one event after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue(1)

    async def write_text(self, text: str) -> None:
        await self.queue.put(Text(text))

    async def write_thought(self, text: str, *, keep: bool = False) -> None:
        await self.queue.put(Thought(text))

    def fail(self, error: MistralError) -> None:
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(error)

    def discard(self) -> bool:
        return False


class _HandedCalls(Functions[ClientRequest]):
    """Hands calls to the caller of the client, who runs them."""

    def begin(self, conversation: ClientRequest, options: TurnOptions) -> bool:
        return True

    def plan(
        self,
        conversation: ClientRequest,
        calls: Sequence[ToolCall],
        left_out: int,
        *,
        offered: Collection[str] | None,
    ) -> Plan:
        return Plan([PlannedCall(call.id or "", call.name, {}) for call in calls])


class _Observer(TurnObserver[ClientRequest]):
    """Records what a turn took."""

    def __init__(self) -> None:
        self.usages: list[Usage] = []
        self.is_plain = False

    async def on_end(self, turn: TurnState[ClientRequest]) -> None:
        self.usages = turn.usages
        self.is_plain = turn.counts.attempts == 1

    def end(self, result: AttemptResult) -> list[Event]:
        """What comes after the words: the calls, and the end with the tokens of all attempts."""
        usage = Usage.total(self.usages) if self.usages else None
        return [*result.calls, *result.unreadable, replace(result.end, usage=usage)]


class _WholeReader(ReplyReader):
    """Reads a reply as it comes, and can read it again in one piece."""

    def __init__(self, *arguments: Collection[str], **options: int) -> None:
        super().__init__(*arguments, **options)
        self._again: Callable[[], ReplyReader] = lambda: ReplyReader(*arguments, **options)
        self._chunks: list[Chunk] = []

    def feed_all(self, chunks: Iterable[Chunk]) -> list[Event]:
        chunks = list(chunks)
        self._chunks += chunks
        return super().feed_all(chunks)

    def in_one_piece(self) -> list[Event]:
        reader = self._again()
        events = [*reader.feed_all(self._chunks), *reader.finish()]
        return [event for event in events if isinstance(event, Text | Thought)]
