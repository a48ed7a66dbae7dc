"""Every fault of the table, over real HTTP through a real pipeline, with and without functions.

`make faults` prints what came of each into `docs/faults.md`.
"""

import argparse
import asyncio
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from call import Call
from fault_proxy import Bytes, Ending, Road, Trouble, untrusted
from faults import AFTERWARDS, ARGUMENTS, FAULTS, FUNCTION, GROUPS, LIMITS, TEXT, Fault
from loguru import logger
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import InterruptionFrame, LLMFullResponseEndFrame

from mistral_service import MistralLLMService
from mistral_service.conversation.rules import CONTINUE_TEXT
from mistral_service.local import LocalMistral, Reply

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
TEA = FunctionSchema(
    name=FUNCTION, description="", properties={"wish": {"type": "string"}}, required=["wish"]
)


class Speaker:
    """A model that says its one sentence, calls its function, and goes on where it was cut."""

    def __init__(self) -> None:
        self._serial = 0

    async def answer(self, request: dict[str, Any]):
        self._serial = (self._serial + 1) % 1000
        before, last = ([None, *request["messages"]])[-2:]
        calls = [{"name": FUNCTION, "arguments": ARGUMENTS}] if request.get("tools") else []
        reply = Reply(TEXT, tool_calls=calls)
        if last["role"] == "tool":
            reply = Reply(AFTERWARDS)
        elif last["content"] == CONTINUE_TEXT:
            # A prefix is repeated, as Mistral does; a sentence is gone on with.
            said = before["content"].strip()
            reply = Reply(TEXT.partition(said)[2].strip(), tool_calls=calls)
        for piece in reply.pieces(self._serial):
            yield piece

    async def close(self) -> None: ...


@pytest.fixture(scope="module")
def mistral() -> Iterator[LocalMistral]:
    with LocalMistral(Speaker()) as mistral:
        yield mistral
        assert [e.refused for e in mistral.exchanges if e.refused] == []


def service_for(base_url: str, **limits: float) -> MistralLLMService:
    """The service of the matrix: short limits, and one request at a time."""
    settings = MistralLLMService.Settings(hedging=False, **{**LIMITS, **limits})
    return MistralLLMService(
        api_key="test-key", base_url=base_url, settings=settings, warm_up=False
    )


class Journey:
    """A call along the road, on which one fault is met.

    Attributes:
        road: The road.
        call: The call.
        ran: The arguments of the functions that were run.
        elsewhere: Where a redirect leads.
    """

    def __init__(self, fault: Fault, road: Road, elsewhere: Road, *, tools: bool) -> None:
        self.fault = fault
        self.tools = tools
        self.road = road
        self.elsewhere = elsewhere
        self.ran: list[Any] = []
        base_url = road.base_url
        if fault.tls:
            base_url = base_url.replace("http:", "https:")
        service = service_for(base_url, **fault.limits)
        if fault.port_closed and not fault.always:

            @service.event_handler("on_fault_handled")
            async def on_fault_handled(*_: object) -> None:
                await road.open()

        async def make_tea(params) -> None:
            self.ran.append(params.arguments)
            await params.result_callback("Tea is ready.")

        service.register_function(FUNCTION, make_tea)
        self.call = Call(service, tools=[TEA] if tools else [], idle_timeout_secs=None)

    def lay(self, trouble: Trouble | None) -> None:
        """Put trouble on the road."""
        if trouble is None:
            self.road.ahead()
            return
        said = trouble.saying.replace(b"{elsewhere}", self.elsewhere.base_url.encode())
        self.road.ahead(replace(trouble, saying=said), always=self.fault.always)

    async def turn(self, words: str, *, told: bool = False) -> float:
        """Say something and wait for the end; returns the seconds to the first word or error."""
        call = self.call
        heard, errors = len(call.words), len(call.errors)
        ends = call.count(LLMFullResponseEndFrame)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await call.begin("How are you?")
        await call.until(lambda: len(call.words) > heard or len(call.errors) > errors)
        first = loop.time() - began
        ends += 2 if self.tools and not told else 1
        await call.until(lambda: call.count(LLMFullResponseEndFrame) >= ends)
        await call.until(lambda: len(call.errors) == errors + told)
        assert call.words[heard:] == words
        assert call.count(LLMFullResponseEndFrame) == ends
        if words and not told:
            await call.until(lambda: call.context.get_messages()[-1]["role"] == "assistant")
        return first


