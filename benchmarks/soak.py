"""A soak test: many conversations at once, with a model that often fails: `make soak`.

Each conversation has a service of its own in a pipeline of its own, with both aggregators, and says
"Turn 3 of conversation 7." The endpoint, in a process of its own, answers each turn with words that
are unique to it and with its function calls, or fails at random, in the same way for the same seed.
Every turn is compared with what it should be.

`docs/soak.md` has the results.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from loguru import logger  # noqa: E402

logger.remove()

import psutil  # noqa: E402
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema  # noqa: E402
from pipecat.frames.frames import (  # noqa: E402
    EndFrame,
    ErrorFrame,
    Frame,
    LLMContextAssistantTurnFrame,
    LLMFullResponseEndFrame,
    LLMMessagesAppendFrame,
    LLMTextFrame,
    MetricsFrame,
)
from pipecat.pipeline.pipeline import Pipeline  # noqa: E402
from pipecat.pipeline.worker import PipelineParams, PipelineWorker  # noqa: E402
from pipecat.processors.aggregators.llm_context import LLMContext  # noqa: E402
from pipecat.processors.aggregators.llm_response_universal import (  # noqa: E402
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor  # noqa: E402
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies  # noqa: E402
from pipecat.workers.runner import WorkerRunner  # noqa: E402

from mistral_service import MistralError, MistralLLMService, MistralTurnMetrics  # noqa: E402
from mistral_service.conversation.rules import CONTINUE_TEXT  # noqa: E402
from mistral_service.local import Reply  # noqa: E402
from mistral_service.local.app import create_app  # noqa: E402
from mistral_service.local.pieces import Json, Piece  # noqa: E402
from mistral_service.local.server import bind, serve  # noqa: E402

FUNCTIONS = ("note", "look")
TOOLS = [
    FunctionSchema(
        name=name, description="", properties={"turn": {"type": "integer"}}, required=["turn"]
    )
    for name in FUNCTIONS
]


# --- the expected turns --------------------------------------------------------------------------


def question(conversation: int, turn: int) -> str:
    return f"Turn {turn} of conversation {conversation}."


def functions_of(conversation: int, turn: int) -> Sequence[str]:
    """The functions that a turn calls: one, both in parallel, or none.

    Conversations with odd numbers have none: there, a cut sentence is resumed from a prefix.
    """
    return {0: FUNCTIONS[:1], 2: FUNCTIONS}.get((conversation + 2 * turn) % 4, ())


def words_of(conversation: int, turn: int, stage: str) -> str:
    """The words of a turn, which are unique to it."""
    count = 4 + (conversation + turn) % 12
    return " ".join(f"{stage}{conversation}-{turn}-{n}" for n in range(count)) + ". "


def whole_of(conversation: int, turn: int) -> str:
    """Everything that a caller should hear in a turn."""
    after = words_of(conversation, turn, "b") if functions_of(conversation, turn) else ""
    return words_of(conversation, turn, "a") + after


# --- the endpoint ---------------------------------------------------------------------------------

FAULTS: Mapping[str, Mapping[str, Any]] = {
    "status 429": {"status": 429, "body": {"message": "slow"}, "headers": {"retry-after": "0.2"}},
    "status 500": {"status": 500, "body": "oops"},
    "status 503": {"status": 503, "body": {"message": "Service tier capacity exceeded"}},
    "reset before the first word": {"cut_after": 0},
    "cut in mid-sentence": {"cut_after": 3},
    "stall in mid-sentence": {"stall_after": 3},
    "an empty stream": {"raw": b""},
    "broken JSON": {"raw": b"data: {broken\n\n"},
    "error in the stream": {"raw": b'data: {"object":"error","message":"overloaded"}\n\n'},
    "hang before the headers": {"wait": 60.0},
    "hang after the headers": {"first_wait": 60.0},
    "finish_reason error": {"finish_reason": "error"},
}
_SLOW = ("stall in mid-sentence", "hang before the headers", "hang after the headers")


class UnreliableModel:
    """A model that knows the words of each turn, and often fails.

    Attributes:
        counts: The number of requests, and of each fault.
    """

    def __init__(self, seed: int, faults: float) -> None:
        """Prepare the model.

        Args:
            seed: The seed of the faults.
            faults: The share of requests that fail; hangs and stalls are a fifth of them.
        """
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._faults = faults
        self._asked: Counter[tuple[object, ...]] = Counter()
        self._serial = 0

    async def answer(self, request: Json) -> AsyncIterator[Piece]:
        """Answer one request, or fail."""
        self.counts["requests"] += 1
        for piece in self._reply(request["messages"]).pieces(self._next()):
            yield piece

    def _reply(self, messages: list[Json]) -> Reply:
        asked = " ".join(str(m["content"]) for m in messages if m["role"] == "user")
        turn, conversation = map(int, re.findall(r"Turn (\d+) of conversation (\d+)", asked)[-1])
        last, said = messages[-1], ""
        if last["role"] == "assistant":
            said = last["content"]
        elif last["content"] == CONTINUE_TEXT:
            said = messages[-2]["content"]
        stage = "b" if last["role"] == "tool" or said.startswith("b") else "a"
        words = words_of(conversation, turn, stage)
        if last["content"] == CONTINUE_TEXT:
            # Without a prefix, which Mistral would repeat, the sentence is continued.
            words = words[len(said.strip()) :].lstrip()
        calls = [
            {"name": name, "arguments": {"turn": turn}}
            for name in (functions_of(conversation, turn) if stage == "a" else ())
        ]
        return Reply(words, tool_calls=calls, **self._fault(conversation, turn, stage))

    def _fault(self, *which: object) -> Mapping[str, Any]:
        self._asked[which] += 1
        chance = random.Random(f"{self._seed} {which} {self._asked[which]}")
        if chance.random() >= self._faults:
            return {}
        quick = [name for name in FAULTS if name not in _SLOW]
        name = chance.choice(_SLOW if chance.random() < 0.2 else quick)
        self.counts[name] += 1
        return FAULTS[name]

    def _next(self) -> int:
        self._serial = (self._serial + 1) % 1000
        return self._serial

    async def close(self) -> None:
        """Print the counts."""
        print(json.dumps(self.counts), flush=True)


@contextlib.contextmanager
def endpoint(seed: int, faults: float) -> Iterator[tuple[str, Counter[str]]]:
    """The endpoint in a process of its own.

    Yields:
        Its address, and its counts, which are filled when the block ends.
    """
    command = [sys.executable, __file__, "--serve", "--seed", str(seed), "--faults", str(faults)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    counts: Counter[str] = Counter()
    try:
        yield process.stdout.readline().split()[-1], counts
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
        counts.update(json.loads(output.splitlines()[-1]))


# --- the conversations ----------------------------------------------------------------------------


@dataclass
class Found:
    """The outcome of all conversations.

    Parameters:
        turns: Turns that have ended.
        whole: Turns whose every word was heard, once and in order.
        errors: Turns that ended in a reported error, by its reason.
        silent: Turns that ended in silence, or not in time.
        wrong: Turns in which words were lost, repeated or unexpected: what was heard.
        twice: Calls that ran more than once.
        never: Calls of whole turns that did not run.
        handled: Faults that were handled, by how.
        hedges_won: Late requests that were overtaken by their hedge.
    """

    turns: int = 0
    whole: int = 0
    errors: Counter[str] = field(default_factory=Counter[str])
    silent: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list[str])
    twice: int = 0
    never: int = 0
    handled: Counter[str] = field(default_factory=Counter[str])
    hedges_won: int = 0


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of the process between turns; of its sockets, those to the endpoint."""

    sockets: int
    tasks: int
    threads: int
    megabytes: float

    @classmethod
    def now(cls, base_url: str) -> "Resources":
        """Measure."""
        gc.collect()
        process, port = psutil.Process(), urlsplit(base_url).port
        peers = [c.raddr.port for c in process.net_connections("tcp") if c.raddr]
        return cls(
            sockets=peers.count(port),
            tasks=len(asyncio.all_tasks()),
            threads=process.num_threads(),
            megabytes=process.memory_info().rss / 2**20,
        )


