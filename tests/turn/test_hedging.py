"""A second request beside one that is late: when it goes out, and that the first to speak wins."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from by_hand import ByHand, Step
from call import Call
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import LLMUpdateSettingsFrame
from waiting import until

from mistral_service import MistralLLMService, MistralTurnMetrics
from mistral_service.local import LocalMistral, Reply
from mistral_service.local.pieces import Delta, End, Refusal
from mistral_service.reply.reader import ReplyReader
from mistral_service.turn.hedge import FLOOR, Pace
from mistral_service.turn.race import Request, first_to_speak
from mistral_service.wire.rate import WINDOW, RateBudget, retry_after

TOOL = FunctionSchema(name="one", description="For tests.", properties={}, required=[])
SOON = {"hedge_after": 0.3, "first_token_timeout": 3}

# --- the decision ---------------------------------------------------------------------------------


def test_a_young_session_waits_two_seconds():
    assert Pace().hedge_after(0) == 2.0


def test_a_session_knows_its_own_pace():
    pace = Pace()
    for _ in range(20):
        pace.spoke(1.4)
    assert pace.hedge_after(0) == 1.4


def test_however_fast_a_session_is_no_second_request_goes_out_within_a_second():
    pace = Pace()
    for _ in range(20):
        pace.spoke(0.1)
    assert pace.hedge_after(0) == FLOOR


@given(st.lists(st.floats(0, 30), min_size=5, max_size=60))
def test_one_turn_in_twenty_is_late(waits):
    pace = Pace()
    for seconds in waits:
        pace.spoke(seconds)
    after = pace.hedge_after(0)
    assert after is not None
    late = [seconds for seconds in waits[-20:] if seconds > after]
    assert len(late) <= 1


def headers(**values: int) -> dict[str, str]:
    names = {
        "requests": "x-ratelimit-limit-req-minute",
        "requests_left": "x-ratelimit-remaining-req-minute",
        "tokens": "x-ratelimit-limit-tokens-minute",
        "tokens_left": "x-ratelimit-remaining-tokens-minute",
        "cost": "x-ratelimit-tokens-query-cost",
    }
    return {names[name]: str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("told", "low", "spent"),
    [
        (headers(requests=60, requests_left=30), False, False),
        (headers(requests=60, requests_left=5), True, False),
        (headers(requests=60, requests_left=0), True, True),
        (headers(tokens=500_000, tokens_left=400_000, cost=900), False, False),
        (headers(tokens=500_000, tokens_left=40_000, cost=900), True, False),
        (headers(tokens=500_000, tokens_left=800, cost=900), True, True),
        (headers(cost=900), False, False),
    ],
)
def test_what_is_left_of_the_minute_is_read(told, low, spent):
    budget = RateBudget.from_headers(told)
    assert budget is not None
    assert (budget.low, budget.spent) == (low, spent)
    pace = Pace()
    pace.budget(budget, now=100)
    assert (pace.hedge_after(101) is None) == low
    assert pace.hedge_after(101 + WINDOW) is not None


@pytest.mark.parametrize("value", ["", "many", "-3", "nan", "inf", "1e9", "٣", "9" * 400])
def test_a_header_that_is_no_number_says_nothing(value):
    assert RateBudget.from_headers({"x-ratelimit-remaining-req-minute": value}) is None


@given(st.dictionaries(st.sampled_from(["retry-after", "date", "x-ratelimit-reset"]), st.text()))
def test_no_header_breaks_the_reading(told):
    seconds = retry_after(told)
    assert seconds is None or seconds >= 0


def test_when_to_come_back_is_told_as_well_as_it_is_known():
    assert retry_after({"retry-after": "7", "ratelimitbysize-reset": "9"}) == 7
    assert retry_after({"ratelimitbysize-reset": "9"}) == 9
    assert retry_after(headers(requests=60, requests_left=0)) == WINDOW
    assert retry_after(headers(requests=60, requests_left=9)) is None


# --- over real HTTP -------------------------------------------------------------------------------


@pytest.mark.parametrize("tools", [[], [TOOL]])
@pytest.mark.parametrize("late", [{"wait": 5}, {"first_wait": 5}, {"stall_after": 0}])
async def test_the_first_to_speak_wins_and_the_other_is_closed(serve, service_for, late, tools):
    mistral = serve(Reply("Late.", **late), Reply("Here I am."))
    async with Call(service_for(mistral, **SOON), tools=tools) as call:
        assert await call.say("Hello.") == "Here I am."
        await call.until(lambda: mistral.exchanges[0].left)
        assert not call.errors
        [took] = call.metrics(MistralTurnMetrics)
    assert (took.attempts, took.hedges, took.hedges_won, took.faults) == (2, 1, 1, 0)


@contextmanager
def racing(*replies: Sequence[Step]) -> Iterator[LocalMistral]:
    """An endpoint whose first reply begins when the second request is there, and not by time."""
    first, *others = replies
    both: list[Step] = [lambda: len(mistral.exchanges) == 2, *first]
    with LocalMistral(ByHand(both, *others)) as mistral:
        yield mistral


async def test_a_late_reply_may_still_win(service_for):
    with racing(["Just in time."], [lambda: False]) as mistral:
        async with Call(service_for(mistral, **SOON)) as call:
            assert await call.say("Hello.") == "Just in time."
            await call.until(lambda: mistral.exchanges[1].left)
            [took] = call.metrics(MistralTurnMetrics)
    assert (took.hedges, took.hedges_won) == (1, 0)


@pytest.mark.parametrize("at_once", ["both", "the second"])
async def test_a_call_that_both_make_runs_once(service_for, at_once: str):
    def made(call_id: str) -> Delta:
        function = {"name": "one", "arguments": "{}"}
        return Delta({"tool_calls": [{"index": 0, "id": call_id, "function": function}]})

    late = [] if at_once == "both" else [lambda: ran]
    replies = [
        [*late, made("abcdefgh1"), End("tool_calls")],
        [made("abcdefgh2"), End("tool_calls")],
        ["Ok"],
    ]
    ran: list[str] = []

    async def handler(params) -> None:
        ran.append(params.tool_call_id)
        await params.result_callback("done")

    with racing(*replies) as mistral:
        service = service_for(mistral, **SOON)
        service.register_function("one", handler)
        async with Call(service, tools=[TOOL]) as call:
            assert await call.say("Do it.", turns=2) == "Ok"
    assert len(ran) == 1


async def test_a_fault_beside_a_second_request_costs_nothing(service_for):
    done: list[str] = []

    async def on_fault_handled(_service, _error, handled) -> None:
        done.append(handled.done)

    with racing([Refusal(500, "oops")], [lambda: done, "Here."]) as mistral:
        service = service_for(mistral, **SOON)
        service.add_event_handler("on_fault_handled", on_fault_handled)
        async with Call(service) as call:
            assert await call.say("Hello.") == "Here."
            assert not call.errors
    assert done == ["outrun"]
    assert len(mistral.exchanges) == 2


async def test_where_both_fail_a_third_is_tried(serve, service_for):
    mistral = serve(
        Reply(status=500, body="oops", wait=0.4),
        Reply(status=500, body="oops", wait=0.2),
        Reply("Third time lucky."),
    )
    async with Call(service_for(mistral, **SOON)) as call:
        assert await call.say("Hello.") == "Third time lucky."
        assert not call.errors


SLOW = [Reply("One.", wait=0.1, pause=0.1)]
# The first attempt ends before a hedge would begin; the one after it may take longer.
BUSY_AND_SLOW = [Reply(status=503), Reply("One.", wait=1.5)]


@pytest.mark.parametrize(
    ("settings", "replies"),
    [
        ({"hedging": False}, SLOW),
        ({"max_attempts": 1}, SLOW),
        ({"first_token_timeout": 0.8, "hedge_after": 0.9}, BUSY_AND_SLOW),
    ],
    ids=["hedging", "max_attempts", "first_token_timeout"],
)
async def test_no_second_request_where_none_is_wanted(serve, service_for, settings, replies):
    mistral = serve(*replies, Reply("Two."))
    async with Call(service_for(mistral, **{**SOON, "hedge_after": 0.05, **settings})) as call:
        assert await call.say("Hello.") == "One."
    assert len(mistral.exchanges) == len(replies)


async def test_no_second_request_while_the_rate_budget_is_low(serve, service_for):
    low = headers(requests=60, requests_left=2)
    mistral = serve(Reply("One.", headers=low), Reply("Two.", wait=0.5), Reply("Three."))
    async with Call(service_for(mistral, hedging=False)) as call:
        assert await call.say("Hello.") == "One."
        # What the answer said of the budget holds for the next turn, which is late.
        delta = MistralLLMService.Settings(hedging=True, hedge_after=0.15)
        await call.worker.queue_frame(LLMUpdateSettingsFrame(delta=delta))
        assert await call.say("And?") == "Two."
    assert len(mistral.exchanges) == 2


@pytest.mark.parametrize("late", [{"wait": 5}, {"first_wait": 5}, {"stall_after": 0}])
async def test_an_interruption_closes_both(serve, service_for, late):
    mistral = serve(Reply("Late.", **late), Reply("Late.", **late), Reply("Yes?"))
    async with Call(service_for(mistral, **SOON)) as call:
        await call.begin("Hello.")
        await call.until(lambda: len(mistral.exchanges) == 2)
        before = {task for task in asyncio.all_tasks() if "begin" in repr(task)}
        assert len(before) == 2
        await call.interrupt()
        await call.until(lambda: all(exchange.left for exchange in mistral.exchanges[:2]))
        assert all(task.done() for task in before)
        assert await call.say("Wait.") == "Yes?"
        assert not call.errors


class Answer:
    """A reply that begins after a while, and takes its time to end when it is cancelled."""

    def __init__(self, wait: float) -> None:
        self.wait = wait
        self.ending = asyncio.Event()
        self.closed = False

    async def __aiter__(self):
        try:
            await asyncio.sleep(self.wait)
            yield ChatCompletionChunk.model_construct(choices=[{"delta": {"content": "One."}}])
        finally:
            self.ending.set()
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        self.closed = True


async def test_an_interruption_just_when_one_has_won_closes_both():
    late, soon = Answer(5), Answer(0.01)

    def request(answer: Answer) -> Request[None]:
        async def send() -> tuple[Answer, None, ReplyReader]:
            return answer, None, ReplyReader()

        return Request(send)

    async def lost(_: Exception) -> None: ...

    racing = asyncio.create_task(first_to_speak(request(late), 0.01, lambda: request(soon), lost))
    await asyncio.wait_for(late.ending.wait(), 5)
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    await until(lambda: late.closed and soon.closed)
