"""Rate limits: the strict endpoint's, the sliding window, and a service with a rate limiter."""

import asyncio
import json
import urllib.error
import urllib.request

import pytest
from call import Call
from hypothesis import given
from hypothesis import strategies as st
from pipecat.processors.aggregators.llm_context import LLMContext

from mistral_service import MistralLLMService
from mistral_service.local import LocalMistral, RateLimits, Reply, Script
from mistral_service.scale.budget import SharedBudget
from mistral_service.scale.sliding_window import UNIT, SlidingWindow
from mistral_service.turn.shared_services import (
    Rank,
    RequestEstimate,
    SharedServices,
    shared_services,
)
from mistral_service.wire.errors import HeldBack, MistralError, Reason
from mistral_service.wire.rate import RateBudget

KEY = "a-key-that-nobody-else-has"


class InMemoryLimiter:
    """A rate limiter in memory, which refuses as the test says."""

    def __init__(self, *refusals: float, spare: bool = True) -> None:
        self.refusals = list(refusals)
        self.spare = spare
        self.asked: list[RequestEstimate] = []
        self.told: list[RateBudget | None] = []
        self.limited: list[MistralError] = []
        self.costs: list[int] = []

    async def acquire(self, ask: RequestEstimate) -> None:
        self.asked.append(ask)
        if self.refusals:
            raise HeldBack(self.refusals.pop(0))

    def has_headroom(self, ask: RequestEstimate) -> bool:
        return self.spare

    def record_answer(self, ask: RequestEstimate, budget: RateBudget | None) -> None:
        self.told.append(budget)

    def record_refusal(self, ask: RequestEstimate, error: MistralError) -> None:
        self.limited.append(error)

    def record_usage(self, ask: RequestEstimate, tokens: int) -> None:
        self.costs.append(tokens)


def service(
    mistral: LocalMistral, rate_limiter: InMemoryLimiter | None = None, **settings
) -> MistralLLMService:
    return MistralLLMService(
        api_key=KEY,
        base_url=mistral.base_url,
        warm_up=False,
        rate_limiter=rate_limiter,
        settings=MistralLLMService.Settings(**settings),
    )


# --- the service and its rate limiter -------------------------------------------------------------


async def test_the_first_turn_is_a_new_call_and_those_after_it_go_on(serve):
    rate_limiter, mistral = InMemoryLimiter(), serve(Reply("One."), Reply("Two."))
    async with Call(service(mistral, rate_limiter)) as call:
        await call.say("Hello?")
        await call.say("And then?")
    assert [ask.rank for ask in rate_limiter.asked] == [Rank.NEW_CALL, Rank.TURN]
    assert rate_limiter.asked[0].model == "mistral-small-latest"
    assert len({ask.account for ask in rate_limiter.asked}) == 1
    assert KEY not in str(rate_limiter.asked)


async def test_a_call_that_comes_with_turns_behind_it_goes_on(serve):
    rate_limiter, mistral = InMemoryLimiter(), serve(Reply("Two."))
    before = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "One."}]
    async with Call(service(mistral, rate_limiter), *before) as call:
        await call.say("And then?")
    assert rate_limiter.asked[0].rank is Rank.TURN