class TurnRecorder(FrameProcessor):
    """Records one turn at a time, between the service and the aggregator."""

    def __init__(self, context: LLMContext, found: Found) -> None:
        super().__init__()
        self._context = context
        self._found = found
        self.changed = asyncio.Event()
        self.words = ""
        self.ends = 0
        self.errors: list[ErrorFrame] = []

    def begin(self) -> None:
        """Clear the last turn."""
        self.words, self.ends, self.errors = "", 0, []

    @property
    def is_in_context(self) -> bool:
        """Whether the aggregator has added the words to the context."""
        last = self._context.get_messages()[-1]
        return not self.words or last["role"] == "assistant"

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Record a frame, and pass it on."""
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame):
            self.words += frame.text
        elif isinstance(frame, LLMFullResponseEndFrame):
            self.ends += 1
        elif isinstance(frame, MetricsFrame):
            turns = [data for data in frame.data if isinstance(data, MistralTurnMetrics)]
            self._found.hedges_won += sum(data.hedges_won for data in turns)
        await self.push_frame(frame, direction)
        if isinstance(frame, LLMFullResponseEndFrame | LLMContextAssistantTurnFrame):
            self.changed.set()


class Conversation:
    """One conversation, from `open()` to `close()`."""

    LONGEST_CONTEXT = 12
    """Messages in a context, so that memory stays constant."""

    def __init__(self, number: int, base_url: str, found: Found, **settings: Any) -> None:
        self.number = number
        self._found = found
        self._ran: Counter[tuple[str, int]] = Counter()
        service = MistralLLMService(
            api_key="soak-key", base_url=base_url, settings=MistralLLMService.Settings(**settings)
        )
        service.register_function("note", self._run)
        service.register_function("look", self._run)

        @service.event_handler("on_error")
        async def on_error(_service: object, error: ErrorFrame) -> None:
            self._recorder.errors.append(error)
            self._recorder.changed.set()

        @service.event_handler("on_fault_handled")
        async def on_fault_handled(_service: object, _error: object, handled: Any) -> None:
            found.handled[handled.done] += 1

        self._context = LLMContext(tools=[] if number % 2 else TOOLS)
        self._recorder = TurnRecorder(self._context, found)
        # The turns are text: no model is needed to detect their end.
        params = LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies())
        aggregators = LLMContextAggregatorPair(self._context, user_params=params)
        self._worker = PipelineWorker(
            Pipeline([aggregators.user(), service, self._recorder, aggregators.assistant()]),
            params=PipelineParams(enable_metrics=True),
            cancel_on_idle_timeout=False,
            idle_timeout_secs=None,
            enable_rtvi=False,
        )
        self._runner = WorkerRunner(handle_sigint=False)

    async def open(self) -> None:
        """Start the pipeline."""
        started = asyncio.Event()

        @self._worker.event_handler("on_pipeline_started")
        async def on_pipeline_started(_worker: object, _frame: object) -> None:
            started.set()

        await self._runner.add_workers(self._worker)
        self._running = asyncio.create_task(self._runner.run())
        await started.wait()

    async def close(self) -> None:
        """End the pipeline."""
        await self._worker.queue_frame(EndFrame())
        await self._running

    async def talk(self, turns: range, pause: float) -> None:
        """Hold turns, with a random pause before each.

        Args:
            turns: Their numbers.
            pause: Seconds of the longest pause.
        """
        chance = random.Random(f"{self.number} {turns}")
        for turn in turns:
            await asyncio.sleep(chance.random() * pause)
            await self._turn(turn)

    async def _turn(self, turn: int) -> None:
        found, heard, which = self._found, self._recorder, question(self.number, turn)
        self._context.set_messages(self._context.get_messages()[-self.LONGEST_CONTEXT :])
        heard.begin()
        message = {"role": "user", "content": which}
        await self._worker.queue_frame(LLMMessagesAppendFrame([message], run_llm=True))
        functions = functions_of(self.number, turn)
        ends = 2 if functions else 1
        over = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LATEST):
                while not over:
                    heard.changed.clear()
                    await heard.changed.wait()
                    over = heard.ends >= (1 if heard.errors else ends) and heard.is_in_context
        found.turns += 1
        whole = whole_of(self.number, turn)
        ran = [self._ran.pop((name, turn), 0) for name in FUNCTIONS]
        found.twice += sum(times > 1 for times in ran)
        if heard.errors:
            found.errors.update(_reason(error) for error in heard.errors)
            if not whole.startswith(heard.words):
                found.wrong.append(f"{which} {heard.words}")
        elif not over:
            found.silent.append(f"{which} {heard.words}")
        elif heard.words != whole:
            found.wrong.append(f"{which} {heard.words}")
        else:
            found.whole += 1
            found.never += sum(not times for times in ran[: len(functions)])

    async def _run(self, params: Any) -> None:
        self._ran[params.function_name, params.arguments["turn"]] += 1
        await params.result_callback({"done": params.arguments["turn"]})


def _reason(error: ErrorFrame) -> str:
    exception = error.exception
    return exception.reason.value if isinstance(exception, MistralError) else repr(exception)


LATEST = 60.0
"""Seconds after which a turn that has not ended counts as silent."""


@dataclass
class Result:
    """The result of a soak test.

    Parameters:
        found: The outcome of the conversations.
        counts: The endpoint's requests, and its faults by name.
        early: The resources after the first tenth of the turns.
        late: The resources at the end, with the conversations still open.
        left: The resources when all were closed.
        seconds: The duration.
    """

    found: Found
    counts: Counter[str]
    early: Resources
    late: Resources
    left: Resources
    seconds: float


async def talk_all(
    conversations: int, turns: int, pause: float, base_url: str, settings: Mapping[str, Any]
) -> Result:
    """Hold conversations concurrently, with a rest after the first tenth of their turns."""
    found = Found()
    began = time.monotonic()
    all_conversations = [Conversation(n, base_url, found, **settings) for n in range(conversations)]
    for each in all_conversations:
        await each.open()
    tenth = max(1, turns // 10)
    held: list[Resources] = []
    for part in (range(tenth), range(tenth, turns)):
        await asyncio.gather(*(each.talk(part, pause) for each in all_conversations))
        await asyncio.sleep(1)  # what ends at the end of a turn has ended
        held.append(Resources.now(base_url))
    await asyncio.gather(*(each.close() for each in all_conversations))
    del all_conversations, each
    await asyncio.sleep(0.5)
    return Result(found, Counter(), *held, Resources.now(base_url), time.monotonic() - began)


def soak(
    conversations: int = 500,
    turns: int = 20,
    *,
    pause: float = 20.0,
    faults: float = 0.15,
    seed: int = 1,
    minutes: float = 15.0,
    **settings: Any,
) -> Result:
    """Hold many conversations with a model that often fails.

    Args:
        conversations: How many, concurrently.
        turns: Turns of each.
        pause: Seconds of the longest pause before a turn; half of it on average.
        faults: The share of requests that fail.
        seed: The seed of the faults.
        minutes: The time limit.
        **settings: Settings of the services.

    Returns:
        The result.

    Raises:
        TimeoutError: If it takes longer than `minutes`.
    """

    async def bounded(base_url: str) -> Result:
        async with asyncio.timeout(minutes * 60):
            return await talk_all(conversations, turns, pause, base_url, settings)

    with endpoint(seed, faults) as (base_url, counts):
        result = asyncio.run(bounded(base_url))
    result.counts = counts
    return result


def table(result: Result) -> str:
    found, counts = result.found, result.counts
    errors = ", ".join(f"{count} {reason}" for reason, count in sorted(found.errors.items()))
    handled = ", ".join(f"{count} {done}" for done, count in sorted(found.handled.items()))
    rows = [
        ("turns", f"{found.turns:,}"),
        ("requests", f"{counts['requests']:,}"),
        ("of them failed", f"{sum(counts[name] for name in FAULTS):,}"),
        ("faults handled", handled or "0"),
        ("late requests overtaken by a second", found.hedges_won),
        ("turns of which every word was heard, once, in order", f"{found.whole:,}"),
        ("turns with words lost or repeated", len(found.wrong)),
        ("turns that ended in silence", len(found.silent)),
        ("functions run twice", found.twice),
        ("functions not run", found.never),
        ("turns that ended in an error, by reason", errors or "0"),
        ("seconds", f"{result.seconds:.0f}"),
    ]
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]
    lines += ["| resources | after a tenth | at the end | when closed |", "|---|---|---|---|"]
    for name, form in (("sockets", "d"), ("tasks", "d"), ("threads", "d"), ("megabytes", ".0f")):
        values = (getattr(each, name) for each in (result.early, result.late, result.left))
        lines.append(f"| {name} | {' | '.join(format(value, form) for value in values)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--pause", type=float, default=20.0, help="seconds, the longest")
    parser.add_argument("--faults", type=float, default=0.15, help="share of requests that fail")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=15.0, help="time limit")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    if options.pop("serve"):
        logging.disable()  # the model breaks connections on purpose
        model = UnreliableModel(options["seed"], options["faults"])
        serve(bind("127.0.0.1", 0), create_app(model), model)
        return
    result = soak(**options)
    print(table(result))
    for kind in ("silent", "wrong"):
        print(*getattr(result.found, kind)[:10], sep="\n")


if __name__ == "__main__":
    main()
