"""Many conversations at once, on a bad day: `make soak`.

Each conversation has a service of its own in a pipeline of its own, with both aggregators, and says
"Turn 3 of conversation 7." The endpoint, in a process of its own, answers each turn with words that
no other turn has and with the calls of functions that belong to it, unless it fails: by chance, but
by the same chance for the same seed. Every turn is held against what it should have been.

What it found is in `docs/soak.md`.
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
from mistral_service.conversation.rules import GO_ON  # noqa: E402
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


# --- what each turn should be ---------------------------------------------------------------------


def question(conversation: int, turn: int) -> str:
    return f"Turn {turn} of conversation {conversation}."


def functions_of(conversation: int, turn: int) -> Sequence[str]:
    """The functions that a turn calls: one, both side by side, or none.

    Conversations with odd numbers have none: there, a sentence that was cut goes on from a prefix.
    """
    return {0: FUNCTIONS[:1], 2: FUNCTIONS}.get((conversation + 2 * turn) % 4, ())


def words_of(conversation: int, turn: int, stage: str) -> str:
    """What is said in a turn: words that are said nowhere else."""
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


class Moody:
    """A model that knows what to say in each turn, and often fails to.

    Attributes:
        met: How often each fault was met, and how many requests came.
    """

    def __init__(self, seed: int, faults: float) -> None:
        """Prepare the model.

        Args:
            seed: Two of the same seed fail alike.
            faults: The share of requests that fail; hangs and stalls are a fifth of them.
        """
        self.met: Counter[str] = Counter()
        self._seed = seed
        self._faults = faults
        self._asked: Counter[tuple[object, ...]] = Counter()
        self._serial = 0

    async def answer(self, request: Json) -> AsyncIterator[Piece]:
        """Answer one request, or fail."""
        self.met["requests"] += 1
        for piece in self._reply(request["messages"]).pieces(self._next()):
            yield piece

    def _reply(self, messages: list[Json]) -> Reply:
        asked = " ".join(str(m["content"]) for m in messages if m["role"] == "user")
        turn, conversation = map(int, re.findall(r"Turn (\d+) of conversation (\d+)", asked)[-1])
        last, said = messages[-1], ""
        if last["role"] == "assistant":
            said = last["content"]
        elif last["content"] == GO_ON:
            said = messages[-2]["content"]
        stage = "b" if last["role"] == "tool" or said.startswith("b") else "a"
        words = words_of(conversation, turn, stage)
        if last["content"] == GO_ON:
            # A prefix is repeated, as Mistral does; a sentence is gone on with.
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
        self.met[name] += 1
        return FAULTS[name]

    def _next(self) -> int:
        self._serial = (self._serial + 1) % 1000
        return self._serial

    async def close(self) -> None:
        """Tell what was met."""
        print(json.dumps(self.met), flush=True)


@contextlib.contextmanager
def endpoint(seed: int, faults: float) -> Iterator[tuple[str, Counter[str]]]:
    """The endpoint in a process of its own.

    Yields:
        Its address, and what it has met: filled when the block ends.
    """
    command = [sys.executable, __file__, "--serve", "--seed", str(seed), "--faults", str(faults)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    met: Counter[str] = Counter()
    try:
        yield process.stdout.readline().split()[-1], met
    finally:
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=20)
        met.update(json.loads(told.splitlines()[-1]))


# --- the conversations ----------------------------------------------------------------------------


@dataclass
class Found:
    """What has been found in all conversations.

    Parameters:
        turns: Turns that have ended.
        whole: Those whose every word was heard, once and in order.
        told: Those that ended in an error that was told, by its reason.
        silent: Those that ended in nothing at all, or not in time.
        wrong: Those in which words were lost, repeated or strange: what was heard.
        twice: Calls that were run more than once.
        never: Calls of whole turns that were not run.
        handled: Faults that were met and handled, by what was done.
        hedges_won: Requests that were late, and overtaken by a second one.
    """

    turns: int = 0
    whole: int = 0
    told: Counter[str] = field(default_factory=Counter[str])
    silent: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list[str])
    twice: int = 0
    never: int = 0
    handled: Counter[str] = field(default_factory=Counter[str])
    hedges_won: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds while nobody speaks; of its sockets, those to the endpoint."""

    sockets: int
    tasks: int
    threads: int
    megabytes: float

    @classmethod
    def now(cls, base_url: str) -> "Held":
        """Look."""
        gc.collect()
        process, port = psutil.Process(), urlsplit(base_url).port
        peers = [c.raddr.port for c in process.net_connections("tcp") if c.raddr]
        return cls(
            sockets=peers.count(port),
            tasks=len(asyncio.all_tasks()),
            threads=process.num_threads(),
            megabytes=process.memory_info().rss / 2**20,
        )


