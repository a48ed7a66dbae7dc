"""Every way out of a turn, with plain objects: no socket, no pipeline, a clock that jumps.

A turn ends in speech, in a function call, in the caller's interruption, or in an error in time.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from clock import SimulatedLoop

from mistral_service.conversation.conversion import Conversion
from mistral_service.reply.calls import Plan, PlannedCall
from mistral_service.reply.speech import has_words
from mistral_service.turn.clients import Clients, openai_client
from mistral_service.turn.ports import TurnPorts
from mistral_service.turn.retries import Handled, Limits
from mistral_service.turn.router import Needs, Router
from mistral_service.turn.runner import TurnRunner
from mistral_service.turn.shared_services import ResumePoint
from mistral_service.turn.state import TurnCounts, TurnOptions, TurnState
from mistral_service.wire.errors import MistralError, Reason

OWN, FALLBACK = "mistral-small-latest", "mistral-medium-latest"
FOREVER = 10_000.0
BUDGET = TurnOptions().limits.turn


@dataclass(frozen=True)
class Asked:
    """A conversation in memory."""

    messages: tuple[dict[str, Any], ...] = ({"role": "user", "content": "What time is it?"},)
    tools: object = None
    needs: Needs = Needs(functions=False, has_images=lambda: False)
    may_call: bool = True

    def continued(self, words: str) -> "Asked":
        return self._with(assistant=words)

    def reminded(self, note: str, words: str) -> "Asked":
        return self._with(assistant=words, developer=note)

    def without_functions(self) -> "Asked":
        return replace(self, may_call=False)

    def _with(self, **said: str) -> "Asked":
        added = tuple({"role": role, "content": text} for role, text in said.items() if text)
        return replace(self, messages=self.messages + added)


# --- what a server does, step by step -----------------------------------------------------------

Step = float | str | dict[str, Any] | Exception
"""Seconds of silence, words, a delta of another kind, or what breaks the reply."""

CUT = MistralError(Reason.STREAM, "the connection broke")
NOON = ("It is ", "noon.")
CALL = {
    "tool_calls": [
        {"index": 0, "id": "abcdefgh1", "function": {"name": "clock", "arguments": "{}"}}
    ]
}


def refused(reason: Reason) -> MistralError:
    return MistralError(reason, "refused")


@dataclass
class Server:
    """Answers requests with what is scripted, one reply after the other; the last one repeats."""

    replies: Sequence[Sequence[Step]]
    asked: list[tuple[str, Asked]] = field(default_factory=list[tuple[str, Asked]])
    closed: int = 0

    async def open(self, model: str, conversation: Asked) -> AsyncGenerator[Any]:
        steps = self.replies[min(len(self.asked), len(self.replies) - 1)]
        self.asked.append((model, conversation))
        if steps and isinstance(steps[0], MistralError):
            raise steps[0]
        return self._stream(steps)

    async def _stream(self, steps: Sequence[Step]) -> AsyncGenerator[Any]:
        try:
            for step in steps:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield chunk({"content": step} if isinstance(step, str) else step)
            yield chunk({}, "tool_calls" if CALL in steps else "stop")
        finally:
            self.closed += 1


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> Any:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return SimpleNamespace(model_dump=lambda: {"choices": [choice]})


# --- what a turn speaks to ----------------------------------------------------------------------


class Output:
    has_voice = False

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self.heard = ""
        self.thought = ""

    def end_of_sentence(self, text: str) -> int:
        return 0

    def is_speech(self, words: str) -> bool:
        return has_words(words)

    def begin(self) -> None:
        self.heard = ""

    async def write_text(self, text: str) -> None:
        self.heard += text
        self._on_text(text)

    async def write_thought(self, text: str, *, keep: bool = False) -> None:
        self.thought += text

    async def flush(self) -> None: ...

    async def call_begins(self) -> None: ...

    def discard(self) -> bool:
        return False

    def end(self) -> None: ...


class Functions:
    """Plans what the case says, and remembers what was started."""

    def __init__(self, *, may_call: bool, repeated: int) -> None:
        self._may_call = may_call
        self._repeated = repeated
        self.started: list[str] = []

    def begin(self, conversation: Asked, options: TurnOptions) -> bool:
        return self._may_call

    def plan(self, conversation: Asked, calls: Any, left_out: int, *, offered: Any) -> Plan:
        if calls and self._repeated:
            self._repeated -= 1
            return Plan(repeated=calls)
        return Plan([PlannedCall(call.id, call.name, {}) for call in calls])

    def forget(self, calls: Sequence[PlannedCall]) -> None: ...

    async def start(
        self, conversation: Asked, calls: Sequence[PlannedCall], *, spoke: bool
    ) -> None:
        self.started += [call.name for call in calls]


class Observer:
    def __init__(self) -> None:
        self.handled: list[str] = []
        self.timeouts = 0
        self.counts: TurnCounts | None = None

    async def on_begin(self) -> None: ...

    async def on_timeout(self) -> None:
        self.timeouts += 1

    async def on_fault_handled(self, error: MistralError, handled: Handled) -> None:
        self.handled.append(handled.done)

    def on_model(self, name: str) -> None: ...

    async def on_end(self, turn: TurnState[Asked]) -> None:
        assert self.counts is None, "a turn ends once"
        self.counts = turn.counts


class Recorder:
    def __init__(self, resume_point: ResumePoint | None) -> None:
        self._resume_point = resume_point
        self.text = ""
        self.complete: bool | None = None

    async def begin(self, conversation: Asked) -> ResumePoint | None:
        return self._resume_point

    def on_text(self, words: str) -> None:
        self.text += words

    async def end(self, *, complete: bool) -> None:
        self.complete = complete


# --- the table ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What the server does in a turn, and how the turn ends.

    Parameters:
        replies: What the server does for each request.
        heard: What the caller hears.
        started: The functions that run.
        error: Why the turn ends in an error.
        handled: What was done about each fault.
        requests: How many requests there are.
        within: Seconds that the turn may take.
        options: The settings.
        fallback: Whether there is a second model.
        may_call: Whether functions may be called.
        repeated: How many replies call what has its result already.
        interrupt: When the caller interrupts, in seconds.
        resume_point: What another machine has recorded of the turn.
        complete: Whether the recorder learns that the turn is complete.
    """

    replies: Sequence[Sequence[Step]]
    heard: str = ""
    started: Sequence[str] = ()
    error: Reason | None = None
    handled: Sequence[str] = ()
    requests: int = 1
    within: float = 0.01
    options: TurnOptions = TurnOptions()
    fallback: bool = False
    may_call: bool = True
    repeated: int = 0
    interrupt: float = FOREVER
    resume_point: ResumePoint | None = None
    complete: bool = True


