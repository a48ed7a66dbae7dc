"""A budget that is too small for all: whom it lets out, whose clock counts, what it believes."""

import asyncio
import math
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from call import Call
from redis.asyncio import Redis
from redis_clock import EPOCH, set_clock, use_clock_of_test
from scale_redis import RedisServer, redis, slow_redis_is_up
from waiting import until

from mistral_service import MistralLLMService
from mistral_service.local import Reply
from mistral_service.pipecat.conversation import ContextConversation
from mistral_service.scale import shared_log, wait_queue
from mistral_service.scale.budget import SharedBudget
from mistral_service.scale.wait_queue import SPACING_S
from mistral_service.turn.shared_services import Rank, RequestEstimate
from mistral_service.wire.errors import HeldBack, MistralError, Reason
from mistral_service.wire.rate import RateBudget

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from fairness import LARGE, SMALL, together

__all__ = ["redis", "slow_redis_is_up"]

pytestmark = pytest.mark.usefixtures("slow_redis_is_up")

NOWHERE = "redis://127.0.0.1:1/0"
LIMIT = 24_000


def ask(tokens: int, rank: Rank = Rank.TURN, caller: str = "") -> RequestEstimate:
    return RequestEstimate("account", "model", tokens, rank, caller)


@asynccontextmanager
async def processes(url: str, count: int = 1, **options) -> AsyncIterator[list[SharedBudget]]:
    options = {"tokens_per_minute": LIMIT, "margin": 0, "window": 2, **options}
    budgets = [SharedBudget(url, **options) for _ in range(count)]
    try:
        yield budgets
    finally:
        await asyncio.gather(*(budget.close() for budget in budgets))


async def held_back(budget: SharedBudget, what: RequestEstimate) -> float:
    with pytest.raises(HeldBack) as e:
        await budget.acquire(what)
    return e.value.retry_after or 0.0


