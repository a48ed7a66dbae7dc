"""What the pipeline that people run costs with our service and with Pipecat's own: `make bench`.

User aggregator, service, voice, assistant aggregator; RTVI and metrics are on, as they are by
default in a bot. The voice cuts the reply into sentences and speaks none of them, so that what
remains is the cost of text; with `--piper` it speaks. The floor is the same pipeline with a
processor in the place of the service that pushes the same frames at the same times and does nothing
else.

Each figure is taken in a process of its own, all candidates at the same time, several times; the
table has the medians, and the median of the ratios to Pipecat's own in the same round.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

from speed import DELAYED, maker, server
from token_server import spoken

TOKENS, RATE = 200, 50.0
IN_PACE = 0.9
"""Frames for a token of our service, one for each read, where each token is read alone."""
WHO = ("token", "clause", "socket", "floor of token", "floor of clause", "theirs")
PIPER = "PIPER"
"""The environment variable that has Piper speak."""
NAMES = {
    "token": 'ours, `text_frames="token"`',
    "clause": 'ours, `text_frames="clause"`',
    "socket": "a bare socket and a JSON parser, in clauses",
    "floor of token": "the frames alone, one for each token",
    "floor of clause": "the frames alone, in clauses",
    "theirs": "Pipecat's own",
}


def service_of(who: str, base_url: str) -> Any:
    """The service of a candidate, or what takes its place."""
    if who not in ("token", "clause", "theirs"):
        maker("ours")  # imports what is imported beside it
        read = (lambda: read_from(base_url)) if who == "socket" else made_here
        return floor("token" if who == "floor of token" else "clause", read)
    if who == "theirs":
        return maker(who)(base_url)
    maker("ours")

    from mistral_service import MistralLLMService

    settings = MistralLLMService.Settings(text_frames=who)
    return MistralLLMService(api_key="k", base_url=base_url, settings=settings)


def floor(text_frames: str, tokens: Callable[[], AsyncIterator[str]]) -> Any:
    """A processor that pushes the frames of a reply as its tokens come."""
    from pipecat.frames.frames import (
        LLMContextFrame,
        LLMFullResponseEndFrame,
        LLMFullResponseStartFrame,
        LLMTextFrame,
    )
    from pipecat.processors.frame_processor import FrameProcessor
    from pipecat.utils.string import match_endofsentence

    from mistral_service.reply.clauses import CLAUSE_TIMEOUT, Clauses

    class Floor(FrameProcessor):
        async def process_frame(self, frame: Any, direction: Any) -> None:
            await super().process_frame(frame, direction)
            if not isinstance(frame, LLMContextFrame):
                await self.push_frame(frame, direction)
                return
            clauses = Clauses(match_endofsentence, CLAUSE_TIMEOUT * (text_frames == "clause"))
            await self.push_frame(LLMFullResponseStartFrame())
            async for token in tokens():
                if clauses.feed(token, time.monotonic()):
                    await self.push_frame(LLMTextFrame(clauses.take()))
            if text := clauses.take():
                await self.push_frame(LLMTextFrame(text))
            await self.push_frame(LLMFullResponseEndFrame())

    return Floor()


async def made_here() -> AsyncIterator[str]:
    """The tokens of a reply at their times."""
    began = time.monotonic()
    for number in range(TOKENS):
        await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        yield spoken(number)


async def read_from(base_url: str) -> AsyncIterator[str]:
    """The tokens of a reply as the server sends them."""
    port = int(base_url.rsplit(":", 1)[1].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
    rest = b""
    while data := await reader.read(65536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line == b"data: [DONE]":
                writer.close()
                return
            if line.startswith(b"data: "):
                yield json.loads(line[6:])["choices"][0]["delta"]["content"]


@asynccontextmanager
async def running(processors: Sequence[Any]) -> AsyncIterator[Any]:
    """A pipeline as people run it, RTVI and metrics on; yields its worker."""
    from pipecat.frames.frames import EndFrame
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineParams, PipelineWorker
    from pipecat.workers.runner import WorkerRunner

    worker = PipelineWorker(
        Pipeline(list(processors)),
        params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
        cancel_on_idle_timeout=False,
    )
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def on_pipeline_started(_worker: Any, _frame: Any) -> None:
        started.set()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    task = asyncio.create_task(runner.run())
    await started.wait()
    try:
        yield worker
    finally:
        await worker.queue_frame(EndFrame())
        await asyncio.wait_for(task, 30)


@asynccontextmanager
async def call(who: str, base_url: str) -> AsyncIterator[Any]:
    """A call as people build it; yields its voice."""
    service = service_of(who, base_url)  # the log is off from here on

    from pipecat.frames.frames import (
        LLMFullResponseEndFrame,
        LLMMessagesAppendFrame,
        LLMTextFrame,
        TTSAudioRawFrame,
    )
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.aggregators.llm_response_universal import (
        LLMContextAggregatorPair,
        LLMUserAggregatorParams,
    )
    from pipecat.services.settings import TTSSettings
    from pipecat.services.tts_service import TTSService
    from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies

    if piper := os.environ.get(PIPER):
        from pipecat.services.piper.tts import PiperTTSService as Base

        from mistral_service.demo.weights import PIPER_JOE

        settings = Base.Settings(voice="en_US-joe-medium")
        options = {"download_dir": PIPER_JOE.find(), "settings": settings}
    else:
        Base, settings = TTSService, TTSSettings(model=None, voice=None, language=None)
        options = {"sample_rate": 16000, "settings": settings}

    class Voice(Base):
        """Notes when sentences come; says nothing, or speaks as Piper does."""

        def __init__(self) -> None:
            super().__init__(**options)
            self.ended = asyncio.Event()
            self.sentences: list[tuple[float, float]] = []  # when it began at the server, and came
            self.frames = 0

        async def run_tts(self, text: str, context_id: str) -> AsyncIterator[Any]:
            at = re.match(r"\s*Train(\d+)", text)
            assert at is not None, text
            self.sentences.append((int(at[1]) / 1e6, time.monotonic()))
            if piper:
                async for frame in super().run_tts(text, context_id):
                    yield frame
            else:
                yield TTSAudioRawFrame(bytes(320), 16000, 1, context_id=context_id)

        async def process_frame(self, frame: Any, direction: Any) -> None:
            await super().process_frame(frame, direction)
            self.frames += isinstance(frame, LLMTextFrame)
            if isinstance(frame, LLMFullResponseEndFrame):
                self.ended.set()

        def delays(self) -> list[float]:
            """Milliseconds from what shows a sentence's end at the server to the voice."""
            # The first word of the next sentence shows it.
            return [(came - shown) * 1e3 for (_, came), (shown, _) in pairwise(self.sentences)]

        async def turn(self) -> None:
            self.ended.clear()
            self.sentences.clear()
            self.frames = 0
            message = {"role": "user", "content": "Which trains are there?"}
            await worker.queue_frame(LLMMessagesAppendFrame([message], run_llm=True))
            await asyncio.wait_for(self.ended.wait(), 60)

    voice = Voice()
    writes = LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies())
    user, assistant = LLMContextAggregatorPair(LLMContext(), user_params=writes)
    async with running([user, service, voice, assistant]) as worker:
        yield voice