NO_HEDGE = TurnOptions(hedging=False)
SORRY = TurnOptions(empty_reply_text="Sorry, say that again?")
BUSY, GONE = refused(Reason.SERVER), refused(Reason.CAPACITY)
BLANKS: list[Step] = [0.5, " "] * 100

CASES: dict[str, Case] = {
    # The reply is spoken.
    "spoken": Case([NOON], heard="It is noon."),
    "thought, then spoken": Case(
        [[{"reasoning_content": "Hm. "}, *NOON]],
        heard="It is noon.",
    ),
    "slow, and spoken": Case(
        [[3.5, "It is ", 2.5, "noon."]], "It is noon.", within=6.1, options=NO_HEDGE
    ),
    "late, and hedged": Case([[FOREVER], NOON], "It is noon.", requests=2, within=2.1),
    "late after a fault, and hedged": Case(
        [[BUSY], [FOREVER], NOON],
        "It is noon.",
        handled=["retried"],
        requests=3,
        within=0.9,
        options=TurnOptions(hedge_after=0.7, limits=Limits(first_token=0.8)),
    ),
    "no hedge later than the first token may be": Case(
        [[BUSY], [1.5, *NOON], NOON],
        "It is noon.",
        handled=["retried"],
        requests=2,
        within=1.7,
        options=TurnOptions(hedge_after=0.8, limits=Limits(first_token=0.8)),
    ),
    "both late, the first one speaks": Case(
        [[2.5, *NOON], [2.0]], "It is noon.", requests=2, within=2.6
    ),
    # It calls a function.
    "called": Case([[CALL]], started=["clock"]),
    "spoken and called": Case([["Let me see. ", CALL]], "Let me see. ", started=["clock"]),
    # The caller interrupts.
    "interrupted before the first word": Case(
        [[FOREVER]], interrupt=0.5, within=0.6, complete=False
    ),
    "interrupted in the middle": Case(
        [["It is ", FOREVER]], "It is ", interrupt=0.5, within=0.6, complete=False
    ),
    # A fault leads to another attempt.
    "retried": Case([[BUSY], NOON], "It is noon.", handled=["retried"], requests=2, within=0.2),
    "retried twice": Case(
        [[BUSY], [BUSY], NOON], "It is noon.", handled=["retried"] * 2, requests=3, within=0.5
    ),
    "retried after a first token that never came": Case(
        [[FOREVER], NOON],
        "It is noon.",
        handled=["retried"],
        requests=2,
        within=4.1,
        options=NO_HEDGE,
    ),
    "resumed": Case(
        [["It is ", CUT], ["noon."]], "It is noon.", handled=["resumed"], requests=2, within=0.2
    ),
    "resumed, the words repeated": Case(
        [["It is ", CUT], ["It is noon."]],
        "It is noon.",
        handled=["resumed"],
        requests=2,
        within=0.2,
    ),
    "resumed after a stall": Case(
        [["It is ", FOREVER], ["noon."]], "It is noon.", handled=["resumed"], requests=2, within=3.1
    ),
    "cut at its end, and nothing to add": Case(
        [["It is noon.", CUT], []], "It is noon.", handled=["resumed"], requests=2, within=0.2
    ),
    "resumed after a takeover": Case([["noon."]], "noon.", resume_point=ResumePoint("It is ")),
    # Another model answers.
    "moved": Case([[GONE], NOON], "It is noon.", handled=["moved"], requests=2, fallback=True),
    "moved in mid-sentence": Case(
        [["It is ", CUT], [CUT], ["noon."]],
        "It is noon.",
        handled=["resumed", "moved"],
        requests=3,
        fallback=True,
        within=0.3,
    ),
    # The model is asked once more.
    "empty, then spoken": Case([[], NOON], "It is noon.", requests=2),
    "a call that was made already, then spoken": Case(
        [[CALL], NOON], "It is noon.", requests=2, repeated=1
    ),
    "a call that cannot be read, then spoken": Case(
        [['[TOOL_CALLS][{"name": '], NOON], "It is noon.", requests=2
    ),
    "empty twice, with a text for it": Case(
        [[]], "Sorry, say that again?", requests=2, options=SORRY
    ),
    # The turn is reported.
    "refused": Case([[refused(Reason.KEY)]], error=Reason.KEY, complete=False),
    "busy all the time": Case(
        [[BUSY]],
        error=Reason.SERVER,
        handled=["retried"] * 2,
        requests=3,
        within=0.5,
        complete=False,
    ),
    "silent all the time": Case(
        [[FOREVER]],
        error=Reason.TIMEOUT,
        handled=["retried"],
        requests=3,
        within=BUDGET + 0.1,
        complete=False,
    ),
    "blanks all the time": Case(
        [BLANKS],
        error=Reason.TIMEOUT,
        handled=["retried"],
        requests=3,
        within=BUDGET + 0.1,
        complete=False,
    ),
    "empty twice": Case([[]], error=Reason.EMPTY, requests=2, complete=False),
    "a call that was made already, twice": Case(
        [[CALL]], error=Reason.CALL, requests=2, repeated=2, complete=False
    ),
    "a call where it has to speak": Case(
        [[CALL]], error=Reason.CALL, may_call=False, complete=False
    ),
    # Another machine has answered.
    "answered elsewhere": Case([NOON], requests=0, resume_point=ResumePoint(must_answer=False)),
}


