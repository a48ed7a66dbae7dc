"""Deadlines, second attempts, and sentences finished after a cut."""

import asyncio
import re
import tracemalloc

import pytest
from call import Call
from hypothesis import given
from hypothesis import strategies as st
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema

from mistral_service.local import LocalMistral, Reply
from mistral_service.local.pieces import Delta, Headers, Wait
from mistral_service.reply.continuation import Continuation, Overlap
from mistral_service.turn.retries import Attempts, Handled, Limits
from mistral_service.wire.errors import MistralError, Reason

TOOL = FunctionSchema(name="one", description="For tests.", properties={}, required=[])
QUICK = {"first_token_timeout": 0.5, "stall_timeout": 0.4, "turn_timeout": 3.0}

# --- the decision, without a clock ----------------------------------------------------------------


def attempts(**limits) -> Attempts:
    return Attempts(Limits(**limits), began=100.0, jitter=lambda: 0.5)


@pytest.mark.parametrize("reason", list(Reason))
def test_only_what_may_pass_is_tried_again(reason: Reason):
    again = attempts().after(MistralError(reason), 100.5)
    assert (again is not None) == reason.retryable


def test_pauses_grow_and_attempts_end():
    tries = attempts(attempts=4)
    pauses = [tries.after(MistralError(Reason.SERVER), 100.5) for _ in range(4)]
    assert [p and round(p, 3) for p in pauses] == [0.1, 0.2, 0.4, None]


def test_a_stream_that_timed_out_is_asked_for_again_at_once():
    again = attempts().after(MistralError(Reason.TIMEOUT), 104.0)
    assert again == 0.0


def test_what_the_server_asks_for_is_respected_up_to_the_budget():
    short = MistralError(Reason.RATE_LIMIT, retry_after=2.0)
    assert attempts().after(short, 100.0) == 2.0
    long = MistralError(Reason.RATE_LIMIT, retry_after=60.0)
    assert attempts().after(long, 100.0) is None
    assert "Try again in 60 s" in str(long)


def test_an_attempt_may_take_what_is_left_of_the_budget():
    tries = attempts(first_token=4.0, turn=9.0)
    assert tries.first_token_within(100.0) == 4.0
    assert tries.after(MistralError(Reason.TIMEOUT), 104.0) is not None
    assert tries.first_token_within(104.0) == 5.0


def test_a_cut_in_mid_sentence_has_a_budget_of_its_own():
    tries = attempts(turn=9.0)
    fault = MistralError(Reason.UNREACHABLE)
    assert tries.after(fault, 160.0) is None
    assert tries.after(fault, 160.0, silent_since=150.0) is None
    assert tries.after(fault, 160.0, silent_since=158.0) is not None


def test_a_reply_that_brought_nothing_is_asked_for_again_within_the_same_limits():
    tries = attempts(turn=9.0, attempts=3)
    assert tries.again(103.0)
    assert tries.first_token_within(103.0) == 6.0
    assert not attempts(attempts=1).again(100.0)
    assert not attempts(turn=9.0).again(108.9)


@given(
    st.lists(st.tuples(st.floats(0, 5), st.sampled_from(list(Reason)), st.booleans()), max_size=8),
    st.sampled_from([None, 0.0, 0.5, 8.0]),
)
def test_no_attempt_begins_after_the_budget(faults, retry_after):
    tries, now, last_word = attempts(attempts=10), 100.0, 100.0
    for seconds, reason, spoke in faults:
        now += seconds
        last_word = now if spoke else last_word
        error = MistralError(reason, retry_after=retry_after)
        again = tries.after(error, now, silent_since=now if spoke else None)
        if again is None:
            break
        assert again >= 0
        now += again
        assert now < last_word + tries.limits.turn
        assert tries.first_token_within(now) > 0


