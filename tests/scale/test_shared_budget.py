"""Many processes, one account: a real Redis, and an endpoint that counts as strictly as can be."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from logged import logged
from scale_redis import RedisServer, redis, slow_redis_is_up
from waiting import until

from mistral_service.local import LocalMistral, RateLimits, Reply, Script
from mistral_service.scale.budget import SharedBudget
from mistral_service.turn.shared_services import Rank, RateLimiter, RequestEstimate
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.rate import RateBudget

__all__ = ["redis", "slow_redis_is_up"]

WINDOW = 3.0
ASK = RequestEstimate("account", "mistral-small-latest", 200, Rank.TURN)
BODY = {
    "model": "mistral-small-latest",
    "messages": [{"role": "user", "content": "Tell me something. " * 40}],
}


@dataclass
class Outcome:
    """What became of many requests, and how many seconds took one of the loop's clock."""

    answered: int = 0
    held_back: int = 0
    limited: int = 0
    late: float = 1.0


class Anyone:
    """No rate limiter at all."""

    async def acquire(self, ask: RequestEstimate) -> None: ...

    def record_answer(self, ask: RequestEstimate, budget: RateBudget | None) -> None: ...

    def record_refusal(self, ask: RequestEstimate, error: MistralError) -> None: ...

    def record_usage(self, ask: RequestEstimate, tokens: int) -> None: ...


@asynccontextmanager
async def processes(
    redis: RedisServer, count: int = 3, window: float = WINDOW, **options
) -> AsyncIterator[list[SharedBudget]]:
    budgets = [SharedBudget(redis.url, window=window, **options) for _ in range(count)]
    try:
        yield budgets
    finally:
        await asyncio.gather(*(budget.close() for budget in budgets))


@asynccontextmanager
async def endpoint(limits: RateLimits) -> AsyncIterator[LocalMistral]:
    with LocalMistral(Script(Reply("Well.", times=None)), limits=limits) as mistral:
        yield mistral


async def call(
    mistral: LocalMistral,
    client: httpx.AsyncClient,
    rate_limiter: RateLimiter | Anyone,
    until: float,
    outcome: Outcome,
    rank: Rank = Rank.TURN,
) -> None:
    """Ask until a moment of the loop's clock; wait as long as each refusal says."""
    ask = RequestEstimate(ASK.account, ASK.model, ASK.tokens, rank)
    clock = asyncio.get_running_loop().time
    while (now := clock()) < until:
        try:
            await rate_limiter.acquire(ask)
        except MistralError as e:
            outcome.held_back += 1
            await asyncio.sleep(min(e.retry_after or 0.0, max(0.0, until - now)))
            continue
        answer = await client.post(f"{mistral.base_url}/chat/completions", json=BODY)
        if answer.status_code == 429:
            outcome.limited += 1
            error = MistralError.from_response(429, answer.content, answer.headers)
            rate_limiter.record_refusal(ask, error)
            await asyncio.sleep(0.1)
            continue
        assert answer.status_code == 200
        outcome.answered += 1
        budget = RateBudget.from_headers(answer.headers)
        assert budget is not None
        rate_limiter.record_answer(ask, budget)
        rate_limiter.record_usage(ask, int(budget.query_cost or 0))


async def load(
    mistral: LocalMistral,
    limiters: list[SharedBudget] | list[Anyone],
    seconds: float,
    calls: int = 24,
    meanwhile: Callable[[], object] = lambda: None,
) -> Outcome:
    """Hold many calls at once, spread over the processes; on a busy machine for longer."""
    clock = asyncio.get_running_loop().time
    outcome, began, counted = Outcome(), time.monotonic(), clock()
    end = counted + seconds
    headers = {"authorization": "Bearer test-key"}
    async with httpx.AsyncClient(headers=headers, timeout=60) as client:
        asyncio.get_running_loop().call_later(seconds / 2, meanwhile)
        # The first answer tells the limits; a fleet does not begin all at once.
        await call(mistral, client, limiters[0], 0.0, outcome)
        for rate_limiter in limiters:
            await call(mistral, client, rate_limiter, clock() + 0.01, outcome)
        await asyncio.gather(
            *(
                call(mistral, client, limiters[n % len(limiters)], end, outcome)
                for n in range(calls)
            )
        )
    outcome.late = (time.monotonic() - began) / (clock() - counted)
    return outcome


async def let_out(budget: SharedBudget, asks: int, rank: Rank = Rank.TURN) -> int:
    """How many of some requests are let out before one is held back."""
    for number in range(asks):
        try:
            await budget.acquire(RequestEstimate(ASK.account, ASK.model, 10, rank))
        except MistralError:
            return number
    return asks