@asynccontextmanager
async def journey(fault: Fault, mistral: LocalMistral, *, tools: bool) -> AsyncIterator[Journey]:
    tls = untrusted() if fault.tls == "untrusted" else None
    async with (
        Road(mistral.base_url, listening=not fault.port_closed, tls=tls) as road,
        Road(mistral.base_url) as elsewhere,
    ):
        going = Journey(fault, road, elsewhere, tools=tools)
        async with going.call:
            yield going


async def meet(fault: Fault, mistral: LocalMistral, *, tools: bool) -> float:
    """Meet a fault and hold everything that is promised against what came of it.

    Returns:
        Seconds to the first word, or to the error; the longest, of several turns.
    """
    times: list[float] = []
    told = fault.told is not None
    async with journey(fault, mistral, tools=tools) as going:
        road, call = going.road, going.call
        for trouble in fault.troubles or [None]:
            arrived, ran, errors = len(road.arrivals), len(going.ran), len(call.errors)
            going.lay(trouble)
            times.append(await going.turn(fault.words(tools=tools), told=told))
            assert road.met.is_set() or trouble is None
            runs = [ARGUMENTS] if tools and not told else []
            assert going.ran[ran:] == runs
            assert len(road.arrivals) - arrived == fault.attempts + len(runs)
            assert [e.exception.reason for e in call.errors[errors:]] == [fault.told] * told
            assert call.service.is_usable == fault.usable
            await call.until(lambda: road.quiet)
        assert not going.elsewhere.arrivals
        if fault.tls:
            assert all(not arrival.line for arrival in road.arrivals)
        elif not (fault.port_closed and fault.always):
            # After it, all is well.
            going.lay(None)
            await going.turn(TEXT + (AFTERWARDS if tools else ""))
    return max(times)


async def meet_both_ways(fault: Fault, mistral: LocalMistral) -> float:
    """Meet a fault without and with functions; returns the seconds that it took without them."""
    ways = [False, True][fault.only_with_tools :]
    return (await asyncio.gather(*(meet(fault, mistral, tools=tools) for tools in ways)))[0]


async def meet_all(
    faults: Sequence[Fault], mistral: LocalMistral
) -> dict[str, float | BaseException]:
    """Meet faults, some at a time: most of them are a wait.

    Returns:
        By the fault's name: the seconds, or what it came to instead.
    """
    some = asyncio.Semaphore(3)

    async def one(fault: Fault) -> float:
        async with some:
            return await meet_both_ways(fault, mistral)

    came = await asyncio.gather(*map(one, faults), return_exceptions=True)
    return {fault.name: result for fault, result in zip(faults, came, strict=True)}


def tasks() -> Counter[str]:
    """What runs, but for the road itself."""
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]
    return Counter(name for name in names if not name.startswith("Road."))


async def interrupted(fault: Fault, trouble: Trouble | None, mistral: LocalMistral) -> None:
    """Speak in the middle of a fault, and be heard."""
    tools = fault.only_with_tools
    async with journey(fault, mistral, tools=tools) as going:
        road, call = going.road, going.call
        going.lay(trouble)
        before = tasks()
        await call.begin("How are you?")
        await call.until(road.met.is_set if trouble else lambda: road.arrivals or call.frames)
        await call.interrupt()
        await call.until(lambda: any(isinstance(frame, InterruptionFrame) for frame in call.past))
        await call.until(lambda: road.quiet and tasks() == before)
        assert not call.errors or fault.told
        if fault.tls or fault.port_closed:
            return

        going.lay(None)
        heard, errors = call.words, len(call.errors)
        whole = TEXT + (AFTERWARDS if tools else "")
        await call.begin("And now?")
        await call.until(lambda: call.words[len(heard) :] == whole)
        await call.until(lambda: call.context.get_messages()[-1]["role"] == "assistant")
        assert len(call.errors) == errors
    (_, first), *kept, (_, second) = [
        (m["role"], m["content"]) for m in call.context.get_messages() if not m.get("tool_calls")
    ][: 3 if heard.strip() else 2]
    assert (first, second) == ("How are you?", "And now?")
    # Words that the caller had no time to hear are not kept.
    assert all(role == "assistant" and heard.startswith(text) for role, text in kept)
    assert call.context.get_messages()[-1]["content"] == (AFTERWARDS if tools else TEXT)