# --- joining what was cut -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "goes_on", "new"),
    [
        ("One two ", "three.", "three."),
        ("One two", " three.", " three."),
        ("One two", "three.", " three."),
        ("One two", ", three.", ", three."),
        ("One two", "two three.", " three."),
        ("One two", "One two three.", " three."),
        ("One thr", "three.", "ee."),
        ("One two ", " two three.", "three."),
        ("I wa", "as ever", " as ever"),
        ("", "One.", "One."),
        ("One two.", "One two.", ""),
        ("The quick ", " The quick brown.", "brown."),
        ("The quick ", "\nThe quick brown.", "brown."),
        ("The quick ", "\ufeffThe quick brown.", "brown."),
        ("The quick ", "\ufeffbrown.", "brown."),
        ("The quick ", "the quick brown.", "brown."),
        ("The quick ", "QUICK brown.", "brown."),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_continuation_joins_without_a_repeated_or_lost_word(said, goes_on, new, size):
    overlap = Overlap(said)
    pieces = [goes_on[i : i + size] for i in range(0, len(goes_on), size)]
    assert "".join(map(overlap.feed, pieces)) + overlap.finish() == new


def test_joining_takes_no_more_room_than_what_was_said():
    said = " ".join(f"word{number}" for number in range(20_000))
    tracemalloc.start()
    try:
        overlap = Overlap(said)
        new = "".join(map(overlap.feed, ["word19998 ", "word19999 ", "and more."]))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert new == " and more."
    assert most < 20 * len(said)


@given(st.text(max_size=12), st.text(max_size=12), st.integers(1, 4))
def test_a_repeated_prefix_is_taken_out_and_nothing_else(prefix: str, rest: str, size: int):
    for reply, new in ((prefix + rest, rest), ("§" + rest, "§" + rest)):
        if reply.startswith("§") and prefix.startswith("§"):
            continue
        repeated = Continuation(prefix, "", exact=False)
        pieces = [reply[i : i + size] for i in range(0, len(reply), size)]
        assert "".join(map(repeated.feed, pieces)) + repeated.finish() == new


# --- in a pipeline --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Reply("Late.", wait=5),
        Reply("Late.", first_wait=5),
        Reply("Late.", stall_after=0),
        Reply("Late.", cut_after=0),
        Reply(raw=b""),
        Reply(raw=b"data: {broken\n\n"),
        Reply(raw=b'data: {"object":"error","message":"overloaded"}\n\n'),
        Reply(status=500, body="<html>oops</html>"),
        Reply(status=503, body={"message": "Service tier capacity exceeded"}),
        Reply(status=429, body={"message": "slow"}, headers={"retry-after": "0.2"}),
        Reply(status=408, body={}),
        Reply(status=529, body="overloaded"),
    ],
)
@pytest.mark.parametrize("tools", [[], [TOOL]])
async def test_a_fault_before_the_first_word_costs_a_moment_and_no_word(
    serve, service_for, fault: Reply, tools
):
    mistral = serve(fault, Reply("Here I am."))
    service = service_for(mistral, **QUICK)
    told: list[Handled] = []

    @service.event_handler("on_fault_handled")
    async def on_fault_handled(_service, error, handled) -> None:
        assert error.retryable
        told.append(handled)

    async with Call(service, tools=tools) as call:
        assert await call.say("Hello.") == "Here I am."
        assert not call.errors
        assert call.service.is_usable
    assert [(each.done, each.attempt) for each in told] == [("retried", 2)]
    assert len(mistral.exchanges) == 2


@pytest.mark.parametrize("tools", [[], [TOOL]])
@pytest.mark.parametrize("fault", [{"cut_after": 2}, {"stall_after": 2}])
async def test_a_sentence_that_is_cut_is_finished(serve, service_for, fault, tools):
    """Without functions the API repeats the prefix; with them the model is asked to go on."""
    whole = "One two three four."
    goes_on = "two three four." if tools else whole
    mistral = serve(Reply(whole, **fault), Reply(goes_on))
    async with Call(service_for(mistral, **QUICK), tools=tools) as call:
        assert await call.say("Count.") == whole
        assert not call.errors
        # The aggregator hears the end of the reply a moment after we do.
        await call.until(lambda: call.context.get_messages()[-1]["role"] == "assistant")
    assert call.context.get_messages()[-1]["content"] == whole
    asked = mistral.exchanges[1].request["messages"]
    last = asked[-1]
    assert (last["role"], last.get("prefix")) == (("user", None) if tools else ("assistant", True))
    assert mistral.exchanges[1].refused is None