async def test_what_a_turn_has_cost_is_what_the_next_one_asks_for(serve):
    usage = {"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1000}
    rate_limiter, mistral = InMemoryLimiter(), serve(Reply("One.", usage=usage), Reply("Two."))
    async with Call(service(mistral, rate_limiter)) as call:
        await call.say("Hello?")
        await call.say("And then?")
    assert rate_limiter.costs[0] == 1000
    assert 1000 < rate_limiter.asked[1].tokens < 1300


async def test_what_the_server_counts_wins_over_what_the_reply_says():
    rate_limiter = InMemoryLimiter()
    limits = RateLimits(requests_per_minute=10, tokens_per_minute=100_000)
    with LocalMistral(Script(Reply("One.")), limits=limits) as mistral:
        async with Call(service(mistral, rate_limiter)) as call:
            await call.say("Hello?")
    (budget,) = rate_limiter.told
    assert budget is not None
    assert (budget.request_limit, budget.requests_left) == (10, 9)
    assert rate_limiter.costs == [budget.query_cost]


async def test_who_is_held_back_for_a_moment_waits_and_is_answered(serve):
    rate_limiter, mistral = InMemoryLimiter(0.2), serve(Reply("Here."))
    async with Call(service(mistral, rate_limiter)) as call:
        assert await call.say("Hello?") == "Here."
        assert not call.errors
    assert len(mistral.exchanges) == 1
    assert len(rate_limiter.asked) == 2


async def test_who_is_held_back_for_too_long_is_told_at_once_and_nothing_is_sent(serve):
    rate_limiter, mistral = InMemoryLimiter(40.0), serve(Reply("Never."))
    async with Call(service(mistral, rate_limiter)) as call:
        await call.say("Hello?")
        await call.until(lambda: call.errors)
        (error,) = call.errors
    for words in ("rate limit", "held back", "40 s"):
        assert words in error.error
    assert mistral.exchanges == []


async def test_who_is_held_back_asks_the_fallback_model(serve):
    rate_limiter, mistral = InMemoryLimiter(40.0), serve(Reply("From the other."))
    async with Call(
        service(mistral, rate_limiter, fallback_models=["mistral-large-latest"])
    ) as call:
        assert await call.say("Hello?") == "From the other."
    assert [ask.model for ask in rate_limiter.asked] == [
        "mistral-small-latest",
        "mistral-large-latest",
    ]


async def test_a_model_that_was_held_back_is_asked_again_as_soon_as_there_is_room(serve):
    rate_limiter, mistral = InMemoryLimiter(0.4), serve(Reply("One."), Reply("Two."))
    async with Call(
        service(mistral, rate_limiter, fallback_models=["mistral-large-latest"])
    ) as call:
        assert await call.say("Hello?") == "One."
        await asyncio.sleep(0.5)
        assert await call.say("And now?") == "Two."
    asked = [exchange.request["model"] for exchange in mistral.exchanges]
    assert asked == ["mistral-large-latest", "mistral-small-latest"]


async def test_a_refusal_of_the_server_is_told_to_the_gate(serve):
    refusal = Reply(status=429, body={"code": "1300"}, headers={"retry-after": "0"})
    rate_limiter, mistral = InMemoryLimiter(), serve(refusal, Reply("Here."))
    async with Call(service(mistral, rate_limiter)) as call:
        assert await call.say("Hello?") == "Here."
    assert [error.reason for error in rate_limiter.limited] == [Reason.RATE_LIMIT]


@pytest.mark.parametrize("spare", [True, False])
async def test_a_second_request_goes_out_only_where_it_can_be_spared(serve, spare: bool):
    rate_limiter = InMemoryLimiter(spare=spare)
    mistral = serve(Reply("Late.", first_wait=20.0 if spare else 0.6), Reply("Soon."))
    patient = {"hedge_after": 0.1, "first_token_timeout": 30.0, "turn_timeout": 40.0}
    async with Call(service(mistral, rate_limiter, **patient)) as call:
        assert await call.say("Hello?") == ("Soon." if spare else "Late.")
    ranks = [Rank.NEW_CALL, Rank.HEDGE] if spare else [Rank.NEW_CALL]
    assert [ask.rank for ask in rate_limiter.asked] == ranks


async def test_a_question_beside_the_conversation_asks_the_gate_too(serve):
    rate_limiter, mistral = InMemoryLimiter(0.1), serve(Reply("A summary."))
    context = LLMContext(messages=[{"role": "user", "content": "Sum it up."}])
    assert await service(mistral, rate_limiter).run_inference(context) == "A summary."
    assert [ask.rank for ask in rate_limiter.asked] == [Rank.TURN, Rank.TURN]
    assert len(rate_limiter.costs) == 1


async def test_a_service_finds_the_gate_in_its_surroundings(serve):
    rate_limiter, mistral = InMemoryLimiter(), serve(Reply("Here."))
    token = shared_services.set(SharedServices(rate_limiter=rate_limiter))
    try:
        llm = service(mistral)
    finally:
        shared_services.reset(token)
    async with Call(llm) as call:
        await call.say("Hello?")
    assert len(rate_limiter.asked) == 1


# --- the sliding window ---------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 900)), max_size=60))
def test_whoever_waits_for_room_keeps_within_the_limits(asks):
    window, now = SlidingWindow(10.0), 0.0
    for pause, tokens in asks:
        now += pause
        window.used(now)
        units = window.to_units(tokens)
        now += window.wait_time(now, units, 5, 20) + 1e-6
        requests, used = window.used(now)
        assert requests < 5
        assert used == 0 or used + min(units, 20) <= 20
        window.add(now, units, is_shared=True)


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=80))
def test_units_are_off_by_less_than_one_in_the_long_run(costs):
    window = SlidingWindow(60.0)
    taken = sum(window.to_units(tokens) for tokens in costs)
    assert 0 <= sum(costs) - taken * UNIT < UNIT


