"""One conversation, two providers: `LLMSwitcher` between Mistral and another, in mid-call."""

import asyncio
import runpy
from pathlib import Path

import pytest
from call import Call
from openai_endpoint import OpenAIChecks, openai_calls
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import (
    FunctionCallResultFrame,
    LLMFullResponseEndFrame,
    LLMRunFrame,
    ManuallySwitchServiceFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.service_switcher import (
    ServiceSwitcherStrategyFailover,
    ServiceSwitcherStrategyManual,
)
from pipecat.processors.aggregators.llm_context import LLMSpecificMessage
from pipecat.services.openai.llm import OpenAILLMService

from mistral_service.local import Checks, Reply
from mistral_service.wire.errors import MistralError, Reason

EXAMPLE = Path(__file__).parents[2] / "examples" / "switching.py"
LONG = "call_" + "9aF3kQ0zYxWvUtSrQpOnMlKj"
LONGER = "call_" + "bbbbbbbbbbbbbbbbbbbbbbbb"


def weather() -> FunctionSchema:
    city = {"city": {"type": "string"}}
    return FunctionSchema(name="weather", description="", properties=city, required=["city"])


@pytest.fixture
def two(serve, service_for):
    """Mistral, the other, their endpoints, and the functions that ran: `two([…], […])`."""

    def make(
        ours, theirs, strategy=ServiceSwitcherStrategyManual, handler=None, checks=None, **settings
    ):
        strict, other = serve(*ours, checks=checks), serve(*theirs, checks=OpenAIChecks())
        mistral = service_for(strict, **settings)
        openai = OpenAILLMService(
            api_key="any",
            base_url=other.base_url,
            settings=OpenAILLMService.Settings(model="gpt-4.1"),
        )
        switcher = LLMSwitcher(llms=[mistral, openai], strategy_type=strategy)
        ran: list[str] = []

        async def look(params) -> None:
            ran.append(params.arguments["city"])
            await params.result_callback({"degrees": len(ran)})

        switcher.register_function("weather", handler or look)
        return switcher, strict, other, ran

    return make


async def switch(call: Call, service) -> None:
    await call.worker.queue_frame(ManuallySwitchServiceFrame(service=service))


def texts(endpoint, number: int = -1) -> str:
    return str(endpoint.exchanges[number].request["messages"])


def accepted(*endpoints) -> bool:
    return all(e.refused is None for endpoint in endpoints for e in endpoint.exchanges)


async def test_calls_of_one_are_read_by_the_other_and_back(two):
    switcher, strict, other, ran = two(
        [
            Reply(
                "Let me look. ",
                tool_calls=[
                    {"name": "weather", "arguments": {"city": "Paris"}},
                    {"name": "weather", "arguments": {"city": "Rome"}},
                ],
            ),
            Reply("Paris one, Rome two."),
            Reply("Oslo was coldest, at three."),
            Reply(tool_calls=[{"name": "weather", "arguments": {"city": "Bern"}}]),
            Reply("Bern five."),
        ],
        [
            openai_calls(
                {"name": "weather", "id": LONG, "arguments": {"city": "Oslo"}},
                {"name": "weather", "id": LONGER, "arguments": {"city": "Kyiv"}},
            ),
            Reply("Oslo three, Kyiv four."),
            Reply("Five cities."),
        ],
    )
    mistral, openai = switcher.llms
    developer = {"role": "developer", "content": "Speak of degrees."}
    async with Call(switcher, developer, tools=[weather()]) as call:
        assert await call.say("Paris and Rome?", turns=2) == "Let me look. Paris one, Rome two."
        await switch(call, openai)
        call.context.add_message({"role": "developer", "content": "Be colder."})
        assert await call.say("Oslo and Kyiv?", turns=2) == "Oslo three, Kyiv four."
        await switch(call, mistral)
        assert await call.say("Where was it coldest?") == "Oslo was coldest, at three."
        assert await call.say("And Bern?", turns=2) == "Bern five."
        await switch(call, openai)
        assert await call.say("How many cities?") == "Five cities."
    assert ran == ["Paris", "Rome", "Oslo", "Kyiv", "Bern"]
    assert not call.errors
    assert accepted(strict, other)
    said = ["Speak of degrees.", "Let me look.", "Paris one", "Be colder.", "Oslo three", "coldest"]
    for words in [*said, '"degrees": 1', '"degrees": 2', '"degrees": 3', '"degrees": 4']:
        assert words in texts(strict)
        assert words in texts(other)
    assert LONG not in texts(strict)  # it is told under an id that Mistral takes
    assert LONG in texts(other)


async def test_a_call_of_the_other_that_mistral_repeats_does_not_run_again(two):
    switcher, strict, other, ran = two(
        [Reply("As I said, one.")],
        [
            openai_calls({"name": "weather", "id": LONG, "arguments": {"city": "Oslo"}}),
            Reply("Oslo one."),
        ],
    )
    mistral, openai = switcher.llms
    async with Call(switcher, tools=[weather()]) as call:
        await switch(call, openai)
        await call.say("Oslo?", turns=2)
        await switch(call, mistral)
        await call.say("Sure?")
        told = next(m for m in strict.exchanges[0].request["messages"] if m.get("tool_calls"))
        repeated = {**told["tool_calls"][0]["function"], "id": told["tool_calls"][0]["id"]}
        strict.script.add(Reply(tool_calls=[repeated]), Reply("Still one."))
        assert await call.say("Really?") == "Still one."
    assert ran == ["Oslo"]
    assert accepted(strict, other)


@pytest.mark.parametrize("first", ["mistral", "other"])
async def test_a_result_that_comes_after_the_switch_is_spoken_by_the_one_in_charge(two, first):
    looked = asyncio.Event()
    ran: list[str] = []

    async def slow(params) -> None:
        ran.append(params.arguments["city"])
        await looked.wait()
        await params.result_callback({"degrees": 7})

    called = {"name": "weather", "id": LONG, "arguments": {"city": "Oslo"}}
    ours = [Reply(tool_calls=[{"name": "weather", "arguments": {"city": "Oslo"}}])]
    theirs = [openai_calls(called)]
    answers = [Reply("I am still looking."), Reply("Seven.")]
    if first == "mistral":
        theirs = answers
    else:
        ours = answers
    switcher, strict, other, _ = two(ours, theirs, handler=slow)
    one, another = switcher.llms if first == "mistral" else reversed(switcher.llms)
    async with Call(switcher, tools=[weather()]) as call:
        await switch(call, one)
        await call.say("Oslo?")
        await call.until(lambda: ran)
        await switch(call, another)
        assert await call.say("Well?") == "I am still looking."
        looked.set()
        await call.until(lambda: "Seven." in call.words)
        await call.until(lambda: call.count(FunctionCallResultFrame))
    assert ran == ["Oslo"]
    assert not call.errors
    assert accepted(strict, other)


async def test_messages_of_one_provider_alone_stay_with_it(two):
    switcher, strict, other, _ = two(
        [Reply("Here."), Reply("And here.")], [Reply("There."), Reply("And there.")]
    )
    _, openai = switcher.llms
    async with Call(switcher) as call:
        call.context.add_message(
            LLMSpecificMessage("mistral", {"role": "system", "content": "For Mistral alone."})
        )
        call.context.add_message(
            LLMSpecificMessage("openai", {"role": "user", "content": "Said to the other."})
        )
        await call.say("Where?")
        await switch(call, openai)
        await call.say("Where now?")
    assert "For Mistral alone." in texts(strict)
    assert "Said to the other." in texts(strict)  # the user's words are lost to nobody
    assert "For Mistral alone." not in texts(other)
    assert accepted(strict, other)


async def test_kept_thoughts_come_back_to_mistral_and_go_to_nobody_else(two):
    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm, a riddle."}]}]
    switcher, strict, other, _ = two(
        [Reply(deltas=[{"content": thinking}, {"content": "Four."}]), Reply("Still four.")],
        [Reply("Four indeed.")],
        checks=Checks(versions=("v13", "v15"), templates=False),
        keep_thoughts=True,
        reasoning_effort="high",
    )
    mistral, openai = switcher.llms
    async with Call(switcher) as call:
        assert await call.say("Two and two?") == "Four."
        await switch(call, openai)
        assert await call.say("Sure?") == "Four indeed."
        await switch(call, mistral)
        assert await call.say("Really?") == "Still four."
    assert "riddle" not in texts(other)
    assert "riddle" in texts(strict)
    assert accepted(strict, other)


async def test_pipecats_failover_leaves_a_mistral_whose_key_is_wrong(two):
    switcher, _, other, _ = two(
        [Reply(status=401, body={"detail": "Unauthorized"})],
        [Reply("I answer in its place."), Reply("Still me.")],
        strategy=ServiceSwitcherStrategyFailover,
    )

    async with Call(switcher) as call:

        @switcher.strategy.event_handler("on_service_switched")
        async def on_service_switched(_strategy, _service) -> None:
            await call.worker.queue_frame(LLMRunFrame())

        await call.say("Who is there?", turns=2)
        assert call.words == "I answer in its place."
        assert await call.say("And now?") == "Still me."
    assert not call.errors  # the switcher has met it
    assert accepted(other)
    assert texts(other, 0).count("Who is there?") == 1


async def test_pipecats_failover_stays_where_one_turn_failed(two):
    switcher, *_ = two(
        [Reply(status=429, body={"message": "slow down"}), Reply("Here again.")],
        [],
        strategy=ServiceSwitcherStrategyFailover,
        max_attempts=1,
    )
    async with Call(switcher) as call:
        await call.say("Who is there?")
        assert await call.say("And now?") == "Here again."
    (error,) = call.errors
    assert isinstance(error.exception, MistralError)
    assert error.exception.reason is Reason.RATE_LIMIT
    assert call.count(LLMFullResponseEndFrame) == 2


async def test_the_other_answers_from_the_result_where_mistral_is_lost_after_the_function(two):
    take_over = runpy.run_path(str(EXAMPLE))["TakeOver"]
    switcher, strict, other, ran = two(
        [
            Reply(tool_calls=[{"name": "weather", "arguments": {"city": "Oslo"}}]),
            Reply(status=503, body={"message": "full"}),
        ],
        [Reply("Oslo one.")],
        strategy=take_over,
        max_attempts=1,
    )
    async with Call(switcher, tools=[weather()]) as call:

        @switcher.strategy.event_handler("on_turn_lost")
        async def on_turn_lost(_strategy, _service) -> None:
            await call.worker.queue_frame(LLMRunFrame())

        assert await call.say("Oslo?", turns=3) == "Oslo one."
    assert ran == ["Oslo"]
    assert not call.errors
    assert accepted(strict, other)
    assert '"degrees": 1' in texts(other)


async def test_who_is_interrupted_before_the_switch_says_no_more(two):
    switcher, strict, other, _ = two([Reply("word " * 200, pause=0.02)], [Reply("I am here.")])
    _, openai = switcher.llms
    async with Call(switcher) as call:
        await call.begin("Tell me a story.")
        await call.until(lambda: "word" in call.words)
        await call.interrupt()
        await switch(call, openai)
        await call.until(lambda: strict.exchanges[0].left)
        said = len(call.words)
        await call.say("Who is there?")
        assert call.words[said:] == "I am here."
    assert accepted(strict, other)