@pytest.fixture(scope="module")
def came(mistral: LocalMistral, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What came of each fault that is asked about."""
    asked = [
        item.callspec.params["fault"]
        for item in request.session.items
        if getattr(item, "originalname", "") == test_a_fault_ends_as_the_table_says.__name__
    ]
    return asyncio.run(meet_all(asked, mistral))


@pytest.mark.timeout(900)  # the first one waits for them all
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_ends_as_the_table_says(came: dict[str, float | BaseException], fault: Fault):
    result = came[fault.name]
    if isinstance(result, BaseException):
        raise result
    # Whatever happens, the caller hears of it within the turn's time; twice that is slack.
    assert result < 2 * LIMITS["turn_timeout"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_an_interruption_in_a_fault_leaves_nothing_behind(
    mistral: LocalMistral, fault: Fault
):
    for trouble in fault.troubles or [None]:
        await interrupted(fault, trouble, mistral)


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("how", [Ending.FIN, Ending.RST, Ending.END])
async def test_wherever_a_reply_is_cut_no_word_is_lost_and_no_call_runs_twice(
    mistral: LocalMistral, how: Ending, tools: bool
):
    async with journey(Fault("a cut anywhere"), mistral, tools=tools) as going:
        places = range(0, 1500, 125)
        for place in places:
            going.lay(Trouble(Bytes(place), how))
            await going.turn(TEXT + (AFTERWARDS if tools else ""))
            assert going.road.met.is_set()
        assert going.ran == [ARGUMENTS] * len(places) * tools
        assert not going.call.errors


# --- the table in print ---------------------------------------------------------------------------

SHORT = ", ".join(f"`{name}` {seconds}" for name, seconds in LIMITS.items())
INTRODUCTION = f"""\
# Faults, and their outcomes

`tests/turn/test_fault_matrix.py` injects each fault, over real HTTP through a real pipeline,
without functions and with one. It checks the words that the caller hears, the runs of the
function, the requests that reach the server, the error that is reported, and whether the service is
usable afterwards; and once more with an interruption during the fault, after which the next turn is
as any other, the context has only what was heard, and no connection and no task is left.

`make faults` writes this page from `tests/support/faults.py`. "All words" are all of them, once, in
order. Requests are those for the reply with the fault, or connections that got no further. Seconds
are to the first word, or to the error, as measured, without hedging and with short limits:
{SHORT}
(1.5 where no answer ever comes).
"""
HEADING = """\
| fault | without functions | with functions | requests | seconds | after an interruption |
|---|---|---|---|---|---|"""


def row(fault: Fault, seconds: str) -> str:
    cells = [
        fault.name,
        fault.outcome(tools=False),
        fault.outcome(tools=True),
        str(fault.attempts),
        seconds,
        "—" if fault.tls or fault.port_closed else "the next turn is well",
    ]
    return f"| {' | '.join(cells)} |"


def printed(seconds: dict[str, str]) -> str:
    """The page.

    Args:
        seconds: What stands in the column of the seconds, by the fault's name.
    """
    parts = [INTRODUCTION]
    for title, faults in GROUPS.items():
        rows = [row(fault, seconds[fault.name]) for fault in faults]
        parts.append("\n".join([f"## {title}\n", HEADING, *rows, ""]))
    return "\n".join(parts)


def test_the_page_is_the_table():
    page = DOCUMENT.read_text()
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    seconds = {cells[0].removeprefix("| "): cells[4] for cells in lines}
    assert page == printed(seconds), "run `make faults`"
    shown = [seconds[fault.name] for fault in FAULTS]
    assert all(re.fullmatch(r"\d\.\d", each) for each in shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}")
    options = parser.parse_args()
    logger.remove()
    with LocalMistral(Speaker()) as mistral:
        came = asyncio.run(meet_all(FAULTS, mistral))
    # What did not come as the table says has not been measured, and the page is not written.
    if failed := {name: e for name, e in came.items() if isinstance(e, BaseException)}:
        print(*(f"{name}: {error!r:.300}" for name, error in failed.items()), sep="\n")
        sys.exit(1)
    page = printed({name: f"{seconds:.1f}" for name, seconds in came.items()})
    if options.write:
        DOCUMENT.write_text(page)
    else:
        print(page)


if __name__ == "__main__":
    main()