@pytest.mark.usefixtures("slow_redis_is_up")
@pytest.mark.parametrize("limits", [{"requests_per_minute": 40}, {"tokens_per_minute": 9_000}])
async def test_a_strict_server_has_next_to_nothing_to_refuse(redis: RedisServer, limits):
    async with endpoint(RateLimits(window=WINDOW, **limits)) as mistral:
        for seconds in (3.0, 9.0, 27.0):  # a busy machine takes longer to ask too much
            without = await load(mistral, [Anyone()] * 3, seconds)
            if without.limited > 50:
                break
    strict = endpoint(RateLimits(window=WINDOW, **limits))
    async with strict as mistral, processes(redis) as budgets:
        shared = await load(mistral, budgets, 7.0)
    print(f"without: {without}; shared: {shared}")
    assert without.limited > 50
    assert shared.limited == 0
    # Two windows and more; what is let out is used, but for the margin.
    assert shared.answered >= 2 * 0.6 * 38
    assert shared.held_back > 0


@pytest.mark.usefixtures("slow_redis_is_up")
async def test_a_limit_that_one_has_learned_holds_for_all(redis: RedisServer):
    async with processes(redis, 2) as (one, other):
        await one.acquire(ASK)
        one.record_answer(ASK, RateBudget(request_limit=3, requests_left=2))
        await until(lambda: not one._tasks)
        await other.acquire(ASK)
        with pytest.raises(MistralError, match="held back before it was sent") as e:
            await other.acquire(ASK)
        assert e.value.reason is Reason.RATE_LIMIT
        assert 2 < (e.value.retry_after or 0.0) < WINDOW + 2.5
        assert other.stats.refused[Rank.TURN] == 1


@pytest.mark.usefixtures("slow_redis_is_up")
async def test_room_comes_when_it_was_told(redis: RedisServer):
    async with processes(redis, 1, requests_per_minute=1) as (budget,):
        await budget.acquire(ASK)
        with pytest.raises(MistralError) as e:
            await budget.acquire(ASK)
        await asyncio.sleep(e.value.retry_after or 0.0)
        await budget.acquire(ASK)
        assert budget.stats.admitted == 2


@pytest.mark.usefixtures("slow_redis_is_up")
async def test_turns_go_before_new_calls_and_those_before_hedges(redis: RedisServer):
    admitted = dict.fromkeys(Rank, 0)
    async with processes(redis, 1, window=30, requests_per_minute=100, margin=0) as (budget,):
        for rank in (Rank.HEDGE, Rank.NEW_CALL, Rank.TURN):
            admitted[rank] = await let_out(budget, 110, rank)
    assert admitted == {Rank.HEDGE: 70, Rank.NEW_CALL: 15, Rank.TURN: 15}


@pytest.mark.usefixtures("slow_redis_is_up")
async def test_a_hedge_is_not_spared_where_the_budget_runs_low(redis: RedisServer):
    hedge = RequestEstimate(ASK.account, ASK.model, 10, Rank.HEDGE)
    async with processes(redis, 1, window=30, requests_per_minute=10) as (budget,):
        assert budget.has_headroom(hedge)
        for _ in range(9):
            await budget.acquire(ASK)
        # One heartbeat may come before the ninth.
        await until(lambda: budget.stats.used == pytest.approx(0.9))
        assert not budget.has_headroom(hedge)


@pytest.mark.usefixtures("slow_redis_is_up")
async def test_a_refusal_that_tokens_caused_takes_no_request(redis: RedisServer):
    large, small = (
        RequestEstimate("a", "m", 9_000, Rank.TURN),
        RequestEstimate("a", "m", 10, Rank.TURN),
    )
    most = {"requests_per_minute": 4, "tokens_per_minute": 10_000, "margin": 0}
    async with processes(redis, 1, **most) as (budget,):
        await budget.acquire(large)
        for _ in range(5):
            with pytest.raises(MistralError):
                await budget.acquire(large)
        for _ in range(3):
            await budget.acquire(small)


@pytest.mark.usefixtures("slow_redis_is_up")
async def test_a_limit_that_is_halved_is_kept_within_a_window(redis: RedisServer):
    limits = RateLimits(60, window=WINDOW)
    async with endpoint(limits) as mistral, processes(redis) as budgets:
        halve = lambda: setattr(limits, "requests_per_minute", 30)  # noqa: E731
        outcome = await load(mistral, budgets, 10.0, meanwhile=halve)
        assert {budget._account(ASK).requests for budget in budgets} == {30}
    print(f"halved: {outcome}")
    # What was out at that moment is refused: a request of each process, or a few.
    assert outcome.limited <= 12
    assert outcome.answered > 80