class Ear(FrameProcessor):
    """Hears one turn at a time, from between the service and the aggregator."""

    def __init__(self, context: LLMContext, found: Found) -> None:
        super().__init__()
        self._context = context
        self._found = found
        self.moved = asyncio.Event()
        self.words = ""
        self.ends = 0
        self.errors: list[ErrorFrame] = []

    def begin(self) -> None:
        """Forget the last turn."""
        self.words, self.ends, self.errors = "", 0, []

    @property
    def settled(self) -> bool:
        """Whether the aggregator has taken up what was heard."""
        last = self._context.get_messages()[-1]
        return not self.words or last["role"] == "assistant"

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Hear a frame, and pass it on."""
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
            self.moved.set()


class Conversation:
    """One of the conversations, from its `open()` to its `close()`."""

    REMEMBERED = 12
    """Messages that a context keeps, so that the process need not grow."""

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
            self._ear.errors.append(error)
            self._ear.moved.set()

        @service.event_handler("on_fault_handled")
        async def on_fault_handled(_service: object, _error: object, handled: Any) -> None:
            found.handled[handled.done] += 1

        self._context = LLMContext(tools=[] if number % 2 else TOOLS)
        self._ear = Ear(self._context, found)
        # Nobody speaks aloud, so nobody needs a model that hears when they have finished.
        writes = LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies())
        aggregators = LLMContextAggregatorPair(self._context, user_params=writes)
        self._worker = PipelineWorker(
            Pipeline([aggregators.user(), service, self._ear, aggregators.assistant()]),
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
        found, ear, which = self._found, self._ear, question(self.number, turn)
        self._context.set_messages(self._context.get_messages()[-self.REMEMBERED :])
        ear.begin()
        message = {"role": "user", "content": which}
        await self._worker.queue_frame(LLMMessagesAppendFrame([message], run_llm=True))
        functions = functions_of(self.number, turn)
        ends = 2 if functions else 1
        over = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LATEST):
                while not over:
                    ear.moved.clear()
                    await ear.moved.wait()
                    over = ear.ends >= (1 if ear.errors else ends) and ear.settled
        found.turns += 1
        whole = whole_of(self.number, turn)
        ran = [self._ran.pop((name, turn), 0) for name in FUNCTIONS]
        found.twice += sum(times > 1 for times in ran)
        if ear.errors:
            found.told.update(_reason(error) for error in ear.errors)
            if not whole.startswith(ear.words):
                found.wrong.append(f"{which} {ear.words}")
        elif not over:
            found.silent.append(f"{which} {ear.words}")
        elif ear.words != whole:
            found.wrong.append(f"{which} {ear.words}")
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
class Soaked:
    """What became of it all.

    Parameters:
        found: What was found in the conversations.
        met: What the endpoint met: requests, and faults by their names.
        early: What was held after the first tenth of the turns.
        late: What was held at the end, conversations still open.
        left: What was held when all were closed.
        seconds: How long it took.
    """

    found: Found
    met: Counter[str]
    early: Held
    late: Held
    left: Held
    seconds: float


async def talk_all(
    conversations: int, turns: int, pause: float, base_url: str, settings: Mapping[str, Any]
) -> Soaked:
    """Hold conversations side by side, with a rest after the first tenth of their turns."""
    found = Found()
    began = time.monotonic()
    all_of_them = [Conversation(n, base_url, found, **settings) for n in range(conversations)]
    for each in all_of_them:
        await each.open()
    tenth = max(1, turns // 10)
    held: list[Held] = []
    for part in (range(tenth), range(tenth, turns)):
        await asyncio.gather(*(each.talk(part, pause) for each in all_of_them))
        await asyncio.sleep(1)  # what ends at the end of a turn has ended
        held.append(Held.now(base_url))
    await asyncio.gather(*(each.close() for each in all_of_them))
    del all_of_them, each
    await asyncio.sleep(0.5)
    return Soaked(found, Counter(), *held, Held.now(base_url), time.monotonic() - began)


def soak(
    conversations: int = 500,
    turns: int = 20,
    *,
    pause: float = 20.0,
    faults: float = 0.15,
    seed: int = 1,
    minutes: float = 15.0,
    **settings: Any,
) -> Soaked:
    """Hold many conversations with a model that often fails.

    Args:
        conversations: How many, side by side.
        turns: Turns of each.
        pause: Seconds of the longest pause before a turn; half of it on average.
        faults: The share of requests that fail.
        seed: What chance begins with.
        minutes: When to give up.
        **settings: Of the services.

    Returns:
        What became of it.

    Raises:
        TimeoutError: If it takes longer than `minutes`.
    """

    async def bounded(base_url: str) -> Soaked:
        async with asyncio.timeout(minutes * 60):
            return await talk_all(conversations, turns, pause, base_url, settings)

    with endpoint(seed, faults) as (base_url, met):
        soaked = asyncio.run(bounded(base_url))
    soaked.met = met
    return soaked


def table(soaked: Soaked) -> str:
    found, met = soaked.found, soaked.met
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(found.told.items()))
    handled = ", ".join(f"{count} {done}" for done, count in sorted(found.handled.items()))
    rows = [
        ("turns", f"{found.turns:,}"),
        ("requests", f"{met['requests']:,}"),
        ("of them failed", f"{sum(met[name] for name in FAULTS):,}"),
        ("faults handled", handled or "0"),
        ("late requests overtaken by a second", found.hedges_won),
        ("turns of which every word was heard, once, in order", f"{found.whole:,}"),
        ("turns with words lost or repeated", len(found.wrong)),
        ("turns that ended in silence", len(found.silent)),
        ("functions run twice", found.twice),
        ("functions not run", found.never),
        ("turns that met too many faults, and told it", told or "0"),
        ("seconds", f"{soaked.seconds:.0f}"),
    ]
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]
    lines += ["| held | after a tenth | at the end | when closed |", "|---|---|---|---|"]
    for name, form in (("sockets", "d"), ("tasks", "d"), ("threads", "d"), ("megabytes", ".0f")):
        values = (getattr(each, name) for each in (soaked.early, soaked.late, soaked.left))
        lines.append(f"| {name} | {' | '.join(format(value, form) for value in values)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--pause", type=float, default=20.0, help="seconds, the longest")
    parser.add_argument("--faults", type=float, default=0.15, help="share of requests that fail")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=15.0, help="when to give up")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    if options.pop("serve"):
        logging.disable()  # connections that the model breaks are no news
        model = Moody(options["seed"], options["faults"])
        serve(bind("127.0.0.1", 0), create_app(model), model)
        return
    soaked = soak(**options)
    print(table(soaked))
    for kind in ("silent", "wrong"):
        print(*getattr(soaked.found, kind)[:10], sep="\n")


if __name__ == "__main__":
    main()