async def test_a_reply_cut_in_a_call_starts_the_call_again_and_runs_it_once(serve, service_for):
    half = (
        b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"abcdefgh1",'
        b'"function":{"name":"one","arguments":"{\\"a\\""}}]}}]}\n\n'
    )
    mistral = serve(
        Reply(raw=half), Reply(tool_calls=[{"name": "one", "id": "abcdefgh2"}]), Reply("Done.")
    )
    service = service_for(mistral, **QUICK)
    ran: list[str] = []

    async def handler(params) -> None:
        ran.append(params.tool_call_id)
        await params.result_callback("ok")

    service.register_function("one", handler)
    async with Call(service, tools=[TOOL]) as call:
        assert await call.say("Do it.", turns=2) == "Done."
    assert ran == ["abcdefgh2"]


def clock() -> float:
    """The loop's time, which a busy machine slows down."""
    return asyncio.get_running_loop().time()


async def test_a_turn_that_cannot_be_saved_is_told_in_time(serve, service_for):
    mistral = serve(Reply("Late.", wait=9, times=None))
    service = service_for(mistral, first_token_timeout=0.5, turn_timeout=1.2)
    timeouts: list[float] = []

    @service.event_handler("on_completion_timeout")
    async def on_completion_timeout(_service) -> None:
        timeouts.append(clock())

    async with Call(service) as call:
        began = clock()
        await call.say("Hello.")
        [error] = call.errors
        assert re.search(r"no first token came in 0\.\d+ s", error.error)
        assert clock() - began < 3
        assert call.service.is_usable
        # The server notices a moment after we have closed.
        await call.until(lambda: all(exchange.left for exchange in mistral.exchanges))
    assert timeouts


async def test_with_one_attempt_nothing_is_tried_again(serve, service_for):
    mistral = serve(Reply(status=500, body="oops", times=None))
    async with Call(service_for(mistral, max_attempts=1)) as call:
        await call.say("Hello.")
        assert len(call.errors) == 1
    assert len(mistral.exchanges) == 1


async def test_a_rate_limit_beyond_the_budget_is_told_at_once_with_when(serve, service_for):
    limited = Reply(status=429, body={"message": "slow"}, headers={"retry-after": "60"})
    mistral = serve(limited)
    async with Call(service_for(mistral)) as call:
        await call.say("Hello.")
        [error] = call.errors
        assert "Try again in 60 s" in error.error
    assert len(mistral.exchanges) == 1


async def test_a_slow_but_living_stream_is_left_alone(service_for):
    """Deadlines are between outputs: a reply may take longer than any of them."""

    class Slow:
        async def answer(self, request):
            yield Headers()
            for word in ("One ", "two ", "three ", "four ", "five."):
                yield Wait(0.25)
                yield Delta({"content": word})
            from mistral_service.local.pieces import End

            yield End()

        async def close(self) -> None: ...

    with LocalMistral(Slow()) as mistral:
        service = service_for(mistral, first_token_timeout=0.6, stall_timeout=0.6, turn_timeout=0.9)
        async with Call(service) as call:
            assert await call.say("Count.") == "One two three four five."
            assert not call.errors


async def test_an_interruption_in_a_pause_between_attempts_ends_the_turn(serve, service_for):
    limited = Reply(status=429, body={}, headers={"retry-after": "2"})
    mistral = serve(limited, Reply("Too late."), Reply("Yes?"))
    async with Call(service_for(mistral)) as call:
        await call.begin("Hello.")
        await call.until(lambda: mistral.exchanges and mistral.exchanges[0].ended)
        await call.interrupt()
        await asyncio.sleep(0.1)
        assert await call.say("Wait.") == "Too late."
        assert not call.errors
    assert len(mistral.exchanges) == 2


# --- with the defaults, on a real clock -----------------------------------------------------------


@pytest.mark.parametrize("hangs", [{"wait": 60}, {"first_wait": 60}])
async def test_with_the_defaults_a_request_that_hangs_costs_less_than_six_seconds(
    serve, service_for, hangs
):
    mistral = serve(Reply("Late.", **hangs), Reply("Here I am."))
    async with Call(service_for(mistral)) as call:
        began = clock()
        assert await call.say("Hello.") == "Here I am."
        assert clock() - began < 6


async def test_with_the_defaults_a_turn_that_cannot_be_saved_is_told_within_ten_seconds(
    serve, service_for
):
    mistral = serve(Reply("Late.", wait=60, times=None))
    async with Call(service_for(mistral)) as call:
        began = clock()
        await call.begin("Hello.")
        await call.until(lambda: call.errors, seconds=12)
        assert clock() - began < 10
        assert call.service.is_usable