async def pause(seconds: float) -> None:
    """Wait for a time of the limiter's clock, which no busy machine slows down as it does a loop's.

    Who came back by the loop's clock would be later than a waiter may be.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:  # noqa: ASYNC110
        await asyncio.sleep(min(left, 0.01))


async def let_out(budget: SharedBudget, what: RequestEstimate) -> None:
    """Ask, and come back at the time that each refusal gives, until it is let out."""
    while True:
        try:
            return await budget.acquire(what)
        except HeldBack as e:
            await pause(e.retry_after or 0.0)


async def line_of(redis: RedisServer, count: int) -> None:
    """Wait until so many wait."""
    for _ in range(1_000):
        if await waiting(redis) >= count:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{count} should wait")


async def waiting(redis: RedisServer) -> int:
    client = Redis.from_url(redis.url)
    try:
        return await client.hlen("{mistral-budget:account:model}:line")
    finally:
        await client.aclose()


PATIENT = 4
"""Seconds of a window in which a waiter may be as late: one that the machine holds up for so long
keeps its place. A place may last for two windows."""


@pytest.fixture
def late_callers_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait_queue, "GRACE_S", PATIENT)
    monkeypatch.setattr(shared_log, "GRACE_S", PATIENT)
    monkeypatch.setattr(shared_log, "_LEASE_S", 2 * PATIENT)


# --- who goes first -------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [False, True])
async def test_large_requests_are_let_out_as_often_as_small_ones(redis: RedisServer, alone: bool):
    counts: Counter[tuple[int, int]] = Counter()
    url = NOWHERE if alone else redis.url
    async with processes(url, 1 if alone else 2) as budgets:
        end = time.monotonic() + 6

        async def caller(number: int, tokens: int) -> None:
            while time.monotonic() < end:
                await let_out(budgets[number % len(budgets)], ask(tokens))
                counts[number, tokens] += 1
                await asyncio.sleep(0.02)  # the request itself: meanwhile the others ask

        sizes = [LARGE] * 2 + [SMALL] * 4
        await asyncio.gather(*(caller(*each) for each in enumerate(sizes)))
    print(counts)
    shares = [counts[each] for each in enumerate(sizes)]
    assert min(shares) >= 2
    assert max(shares) - min(shares) <= 2


@pytest.mark.usefixtures("late_callers_keep_their_places")
async def test_callers_are_let_out_in_the_order_in_which_they_asked(redis: RedisServer):
    order: list[int] = []
    async with processes(redis.url, 3, window=PATIENT) as budgets:
        await budgets[0].acquire(ask(LIMIT))

        async def caller(number: int, tokens: int) -> None:
            await let_out(budgets[number % 3], ask(tokens))
            order.append(number)

        tasks = []
        for each in enumerate([20_000, 300, 20_000, 300, 20_000, 300]):
            tasks.append(asyncio.create_task(caller(*each)))
            # The first may be out by now.
            while await waiting(redis) + len(order) < len(tasks):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
    # Two that have room in the same moment are let out in any order.
    assert [set(order[:2]), set(order[2:4]), set(order[4:])] == [{0, 1}, {2, 3}, {4, 5}]


async def test_who_is_cancelled_leaves_the_line_at_once(redis: RedisServer):
    async with processes(redis.url, 2, window=30) as (one, other):
        await one.acquire(ask(LIMIT - 1_000))
        waits = asyncio.create_task(let_out(one, ask(LARGE)))
        await line_of(redis, 1)
        await held_back(other, ask(800))
        other.release(ask(800))
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        await until(lambda: not one._tasks and not other._tasks)
        assert await waiting(redis) == 0
        await other.acquire(ask(800))


async def test_who_dies_in_line_does_not_block_it(redis: RedisServer):
    async with processes(redis.url, 2, window=30) as (one, other):
        await one.acquire(ask(LIMIT - 1_000))
        assert one._heartbeat is not None
        wait = await held_back(one, ask(LARGE, caller="dead"))
        one._heartbeat.cancel()
        assert wait > 20
        # The one that is dead was promised the room until its place ends, which is soon.
        first = await held_back(other, ask(800, caller="alive"))
        assert first > 20
        for _ in range(80):
            await asyncio.sleep(0.1)
            try:
                await other.acquire(ask(800, caller="alive"))
                break
            except HeldBack:
                continue
        else:
            pytest.fail("the dead one holds the line")


async def test_who_waits_for_long_keeps_its_place_while_its_process_lives(redis: RedisServer):
    async with processes(redis.url, 2, window=30) as (one, other):
        await one.acquire(ask(LIMIT - 1_000))
        await held_back(one, ask(LARGE, caller="patient"))
        await asyncio.sleep(5)
        assert await waiting(redis) == 1
        await held_back(other, ask(800))


async def test_a_request_that_is_larger_than_the_budget_has_its_turn(redis: RedisServer):
    async with processes(redis.url, 2) as (one, other):
        await one.acquire(ask(SMALL))
        huge = asyncio.create_task(let_out(one, ask(10 * LIMIT)))
        await line_of(redis, 1)
        small = asyncio.create_task(let_out(other, ask(SMALL)))
        done, _ = await asyncio.wait([huge, small], return_when="FIRST_COMPLETED")
        assert done == {huge}
        await small


async def test_a_caller_that_asks_another_model_leaves_the_line_of_the_first(redis: RedisServer):
    async with processes(redis.url, 2, window=30) as (one, other):
        await one.acquire(ask(LIMIT - 1_000))
        await held_back(one, ask(LARGE, caller="moves"))
        await one.acquire(RequestEstimate("account", "another model", LARGE, Rank.TURN, "moves"))
        await until(lambda: not one._tasks)
        await other.acquire(ask(800))


async def test_where_nothing_waits_a_request_costs_one_round_trip(redis: RedisServer):
    client = Redis.from_url(redis.url)
    async with processes(redis.url, tokens_per_minute=10_000_000) as (budget,):
        await budget.acquire(ask(100))
        await until(
            lambda: budget.stats.processes == 1 and budget._account(ask(1)).last_totals is not None
        )

        async def commands() -> int:
            return (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]

        before, beats = await commands(), asyncio.get_running_loop().time()
        for _ in range(100):
            await budget.acquire(ask(100))
        beats = asyncio.get_running_loop().time() - beats
        # Once a second there are two more.
        assert 100 <= await commands() - before <= 100 + 2 * math.ceil(beats + 1)
    await client.aclose()


# --- whose clock counts ---------------------------------------------------------------------------


@pytest.mark.parametrize("skews", [(0, 0, 0), (0, 5, -3600)], ids=str)
async def test_equal_machines_get_equal_shares_whatever_their_clocks_say(skews: tuple[int, ...]):
    # More callers than a window has room for, and none in the first one: the line is never empty,
    # and its order counts, not which machine is quicker. Three windows are two rounds of it.
    machines = [(skew, [1_000] * 11) for skew in skews]
    told = await asyncio.to_thread(together, 19.0, *machines, used_up=True)
    shares = [each["1000"] for each in told]
    print(dict(zip(skews, shares, strict=True)))
    assert min(shares) >= 12
    assert max(shares) <= 1.5 * min(shares)


@pytest.mark.parametrize("alone", [False, True])
async def test_who_was_let_out_does_not_overtake_those_who_wait(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, alone: bool
):
    url, count = (NOWHERE, 1) if alone else (redis.url, 3)
    clock = Redis.from_url(redis.url)
    use_clock_of_test(monkeypatch)

    async def at(seconds: float) -> None:
        monkeypatch.setattr("mistral_service.scale.budget._now", lambda: EPOCH + seconds)
        await set_clock(clock, seconds)

    await at(0)
    async with clock, processes(url, count) as budgets:
        await budgets[0].acquire(ask(LIMIT))
        line = [(budgets[number % count], ask(1_000, caller=str(number))) for number in range(6)]
        waits = [await held_back(*each) for each in line]
        for second in range(1, math.ceil(waits[0])):
            await at(second)
            for each in budgets if not alone else ():  # as with each heartbeat
                await each._refresh("account:model", each._account(line[0][1]))
        await at(waits[0])
        # All that wait have room in one moment, and room is left for more beside them. The first
        # takes its own, and comes back after the last of the others; so does a new caller.
        (first, small), *others = line
        await first.acquire(small)
        newcomer = budgets[-1], ask(1_000, caller="new")
        assert await held_back(first, small) >= len(others) * SPACING_S + SPACING_S
        await at(waits[0] + 0.001)  # of two that ask in the same moment, either may be the first
        assert await held_back(*newcomer) >= len(line) * SPACING_S + SPACING_S
        # One after the other is let out, at its first try.
        for budget, what in [*others, line[0], newcomer]:
            await budget.acquire(what)
        # Where nothing waits, nothing is held back.
        await first.acquire(small)


async def test_a_pause_is_as_long_for_a_machine_whose_clock_is_wrong(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    async with processes(redis.url, 2) as (one, other):
        await other.acquire(ask(10))
        monkeypatch.setattr("time.time", lambda real=time.time: real() - 3600)
        one.record_refusal(ask(10), MistralError(Reason.RATE_LIMIT, retry_after=1e9))
        await until(lambda: not one._tasks)
        assert 1 < await held_back(other, ask(10)) < 3.1


# --- what is believed -----------------------------------------------------------------------------

ABSURD = [math.nan, math.inf, -math.inf, 1e15, -1e15, 10**400, -(10**400), LIMIT + 1, LIMIT, 0]


@pytest.mark.parametrize("figure", ABSURD, ids=lambda figure: str(figure)[:6])
@pytest.mark.parametrize("url", ["redis", "nowhere"])
async def test_no_figure_keeps_a_process_from_asking(redis: RedisServer, url: str, figure: float):
    async with processes(redis.url if url == "redis" else NOWHERE, window=30) as (budget,):
        await budget.acquire(ask(100))
        budget.record_usage(ask(100), figure)  # pyright: ignore[reportArgumentType]
        budget.record_answer(ask(100), RateBudget(None, figure, None, figure, figure))
        budget.record_answer(ask(100), RateBudget(figure if figure >= LIMIT else -1.0))
        budget.record_refusal(ask(100), MistralError(Reason.RATE_LIMIT, retry_after=-1e9))
        budget._account(ask(1)).paused_until = 0.0
        await until(lambda: not budget._tasks)
        budget._account(ask(1)).last_answer = None
        client = Redis.from_url(redis.url)
        await client.hdel("{mistral-budget:account:model}:known", "pause")
        await client.aclose()
        for _ in range(20):
            await budget.acquire(ask(100))


@pytest.mark.parametrize(
    "tokens", [math.nan, -5, -(10**400), 10**400, math.inf], ids=lambda tokens: str(tokens)[:6]
)
async def test_a_request_of_an_absurd_size_neither_fails_nor_gives_anything_away(
    redis: RedisServer, tokens: float
):
    async with processes(redis.url, window=30) as (budget,):
        await budget.acquire(ask(tokens))  # pyright: ignore[reportArgumentType]
        budget.record_usage(ask(tokens), 100)  # pyright: ignore[reportArgumentType]
        out = 0
        while out < 10:
            try:
                await budget.acquire(ask(LIMIT // 4, caller="another"))
            except HeldBack:
                break
            out += 1
        # It took no more than a window, and what it did not need comes back once.
        assert out <= 4


async def test_one_absurd_cost_makes_the_next_turn_no_larger(serve):
    lie = {"x-ratelimit-tokens-query-cost": "999999999999999"}
    usage = {"prompt_tokens": 10**14, "completion_tokens": 1, "total_tokens": 10**14}
    mistral = serve(Reply("One.", headers=lie, usage=usage), Reply("Two."), Reply("Three."))
    asked: list[RequestEstimate] = []

    class RateLimiter:
        async def acquire(self, ask: RequestEstimate) -> None:
            asked.append(ask)

        def has_headroom(self, ask: RequestEstimate) -> bool:
            return False

        def record_answer(self, ask: RequestEstimate, budget: RateBudget | None) -> None: ...
        def record_refusal(self, ask: RequestEstimate, error: MistralError) -> None: ...
        def record_usage(self, ask: RequestEstimate, tokens: int) -> None: ...

    llm = MistralLLMService(
        api_key="test-key", base_url=mistral.base_url, warm_up=False, rate_limiter=RateLimiter()
    )
    async with Call(llm) as call:
        await call.say("Hello?")
        await call.say("And then?")
    assert len(asked) == 2
    assert asked[1].tokens < 1_000
    assert asked[0].caller == asked[1].caller != ""


# --- a service in line ----------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["interrupted", "told"])
async def test_a_turn_that_ends_leaves_the_line(redis: RedisServer, serve, ends: str):
    mistral = serve(Reply("Never."))
    window = 30 if ends == "told" else 5
    async with processes(redis.url, window=window) as (budget,):
        llm = MistralLLMService(
            api_key="test-key", base_url=mistral.base_url, warm_up=False, rate_limiter=budget
        )
        async with Call(llm) as call:
            assert llm._admission is not None
            mine = llm._admission.estimate(
                llm._client, str(llm._settings.model), ContextConversation(call.context)
            )
            await budget.acquire(
                RequestEstimate(mine.account, mine.model, LIMIT, Rank.TURN, "other")
            )
            await call.begin("Hello?")
            if ends == "told":
                await call.until(lambda: call.errors)
            else:
                await call.until(lambda: len(budget._queue))
                await call.interrupt()
            await call.until(lambda: not len(budget._queue))
    assert mistral.exchanges == []