def run(case: Case) -> SimpleNamespace:
    """Run one turn on a clock that jumps."""
    server, observer = Server(case.replies), Observer()
    functions = Functions(may_call=case.may_call, repeated=case.repeated)
    recorder = Recorder(case.resume_point)
    output = Output(recorder.on_text)

    async def turn() -> None:
        client = openai_client("any", "http://127.0.0.1:9/v1")
        clients = Clients(openai_client, lambda: client, {}, None)
        router = Router(clients, lambda: (OWN, [FALLBACK] if case.fallback else []))
        runner: TurnRunner[Asked] = TurnRunner(
            TurnPorts(
                name="turn",
                options=lambda: case.options,
                open_stream=lambda asked: server.open(router.route.model, asked),
                conversion=Conversion,
                output=output,
                functions=functions,
                router=router,
                observer=observer,
                recorder=recorder,
            )
        )
        running = asyncio.ensure_future(runner.run(Asked()))
        asyncio.get_running_loop().call_later(case.interrupt, running.cancel)
        await running

    loop: asyncio.AbstractEventLoop = SimulatedLoop()
    error: BaseException | None = None
    began = loop.time()
    try:
        loop.run_until_complete(turn())
    except (MistralError, asyncio.CancelledError) as e:
        error = e
    seconds = loop.time() - began
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    return SimpleNamespace(
        server=server,
        heard=output.heard,
        thought=output.thought,
        functions=functions,
        observer=observer,
        recorder=recorder,
        error=error,
        seconds=seconds,
    )