def test_what_an_estimate_missed_the_next_request_bears():
    window = SlidingWindow(60.0)
    first = window.to_units(500)
    window.correct(300)
    assert (first, window.to_units(500)) == (5, 8)


# --- the strict endpoint's limits -----------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(0, 4), max_size=60))
def test_the_endpoint_never_lets_in_more_than_the_limit_in_any_window(pauses):
    clock, let_in = Clock(), []
    limits = RateLimits(3, window=10.0, clock=clock)
    for pause in pauses:
        clock.now += pause
        refusal, _ = limits.take(b"x")
        if refusal is None:
            let_in.append(clock.now)
    for first, fourth in zip(let_in, let_in[3:], strict=False):
        assert fourth - first >= 10.0


def test_a_refusal_has_the_body_and_the_headers_of_mistrals():
    limits = RateLimits(1, 1_000)
    limits.take(b"x" * 400)
    refusal, _ = limits.take(b"x" * 400)
    assert refusal is not None
    error = MistralError.from_response(refusal.status, refusal.body, refusal.headers)
    assert (error.reason, error.code) == (Reason.RATE_LIMIT, "1300")
    assert error.budget == RateBudget(1, 0, 1_000, 899, 101)


AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


def put(mistral: LocalMistral, limits: object) -> int:
    address = mistral.base_url.removesuffix("/v1") + "/limits"
    request = urllib.request.Request(address, json.dumps(limits).encode(), AUTHORIZED, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as e:
        return e.code


def test_limits_change_while_the_endpoint_runs():
    limits = RateLimits(10)
    with LocalMistral(Script(), limits=limits) as mistral:
        assert put(mistral, {"requests_per_minute": 5}) == 204
        assert put(mistral, {"requests_per_minute": 0}) == 422
        assert put(mistral, {"other": 1}) == 422
        assert put(mistral, [1]) == 422
        limits.refused = 3
        address = mistral.base_url.removesuffix("/v1") + "/limits"
        with urllib.request.urlopen(urllib.request.Request(address, headers=AUTHORIZED)) as answer:
            told = json.load(answer)
    assert told == {"requests_per_minute": 5, "tokens_per_minute": None, "refused": 3}
    assert limits.requests_per_minute == 5


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requests_per_minute", 0),
        ("tokens_per_minute", -1),
        ("window", 0.5),
        ("margin", 1.0),
        ("name", ""),
    ],
)
def test_an_argument_that_is_not_allowed_is_named_with_what_is(field: str, value: object):
    with pytest.raises(ValueError, match=rf"^{field} is {value!r}: allowed is "):
        SharedBudget("redis://localhost", **{field: value})


def test_the_address_of_redis_is_not_repeated():
    with pytest.raises(ValueError, match="redis_url begins with 'http'") as e:
        SharedBudget("http://:secret@localhost")
    assert "secret" not in str(e.value)
    assert "secret" not in repr(SharedBudget("redis://:secret@localhost"))