async def cpu_per_token(who: str, base_url: str, sessions: int = 1) -> list[float]:
    """Microseconds of CPU for a token, and frames for a token."""
    async with contextlib.AsyncExitStack() as stack:
        voices = [await stack.enter_async_context(call(who, base_url)) for _ in range(sessions)]
        await asyncio.gather(*(voice.turn() for voice in voices))  # what is imported late is there
        before = time.process_time()
        await asyncio.gather(*(voice.turn() for voice in voices))
        spent = time.process_time() - before
    tokens = TOKENS * sessions
    return [spent / tokens * 1e6, sum(voice.frames for voice in voices) / tokens]


async def sentence_delay(who: str, base_url: str, sessions: int) -> list[float]:
    """Milliseconds that the end of a sentence is late: 99th percentile and median."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    async with contextlib.AsyncExitStack() as stack:
        voices = [await stack.enter_async_context(call(who, base_url)) for _ in range(sessions)]

        async def talk(voice: Any, wait: float) -> None:
            await asyncio.sleep(wait)
            await voice.turn()

        await voices[0].turn()  # what is imported late is there
        # Callers do not begin to speak all at once.
        await asyncio.gather(*(talk(voice, i / sessions) for i, voice in enumerate(voices)))
        # The first second is the crowd's arrival.
        late = sorted(ms for voice in voices for ms in voice.delays()[2:])
        return [late[int(len(late) * 0.99)], statistics.median(late)]


ONE = {"cpu_per_token": cpu_per_token, "sentence_delay": sentence_delay}


def measured(what: str, base_url: str, *more: int, who: Sequence[str] = WHO) -> list[list[float]]:
    """One measurement of each candidate, each in a process of its own, all at the same time.

    So what else the machine does, it does to all of them.
    """
    command = [sys.executable, __file__, "--one", what]
    processes = [
        subprocess.Popen(
            [*command, each, base_url, *map(str, more)], stdout=subprocess.PIPE, text=True
        )
        for each in who
    ]
    printed = [process.communicate(timeout=240)[0] for process in processes]
    return [[float(number) for number in lines.splitlines()[-1].split()] for lines in printed]


def cpu_table(times: int, base_url: str, sessions: int, candidates: Sequence[str]) -> None:
    """CPU for a token; of the candidates, the last is compared with."""
    print("| | CPU per token (µs) | ratio | frames per token |\n|---|---|---|---|")
    rounds = list[list[list[float]]]()
    while len(rounds) < times:
        taken = measured("cpu_per_token", base_url, sessions, who=candidates)
        by_token = dict(zip(candidates, taken, strict=True)).get("token")
        # Else the machine was too busy for the server to keep its pace.
        if by_token is None or by_token[1] > IN_PACE:
            rounds.append(taken)
    for at, who in enumerate(candidates):
        cpu, frames = map(statistics.median, zip(*(each[at] for each in rounds), strict=True))
        ratio = statistics.median(each[at][0] / each[-1][0] for each in rounds)
        print(f"| {NAMES.get(who, who)} | {cpu:.0f} | {ratio:.2f}× | {frames:.2f} |", flush=True)


def most_sessions(delay: Callable[[int], float], first: int = 8) -> int:
    """The most sessions whose sentences are in time: doubled until they are late, then halved in.

    Of three runs the least counts: what else the machine does can only add to it.
    """

    def in_time(count: int) -> bool:
        return any(delay(count) < DELAYED for _ in range(3))

    good, bad = 0, first
    while in_time(bad):
        good, bad = bad, bad * 2
    while bad - good > max(2, good // 16):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if in_time(middle) else (good, middle)
    return good


def sessions_table(base_url: str, candidates: Sequence[str]) -> None:
    """Sessions that one core carries; of the candidates, the last is compared with."""
    print(f"| | sessions on one core, p99 under {DELAYED:.0f} ms | ratio |\n|---|---|---|")
    found = dict[str, int]()
    for who in reversed(candidates):

        def delay(count: int, who: str = who) -> float:
            [[delay, _]] = measured("sentence_delay", base_url, count, who=[who])
            return delay

        found[who] = count = most_sessions(delay)
        print(
            f"| {NAMES.get(who, who)} | {count} | {count / found[candidates[-1]]:.1f}× |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument(
        "--sessions", type=int, default=4, help="calls in a process, for the CPU (default: 4)"
    )
    parser.add_argument("--only", choices=("cpu", "sessions"), help="one of the tables")
    parser.add_argument("--who", nargs="+", choices=WHO, default=WHO, help="the candidates")
    parser.add_argument(
        "--piper", action="store_true", help="have Piper speak, which takes its time"
    )
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.piper:
        os.environ[PIPER] = "1"
    if given.one:
        what, who, base_url, *more = given.one
        print(*asyncio.run(ONE[what](who, base_url, *map(int, more))))
    else:
        with server(tokens=TOKENS, rate=RATE, text="sentences") as address:
            if given.only != "sessions":
                cpu_table(given.times, address, given.sessions, given.who)
            if given.only != "cpu":
                sessions_table(address, given.who)
