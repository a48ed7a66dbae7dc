"""First come, first served: the line of requests that wait, with a clock of the test's own.

Both halves play the same scenes: the one of a process that is alone, and the scripts in a real
Redis whose `TIME` is a key that the test sets (`redis_clock`).
"""

import asyncio
import heapq
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from redis.asyncio import Redis
from redis_clock import set_clock, use_clock_of_test
from scale_redis import RedisServer, redis, slow_redis_is_up

from mistral_service.scale.account import SHARES, Account
from mistral_service.scale.shared_log import SharedLog
from mistral_service.scale.sliding_window import UNIT, SlidingWindow
from mistral_service.scale.wait_queue import GRACE_S, Waiter, WaitQueue
from mistral_service.turn.shared_services import Rank

__all__ = ["redis", "slow_redis_is_up"]

pytestmark = pytest.mark.usefixtures("slow_redis_is_up")

WINDOW = 10
REQUESTS, UNITS = 12, 100


@dataclass
class Caller:
    """One that asks until it is let out, and comes back at the time it was given."""

    number: int
    rank: Rank
    units: int
    asks_at: float
    waiter: Waiter
    late: float = 0.0
    dies: bool = False
    let_out: float | None = None
    told: list[float] = field(default_factory=list)


class Alone:
    """The line of a process without Redis."""

    def __init__(self) -> None:
        self._account = Account(SlidingWindow(WINDOW), (REQUESTS, UNITS * UNIT))
        self._account.set_limits({})
        self._queue = WaitQueue()

    async def ask(self, caller: Caller, now: float) -> float:
        waiter = caller.waiter
        self._queue.remove(caller.number)
        ahead = self._queue.ahead(waiter, now)
        wait = self._account.wait_time(now, waiter.units, waiter.rank, 1, ahead)
        if wait > 0:
            self._queue.put(caller.number, waiter, now + wait)
        else:
            bound = self._account.limits_for(waiter.rank)[1] or 0
            self._account.window.add(now, min(waiter.units, bound), is_shared=False)
        return wait


class InRedis:
    """The scripts, as three processes run them."""

    def __init__(self, redis: RedisServer) -> None:
        self._logs = [SharedLog(redis.url, "test", WINDOW) for _ in range(3)]
        self._account = Account(SlidingWindow(WINDOW), (REQUESTS, UNITS * UNIT))
        self._account.set_limits({})
        self._redis = Redis.from_url(redis.url)

    async def ask(self, caller: Caller, now: float) -> float:
        await set_clock(self._redis, now)
        log, waiter = self._logs[caller.number % len(self._logs)], caller.waiter
        bounds = self._account.limits_for(waiter.rank)
        answer = await log.acquire(waiter, now - waiter.since, bounds, ("", ""))
        assert answer.wait is not None
        return answer.wait

    async def renew(self, callers: list[Caller], now: float) -> None:
        await set_clock(self._redis, now)
        living = [(c.waiter, c.told[-1] + GRACE_S - now) for c in callers if c.told and not c.dies]
        await self._logs[0].refresh("a:m", [each for each in living if each[1] > 0])

    async def close(self) -> None:
        await asyncio.gather(*(log.close() for log in self._logs), self._redis.aclose())


@asynccontextmanager
async def in_redis(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InRedis]:
    use_clock_of_test(monkeypatch)
    line = InRedis(redis)
    try:
        yield line
    finally:
        await line.close()


def crowd(seed: int, *, ranks: list[Rank], late: float = 0.0, dead: float = 0.0) -> list[Caller]:
    chance = random.Random(seed)
    callers, now = [], 0.0
    for number in range(60):
        now += chance.choice([0.0, 0.05, 0.4, 1.5])
        units = chance.choice([1, 3, 3, 10, 60, 100, 400])
        rank = chance.choice(ranks)
        waiter = Waiter(f"{number:03}", "a:m", rank, now, units)
        caller = Caller(number, rank, units, now, waiter)
        caller.late = chance.choice([0.0, late])
        caller.dies = chance.random() < dead
        callers.append(caller)
    return callers


async def play(line: Alone | InRedis, callers: list[Caller], most: float = 2_000.0) -> None:
    """Let all ask, come back at their time, and be let out; the dead never come back."""
    events = [(caller.asks_at, caller.number, caller) for caller in callers]
    heapq.heapify(events)
    beat = 0.0
    while events:
        now, _, caller = heapq.heappop(events)
        assert now < most, f"{caller} waits for ever"
        while isinstance(line, InRedis) and beat + 1 <= now:
            beat += 1
            if any(c.told and c.let_out is None for c in callers):
                await line.renew([c for c in callers if c.let_out is None], beat)
        wait = await line.ask(caller, now)
        if wait <= 0:
            caller.let_out = now
        else:
            caller.told.append(now + wait)
            if not caller.dies:
                heapq.heappush(events, (now + wait + caller.late + 1e-3, caller.number, caller))


def keeps_within_the_limit(callers: list[Caller]) -> None:
    out = sorted(
        (c.let_out, min(c.units, int(UNITS * SHARES[c.rank])))  # more fits an empty window
        for c in callers
        if c.let_out is not None
    )
    for number, (first, _) in enumerate(out):
        window = [units for at, units in out[number:] if at < first + WINDOW - 1e-5]
        assert len(window) <= REQUESTS
        assert sum(window) <= UNITS


