"""Every fault of the table, over real HTTP through a real pipeline, with and without functions.

`python tests/test_fault_matrix.py --write` prints what came of each into `docs/faults.md`.
"""

import asyncio
import inspect
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from call import Call
from faults import AFTERWARDS, ARGUMENTS, FAULTS, FUNCTION, LIMITS, TEXT, Fault
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import LLMFullResponseEndFrame
from rough_road import Bytes, Ending, Place, Road, Trouble, untrusted

from mistral_service import MistralLLMService
from mistral_service.conversation.rules import GO_ON
from mistral_service.local import LocalMistral, Reply

DOCUMENT = Path(__file__).parent.parent / "docs" / "faults.md"
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
        elif last["content"] == GO_ON:
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
    settings = {**LIMITS, **limits}
    if "hedging" in {f.name for f in fields(MistralLLMService.Settings)}:
        settings["hedging"] = False
    options: dict[str, Any] = {}
    if "warm_up" in inspect.signature(MistralLLMService.__init__).parameters:
        options["warm_up"] = False
    return MistralLLMService(
        api_key="test-key",
        base_url=base_url,
        settings=MistralLLMService.Settings(**settings),
        **options,
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
        limits = {"turn_timeout": fault.turn_timeout} if fault.turn_timeout else {}
        service = service_for(base_url, **limits)
        if fault.port_closed and not fault.always:

            @service.event_handler("on_fault_handled")
            async def on_fault_handled(*_: object) -> None:
                await road.open()

        async def make_tea(params) -> None:
            self.ran.append(params.arguments)
            await params.result_callback("Tea is ready.")

        service.register_function(FUNCTION, make_tea)
        self.call = Call(service, tools=[TEA] if tools else [])

    def meet(self, trouble: Trouble | None) -> None:
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


async def met(fault: Fault, mistral: LocalMistral, *, tools: bool) -> float:
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
            going.meet(trouble)
            times.append(await going.turn(fault.words(tools=tools), told=told))
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
            going.meet(None)
            await going.turn(TEXT + (AFTERWARDS if tools else ""))
    return max(times)


def tasks() -> Counter[str]:
    """What runs, but for the road itself."""
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]
    return Counter(name for name in names if not name.startswith("Road."))


async def interrupted(fault: Fault, mistral: LocalMistral) -> None:
    """Speak in the middle of a fault, and be heard."""
    tools = fault.only_with_tools
    for trouble in fault.troubles or [None]:
        async with journey(fault, mistral, tools=tools) as going:
            road, call = going.road, going.call
            going.meet(trouble)
            before = tasks()
            await call.begin("How are you?")
            if trouble is None:
                await call.until(lambda: road.arrivals or call.frames)
            else:
                await call.until(road.met.is_set)
            await call.interrupt()
            await call.until(lambda: road.quiet)
            await call.until(lambda: tasks() == before)
            assert not call.errors or fault.told
            if fault.tls or fault.port_closed:
                continue
            going.meet(None)
            heard, errors = call.words, len(call.errors)
            whole = TEXT + (AFTERWARDS if tools else "")
            await call.begin("And now?")
            await call.until(lambda: call.words[len(heard) :] == whole)
            await call.until(lambda: call.context.get_messages()[-1]["role"] == "assistant")
            assert len(call.errors) == errors
        said = [(m["role"], m.get("content")) for m in call.context.get_messages()]
        kept = [("assistant", heard.strip())] if heard.strip() else []
        assert said[: 2 + len(kept)] == [("user", "How are you?"), *kept, ("user", "And now?")]
        assert said[-1] == ("assistant", whole if not tools else AFTERWARDS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_ends_as_the_table_says(mistral: LocalMistral, fault: Fault):
    ways = [met(fault, mistral, tools=tools) for tools in (False, True)]
    await asyncio.gather(*ways[1:] if fault.only_with_tools else ways)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_an_interruption_in_a_fault_leaves_nothing_behind(
    mistral: LocalMistral, fault: Fault
):
    await interrupted(fault, mistral)
