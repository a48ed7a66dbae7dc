"""Words as frames: in clauses, in order with thoughts and calls, exact when interrupted."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from call import Call
from clock import SimulatedLoop
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import (
    Frame,
    FunctionCallInProgressFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    LLMThoughtEndFrame,
    LLMThoughtStartFrame,
    LLMThoughtTextFrame,
)

from mistral_service import MistralLLMService
from mistral_service.local import LocalMistral, Reply, Script
from mistral_service.pipecat.frames import FrameWriter
from mistral_service.reply.clauses import CLAUSE_TIMEOUT

FIRST = ["Hello", " there", ".", " The"]
REST = [" train", " to", " Lyon", " leaves"]


class Service:
    """Notes what a writer pushes, and takes its time."""

    def __init__(self, text_frames: str | None = None, seconds: float = 0.0) -> None:
        self.pushed: list[str] = []
        self.recorded = ""
        self.timers = 0
        self.settings = MistralLLMService.Settings(text_frames=text_frames)
        self.has_voice, self.turn_markers = True, None
        self.service: Any = self
        self.seconds = seconds
        self.writer = FrameWriter(self, self._record)  # type: ignore[arg-type]
        self.writer.begin()

    def _record(self, text: str) -> None:
        self.recorded += text

    async def push_text(self, text: str) -> None:
        await asyncio.sleep(self.seconds)
        self.pushed.append(text)

    async def push_frame(self, frame: Frame) -> None:
        self.pushed.append(type(frame).__name__)

    async def stop_ttfb_metrics(self) -> None: ...

    async def stop_ttfat_metrics(self) -> None: ...

    def create_task(self, work: Any, name: str) -> asyncio.Task[None]:
        self.timers += 1
        return asyncio.create_task(work, name=name)

    async def write(self, *tokens: str, pause: float = 0.01) -> None:
        for token in tokens:
            await asyncio.sleep(pause)
            await self.writer.write_text(token)


def run(scene: Callable[[], Awaitable[None]]) -> None:
    """Run on a clock that jumps."""
    loop = SimulatedLoop()
    try:
        loop.run_until_complete(asyncio.ensure_future(scene(), loop=loop))
    finally:
        loop.close()


def test_words_behind_the_first_sentence_leave_as_one():
    async def scene() -> None:
        service = Service()
        await service.write(*FIRST, *REST)
        assert service.pushed == FIRST
        await service.writer.flush()
        assert service.pushed == [*FIRST, "".join(REST)]

    run(scene)


def test_of_token_each_leaves_at_once():
    async def scene() -> None:
        service = Service("token")
        await service.write(*FIRST, *REST)
        assert service.pushed == [*FIRST, *REST]

    run(scene)


def test_words_leave_by_a_timer_where_the_stream_pauses():
    async def scene() -> None:
        service = Service()
        await service.write(*FIRST, *REST)
        since = len(REST) * 0.01 - 0.01
        await asyncio.sleep(CLAUSE_TIMEOUT - since - 0.001)
        assert service.pushed == FIRST
        await asyncio.sleep(0.002)
        assert service.pushed == [*FIRST, "".join(REST)]
        await service.write(" at", " nine", " tomorrow")  # a slow word, and others that wait again
        await asyncio.sleep(2 * CLAUSE_TIMEOUT)
        assert service.pushed[len(FIRST) + 1 :] == [" at", " nine tomorrow"]

    run(scene)


def test_a_steady_stream_needs_no_timer():
    async def scene() -> None:
        service = Service()
        for number, token in enumerate([*FIRST, *(f" {number}" for number in range(200))]):
            await service.write(token, pause=0.02 + 0.003 * (number % 3 - 1))
        assert service.timers == 0
        assert len(service.pushed) < 60

    run(scene)


@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.5])
def test_words_keep_their_order_however_long_a_frame_takes(seconds: float):
    async def scene() -> None:
        service = Service(seconds=seconds)
        tokens = [*FIRST, *REST, *(f" {number}" for number in range(100))]
        for number, token in enumerate(tokens):
            await service.write(token, pause=(number % 7) * 0.04)
        await service.writer.flush()
        assert "".join(service.pushed) == "".join(tokens) == service.recorded

    run(scene)


def test_a_thought_comes_behind_the_words_before_it():
    async def scene() -> None:
        service = Service()
        await service.write(*FIRST, *REST)
        await service.writer.write_thought("Hm.")
        await service.write(" at")
        await service.writer.flush()
        thought = [each.__name__ for each in (LLMThoughtStartFrame, LLMThoughtTextFrame)]
        end = LLMThoughtEndFrame.__name__
        assert service.pushed == [*FIRST, "".join(REST), *thought, end, " at"]

    run(scene)


def test_words_before_a_call_leave_when_it_begins():
    async def scene() -> None:
        service = Service()
        await service.write(*FIRST, *REST)
        await service.writer.call_begins()
        assert service.pushed == [*FIRST, "".join(REST)]

    run(scene)


def test_words_that_wait_when_a_turn_ends_are_neither_pushed_nor_recorded():
    async def scene() -> None:
        service = Service()
        await service.write(*FIRST, *REST)
        service.writer.end()
        await asyncio.sleep(1)
        service.writer.begin()
        await service.write("Yes", "?")
        assert service.pushed == [*FIRST, "Yes", "?"]
        assert service.recorded == "".join(service.pushed)

    run(scene)


def test_a_frame_of_the_timer_is_stopped_with_the_turn():
    async def scene() -> None:
        service = Service()
        await service.write(*FIRST, *REST)
        service.seconds = 0.2
        await asyncio.sleep(CLAUSE_TIMEOUT)  # the timer's frame is on its way
        service.writer.end()
        await asyncio.sleep(1)
        assert service.pushed == FIRST
        assert service.recorded == "".join(FIRST)

    run(scene)


# --- in a pipeline ------------------------------------------------------------------------------

LONG = "One moment, please. " + " ".join(f"Number {n} is next, then another." for n in range(20))


def service_at(mistral: LocalMistral, **settings: Any) -> MistralLLMService:
    chosen = MistralLLMService.Settings(**settings)
    return MistralLLMService(api_key="k", base_url=mistral.base_url, settings=chosen)


@pytest.mark.parametrize("text_frames", ["token", "clause"])
async def test_a_reply_is_whole_between_its_first_and_its_last_frame(text_frames: str):
    with LocalMistral(Script(Reply(LONG, pause=0.002))) as mistral:
        async with Call(service_at(mistral, text_frames=text_frames)) as call:
            assert await call.say("Count.") == LONG
    kinds = [LLMFullResponseStartFrame, LLMTextFrame, LLMFullResponseEndFrame]
    kinds = [type(frame) for frame in call.frames if type(frame) in kinds]
    assert kinds[0] is LLMFullResponseStartFrame
    assert kinds[-1] is LLMFullResponseEndFrame
    assert set(kinds[1:-1]) == {LLMTextFrame}


async def test_words_come_before_the_function_that_is_called_behind_them():
    tool = FunctionSchema(name="clock", description="", properties={}, required=[])

    async def clock(params: Any) -> None:
        await params.result_callback("noon")

    replies = Reply(LONG, tool_calls=[{"name": "clock"}]), Reply("It is noon.")
    with LocalMistral(Script(*replies)) as mistral:
        service = service_at(mistral)
        service.register_function("clock", clock)
        async with Call(service, tools=[tool]) as call:
            await call.say("What time is it?", turns=2)
    begins = next(
        at for at, frame in enumerate(call.frames) if isinstance(frame, FunctionCallInProgressFrame)
    )
    before = [frame.text for frame in call.frames[:begins] if isinstance(frame, LLMTextFrame)]
    assert "".join(before) == LONG


async def test_nothing_is_said_behind_an_interruption():
    with LocalMistral(Script(Reply(LONG, stall_after=30))) as mistral:
        async with Call(service_at(mistral)) as call:
            await call.begin("Count.")
            await call.until(lambda: "Number 1" in call.words)
            await call.interrupt()
            await asyncio.sleep(2 * CLAUSE_TIMEOUT)
    at = next(n for n, frame in enumerate(call.frames) if isinstance(frame, InterruptionFrame))
    assert not any(isinstance(frame, LLMTextFrame) for frame in call.frames[at:])
    assert LONG.startswith(call.words)
    said = [m["content"] for m in call.context.get_messages() if m["role"] == "assistant"]
    assert said == [call.words.strip()]