def in_order(callers: list[Caller]) -> list[int]:
    """Who overtook one who asked earlier, for the same rank, and was there in time."""
    overtakers = []
    for later in callers:
        for earlier in callers[: later.number]:
            if (earlier.rank, earlier.dies, later.let_out is None) != (later.rank, False, False):
                continue
            if (earlier.let_out or 0.0) > later.let_out + 0.01:
                overtakers.append(later.number)
    return overtakers


SEEDS = range(12)


@pytest.mark.parametrize("seed", SEEDS)
async def test_alone_no_one_overtakes_and_no_one_starves(seed: int):
    callers = crowd(seed, ranks=[Rank.TURN])
    await play(Alone(), callers)
    assert all(caller.let_out is not None for caller in callers)
    assert in_order(callers) == []
    keeps_within_the_limit(callers)


@pytest.mark.parametrize("seed", SEEDS)
async def test_in_redis_no_one_overtakes_and_no_one_starves(redis: RedisServer, seed, monkeypatch):
    callers = crowd(seed, ranks=[Rank.TURN])
    async with in_redis(redis, monkeypatch) as line:
        await play(line, callers)
    assert all(caller.let_out is not None for caller in callers)
    assert in_order(callers) == []
    keeps_within_the_limit(callers)


@pytest.mark.parametrize("seed", SEEDS)
async def test_redis_and_a_process_alone_decide_alike(redis: RedisServer, seed, monkeypatch):
    mixed = list(Rank)
    async with in_redis(redis, monkeypatch) as line:
        await play(line, callers := crowd(seed, ranks=mixed))
    await play(Alone(), alone := crowd(seed, ranks=mixed))
    for one, other in zip(callers, alone, strict=True):
        assert one.let_out == pytest.approx(other.let_out, abs=1e-3), one
        assert one.told == pytest.approx(other.told, abs=1e-3), one


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_late_lose_nothing_and_the_dead_stop_no_one(redis, seed, monkeypatch):
    callers = crowd(seed, ranks=[Rank.TURN, Rank.NEW_CALL], late=GRACE_S * 0.9, dead=0.3)
    async with in_redis(redis, monkeypatch) as line:
        await play(line, callers)
    assert any(caller.dies and caller.let_out is None for caller in callers)
    assert all(caller.let_out is not None for caller in callers if not caller.dies)
    keeps_within_the_limit(callers)


async def test_ranks_keep_their_meaning(redis: RedisServer, monkeypatch: pytest.MonkeyPatch):
    async with in_redis(redis, monkeypatch) as line:

        async def ask(number: int, rank: Rank, units: int, now: float) -> float:
            waiter = Waiter(f"{number:03}", "a:m", rank, now, units)
            return await line.ask(Caller(number, rank, units, now, waiter), now)

        assert await ask(0, Rank.TURN, 60, 0.0) == 0
        assert await ask(1, Rank.NEW_CALL, 30, 1.0) > 0
        # What waits for less than a turn may use holds up no turn, and lets no hedge by.
        assert await ask(2, Rank.TURN, 35, 1.5) == 0
        assert await ask(3, Rank.HEDGE, 1, 1.6) > 0
        # A turn that waits is before a new call that has waited for longer.
        assert await ask(4, Rank.TURN, 60, 2.0) == pytest.approx(8.0)
        assert await ask(1, Rank.NEW_CALL, 30, 2.5) > 9.0 - SHARES[Rank.NEW_CALL]


async def test_a_caller_keeps_its_turn_where_redis_has_forgotten_the_line(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    async with in_redis(redis, monkeypatch) as line:
        callers = [
            Caller(n, Rank.TURN, units, at, Waiter(f"{9 - n}", "a:m", Rank.TURN, at, units))
            for n, (units, at) in enumerate([(95, 0.0), (60, 1.0), (5, 2.0), (30, 3.0)])
        ]
        waits = [await line.ask(caller, caller.asks_at) for caller in callers]
        assert waits == pytest.approx([0, 9, 8, 7])
        await Redis.delete(line._redis, "{test:a:m}:line")
        # They come back in another order than they came in, and two of them have no room at once.
        for caller, now in ((callers[3], 5.0), (callers[2], 6.0), (callers[1], 7.0)):
            await line.ask(caller, now)
        late = Caller(9, Rank.TURN, 40, 8.0, Waiter("late", "a:m", Rank.TURN, 8.0, 40))
        assert await line.ask(late, 8.0) > 2.0
        assert await line.ask(callers[3], 10.001) == 0
        assert await line.ask(callers[1], 10.002) == 0
        assert await line.ask(late, 10.003) > 0


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_redis_whose_clock_is_changed_blocks_no_one_for_longer_than_a_window(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, hours: int
):
    async with in_redis(redis, monkeypatch) as line:

        async def ask(name: str, now: float, since: float) -> float:
            waiter = Waiter(name, "a:m", Rank.TURN, since, 60)
            return await line.ask(Caller(0, Rank.TURN, 60, now, waiter), now)

        assert await ask("a", 7200.0, 7200.0) == 0
        assert await ask("b", 7201.0, 7201.0) == pytest.approx(9.0)
        now = 7202.0 + 3600 * hours
        assert await ask("b", now, now - 1) <= WINDOW
        assert await ask("b", now + WINDOW + 0.1, now - 1) == 0
        # The one that comes later is behind it, whatever the time was when it asked.
        assert await ask("c", now + WINDOW + 1, now + WINDOW + 1) > 0