@pytest.mark.usefixtures("slow_redis_is_up")
async def test_after_a_refusal_all_pause_and_not_for_the_whole_minute(redis: RedisServer):
    async with processes(redis, 2) as (one, other):
        await other.acquire(ASK)
        one.record_refusal(ASK, MistralError(Reason.RATE_LIMIT, retry_after=60.0))
        await until(lambda: not one._tasks)
        with pytest.raises(MistralError) as e:
            await other.acquire(ASK)
        assert 1 < (e.value.retry_after or 0.0) <= 4


@pytest.mark.usefixtures("slow_redis_is_up")
async def test_what_others_use_of_the_account_is_not_there_for_us(redis: RedisServer):
    async with processes(redis, 1) as (budget,):
        await budget.acquire(ASK)
        # Ours is one, and the server says that eight are gone.
        budget.record_answer(ASK, RateBudget(request_limit=10, requests_left=2))
        await budget._refresh("account:mistral-small-latest", budget._account(ASK))  # a heartbeat
        assert budget._account(ASK).external[0] == 7
        assert await let_out(budget, 3) <= 2


@pytest.mark.parametrize("rounds", range(8))
async def test_it_ends_at_whatever_moment_it_is_closed(
    redis: RedisServer, rounds: int, monkeypatch: pytest.MonkeyPatch
):
    """Python 3.11's `asyncio.wait_for`, which sends a command, may swallow a cancellation."""
    monkeypatch.setattr(asyncio, "wait_for", asyncio.tasks.wait_for)  # Pipecat replaces it
    budget = SharedBudget(redis.url)
    await budget._log.heartbeat()  # it is connected
    budget._heartbeat = asyncio.create_task(budget._send_heartbeats())
    for _ in range(rounds):
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await budget.close()


# --- without Redis --------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["kill", "stop", "pause"])
async def test_without_redis_each_process_goes_by_its_share(redis: RedisServer, gone: str):
    # The window outlasts all of this: the request of before counts to the end.
    most = {"requests_per_minute": 40, "margin": 0, "window": 30.0}
    with logged("INFO") as said:
        async with processes(redis, 2, **most) as budgets:
            for budget in budgets:
                await budget.acquire(ASK)
            asked = time.time()
            # Both have seen each other, and what both have used by then.
            await until(lambda: all(budget.stats.processes == 2 for budget in budgets))
            await until(
                lambda: all((b._account(ASK).last_totals or (0,))[0] > asked for b in budgets)
            )
            getattr(redis, gone)()
            for budget in budgets:
                began = asyncio.get_running_loop().time()
                await let_out(budget, 50)
                # Nobody waits for Redis but the first, and not for long.
                assert asyncio.get_running_loop().time() - began < 1
                # Half of it, with the one from before.
                assert budget.stats.admitted == 20
                assert budget.stats.local
            redis.resume() if gone == "pause" else redis.start()
            await until(lambda: not any(budget.stats.local for budget in budgets))
    down_lines = [line for line in said if line.startswith("Redis is down")]
    back_lines = [line for line in said if line.startswith("Redis is back")]
    assert (len(down_lines), len(back_lines)) == (2, 2)
    assert "1/2" in down_lines[0]
    assert "redis://" not in " ".join(said)


async def test_a_redis_that_comes_back_empty_is_told_what_was_let_out(redis: RedisServer):
    # The window outlasts all of this: every request of before still counts.
    most = {"requests_per_minute": 20, "margin": 0, "window": 15.0}
    async with processes(redis, 2, **most) as (one, other):
        for _ in range(6):
            await one.acquire(ASK)
            await other.acquire(ASK)
        await until(lambda: one.stats.processes == 2 and other.stats.processes == 2)
        redis.kill()
        await until(lambda: one.stats.local and other.stats.local)
        redis.start()
        await until(lambda: not (one.stats.local or other.stats.local))
        await let_out(one, 20)
        assert one.stats.admitted + other.stats.admitted <= 20


async def test_no_redis_from_the_beginning_is_no_reason_to_be_silent():
    budget = SharedBudget("redis://127.0.0.1:1/0", window=WINDOW)
    try:
        await budget.acquire(ASK)
        assert budget.stats.local
    finally:
        await budget.close()


async def test_redis_is_killed_and_comes_back_under_load_and_the_server_refuses_little(
    redis: RedisServer,
):
    limits = RateLimits(60, window=WINDOW)

    async def break_it() -> None:
        await asyncio.sleep(3)
        redis.kill()
        await asyncio.sleep(3)
        await asyncio.to_thread(redis.start)

    async with endpoint(limits) as mistral, processes(redis) as budgets:
        breaking = asyncio.create_task(break_it())
        outcome = await load(mistral, budgets, 10.0)
        await breaking
    print(f"killed: {outcome}")
    # In ten seconds of the loop's own clock, which a busy machine slows down.
    assert outcome.answered > 90
    # What a process hears late of the others, it hears later on a machine that does other things.
    assert outcome.limited <= (6 if outcome.late < 1.2 else outcome.answered / 5)