@pytest.mark.parametrize("name", CASES)
def test_a_turn_ends(name: str):
    case = CASES[name]
    turn = run(case)
    if case.interrupt < FOREVER:
        assert isinstance(turn.error, asyncio.CancelledError)
    else:
        assert getattr(turn.error, "reason", None) == case.error, turn.error
    assert turn.heard == case.heard
    assert turn.functions.started == list(case.started)
    assert turn.observer.handled == list(case.handled)
    assert len(turn.server.asked) == case.requests
    assert turn.seconds <= case.within
    assert turn.recorder.text == case.heard
    if case.requests:
        assert turn.recorder.complete is case.complete


def test_never_in_silence():
    """Whatever the server does: speech, a call, the caller's interruption, or an error."""
    for name, case in CASES.items():
        turn = run(case)
        spoke = has_words(turn.heard) or bool(turn.functions.started)
        elsewhere = case.resume_point is not None and not case.resume_point.must_answer
        assert spoke or turn.error is not None or elsewhere, name
        assert turn.seconds <= BUDGET + 0.1, name


def test_a_resumed_reply_is_asked_for_after_its_words():
    _, (model, again) = run(CASES["resumed"]).server.asked
    assert again.messages[-1] == {"role": "assistant", "content": "It is "}
    assert model == OWN


def test_the_fallback_is_asked():
    assert [model for model, _ in run(CASES["moved"]).server.asked] == [OWN, FALLBACK]


def test_a_reminder_says_what_was_wrong():
    _, (_, again) = run(CASES["a call that was made already, then spoken"]).server.asked
    assert again.messages[-1]["role"] == "developer"
    assert "You have called clock already" in again.messages[-1]["content"]


def test_a_turn_that_has_to_speak_offers_no_functions():
    [(_, asked)] = run(CASES["a call where it has to speak"]).server.asked
    assert not asked.may_call


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("spoken", TurnCounts()),
        ("late, and hedged", TurnCounts(attempts=2, hedges=1, hedges_won=1)),
        ("resumed", TurnCounts(attempts=2, resumes=1, faults=1)),
        ("moved", TurnCounts(attempts=2, fallbacks=1, faults=1)),
        ("empty, then spoken", TurnCounts(attempts=2)),
    ],
)
def test_what_a_turn_took_is_counted(name: str, counts: TurnCounts):
    assert run(CASES[name]).observer.counts == counts


def test_a_thought_is_not_heard():
    assert run(CASES["thought, then spoken"]).thought == "Hm. "


@pytest.mark.parametrize("name", ["interrupted in the middle", "resumed", "silent all the time"])
def test_no_stream_stays_open(name: str):
    turn = run(CASES[name])
    assert turn.server.closed == len(turn.server.asked)
