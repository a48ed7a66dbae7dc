"""One rate limiter for all processes that share an account.

The limits that one process learns from Mistral's headers hold for all from the next request on, and
the requests of one count for all. Where the minute runs low, hedges and then new calls are held
back in favour of calls in progress. A caller that is held back learns it before its request goes
out, and when to come back.
"""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any, cast

from loguru import logger

from mistral_service.scale import metrics
from mistral_service.scale.account import HEARTBEAT_S, SHARES, Account, parse_limits
from mistral_service.scale.connect import REDIS_ERRORS, cancel
from mistral_service.scale.shared_log import SharedLog
from mistral_service.scale.sliding_window import UNIT, SlidingWindow
from mistral_service.scale.wait_queue import SPACING_S, Waiter, WaitQueue
from mistral_service.turn.shared_services import Rank, RequestEstimate
from mistral_service.wire.errors import HeldBack, MistralError
from mistral_service.wire.rate import WINDOW, RateBudget

_TRANSIT_S = 1
"""Seconds that a request counts beyond the window: two that leave a minute apart may arrive
somewhat closer to each other."""

_TIMER_SLACK_S = 0.005
"""Seconds added to a wait, for a timer that fires a little early."""

_MAX_SPACING_S = 1.2
"""Seconds over which the waiters for the same capacity are spaced at most."""

_EPOCH = time.time() - time.monotonic()

_RECOVERY_S = 2 * HEARTBEAT_S
"""Seconds for which a process limits itself to its share after Redis is back: by then all
processes have written what Redis has lost."""


@dataclass
class Stats:
    """What the limiter has done in this process.

    Parameters:
        admitted: Requests admitted.
        refused: Requests held back, by rank.
        used: The part of the account's budget in use at the last heartbeat, 0 to 1; of the model
            that has used most.
        processes: How many processes share the budget.
        local: Whether this process goes by its fair share, because Redis is down.
    """

    admitted: int = 0
    refused: dict[Rank, int] = field(default_factory=lambda: dict.fromkeys(Rank, 0))
    used: float = 0.0
    processes: int = 1
    local: bool = False


class SharedBudget:
    """The rate limiter of all processes that share an account (`turn.ports.RateLimiter`).

    Each model of an account has limits of its own, as at Mistral. Use one instance per process and
    event loop, and close it at the end::

        budget = SharedBudget(os.environ["REDIS_URL"])
        shared_services.set(SharedServices(rate_limiter=budget))

    Attributes:
        stats: What it has done.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        window: float = WINDOW,
        margin: float = 0.05,
        name: str = "mistral-budget",
    ) -> None:
        """Make the limiter; the first request connects to Redis.

        Args:
            redis_url: Where Redis is: `redis://:PASSWORD@HOST:PORT/0`, Sentinels, or a Cluster; see
                `mistral_service.scale.connect`.
            requests_per_minute: The most requests, where less is wanted than Mistral allows. It is
                the only limit until Mistral's headers have named theirs.
            tokens_per_minute: The most tokens, likewise.
            window: Seconds that Mistral takes for a minute.
            margin: The part of every limit that is left unused, for the error of estimates.
            name: The prefix of the keys in Redis; limiters with different names share nothing.

        Raises:
            ValueError: If an argument is not allowed; the sentence says what is.
        """
        for label, value in (("requests", requests_per_minute), ("tokens", tokens_per_minute)):
            if value is not None and value < 1:
                raise ValueError(
                    f"{label}_per_minute is {value!r}: allowed is a number from 1, or None"
                )
        if not 1 <= window < math.inf:
            raise ValueError(f"window is {window!r}: allowed is a number of seconds from 1")
        if not 0 <= margin < 1:
            raise ValueError(f"margin is {margin!r}: allowed is a part from 0 to below 1")
        if not name:
            raise ValueError(f"name is {name!r}: allowed is any text that is not empty")
        self.stats = Stats()
        self._configured = (requests_per_minute, tokens_per_minute)
        self._margin = margin
        self._window = math.ceil(window) + _TRANSIT_S
        self._log = SharedLog(redis_url, name, self._window)
        self._accounts: dict[str, Account] = {}
        self._queue = WaitQueue()
        self._shared_from = 0.0
        self._closed = False
        self._heartbeat: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the rate limiter -------------------------------------------------------------------------

    async def acquire(self, ask: RequestEstimate) -> None:
        """Admit a request, or have its caller wait.

        Within a rank it is first come, first served: a request that fits at once goes before
        waiters only if it takes nothing from them, and after those that fit as well. The caller is
        `ask.caller`, or else the task that asks. It keeps its turn if it asks for the same again at
        the time it was given, and loses it with `release`, with the end of the task, or by asking
        for something else.

        Args:
            ask: The request.

        Raises:
            HeldBack: With the seconds to wait, if the request does not fit now.
        """
        if self._heartbeat is None or self._heartbeat.done():
            self._heartbeat = asyncio.create_task(self._send_heartbeats())
        caller, account, now = _caller(ask), self._account(ask), _now()
        waiter = self._queue.waiter_for(caller, _key(ask), ask.rank, now)
        self._remove(caller, keep=waiter)
        self._queue.put(caller, waiter, now)  # so that a process without Redis counts it meanwhile
        account.window.used(now)
        tokens = account.clamp(ask.tokens)
        waiter.units = units = account.window.to_units(tokens)
        is_shared, wait = False, math.inf
        try:
            wait = self._acquire_local(account, waiter) if self.stats.local else 0.0
            # While Redis recovers both count: some processes use it already, and some not yet.
            if wait <= 0 and self._shared_from < math.inf:
                try:
                    wait = await self._acquire_shared(account, waiter)
                    is_shared = True
                except REDIS_ERRORS as e:
                    self._on_redis_down(e)
                    wait = self._acquire_local(account, waiter)
        except BaseException:
            wait = math.inf
            self._remove(caller)
            raise
        finally:
            if wait > 0:
                account.window.correct(units * UNIT - tokens)
        if wait > 0:
            self._put(caller, waiter, wait)
            self.stats.refused[ask.rank] += 1
            metrics.BUDGET_REFUSALS.record(rank=ask.rank.name.lower())
            raise HeldBack(wait + _TIMER_SLACK_S)
        self._queue.remove(caller)
        account.window.add(_now(), units, is_shared=is_shared, id=waiter.id)
        self.stats.admitted += 1

    def release(self, ask: RequestEstimate) -> None:
        """Remove a caller that waits no longer."""
        self._remove(_caller(ask))

    def has_headroom(self, ask: RequestEstimate) -> bool:
        """Whether an optional request fits, by the totals of the last heartbeat."""
        account = self._account(ask)
        return account.paused_until <= _now() and account.used < SHARES[ask.rank]

    def record_answer(self, ask: RequestEstimate, budget: RateBudget | None) -> None:
        """Learn the limits from an answer's headers; new ones are published to the others."""
        if budget is None:
            return
        account, now = self._account(ask), _now()
        account.last_answer = (now, budget)
        limits = parse_limits(requests=budget.request_limit, tokens=budget.token_limit)
        before = (account.requests, account.tokens)
        account.set_limits(limits)
        changed = before != (account.requests, account.tokens)
        if limits and (changed or now - account.published_at > self._window):
            account.published_at = now
            self._in_background(self._log.publish, _key(ask), limits)

    def record_refusal(self, ask: RequestEstimate, error: MistralError) -> None:
        """Have all processes pause a little: Mistral refuses in spite of the count."""
        self.record_answer(ask, error.budget)
        pause = self._account(ask).pause(_now(), error.retry_after)
        self._in_background(self._log.publish, _key(ask), {"pause": pause})

    def record_usage(self, ask: RequestEstimate, tokens: int) -> None:
        """Charge the next requests for the error of the estimate."""
        self._account(ask).record_cost(ask.tokens, tokens)

    async def close(self) -> None:
        """Stop, and close the connections."""
        self._closed = True
        await cancel([task for task in (self._heartbeat, *self._tasks) if task is not None])
        await self._log.close()

    # --- with Redis, and without ------------------------------------------------------------------

    async def _acquire_shared(self, account: Account, waiter: Waiter) -> float:
        """Take from the shared budget; returns the seconds to wait where it is used up."""
        while True:
            age, bounds = _now() - waiter.since, account.limits_for(waiter.rank)
            decision = await self._log.acquire(waiter, age, bounds, account.shared_limits)
            if decision.wait is not None:
                break
            account.shared_limits = decision.limits
            requests, tokens = decision.limits
            account.set_limits(parse_limits(requests=requests, tokens=tokens))
        if decision.pause > 0:
            account.paused_until = max(account.paused_until, _now() + decision.pause)
        wait = max(decision.wait, account.paused_until - _now())
        return _spaced(wait, decision.ahead)

    def _acquire_local(self, account: Account, waiter: Waiter) -> float:
        """Seconds until this process's share has capacity, after those that came before."""
        now = _now()
        ahead = self._queue.ahead(waiter, now)
        wait = account.wait_time(now, waiter.units, waiter.rank, self.stats.processes, ahead)
        if ahead[0] and not waiter.held_back:
            wait = max(wait, SPACING_S)  # a newcomer comes one place after the last waiter
        return _spaced(wait, ahead[0])

    def _put(self, caller: Hashable, waiter: Waiter, wait: float) -> None:
        self._queue.put(caller, waiter, _now() + wait)
        waiter.held_back = True
        if isinstance(caller, asyncio.Task):
            # A task that has ended, or was cancelled, does not come back.
            task = cast("asyncio.Task[object]", caller)
            task.remove_done_callback(self._remove)
            task.add_done_callback(self._remove)

    def _remove(self, caller: Hashable, *, keep: Waiter | None = None) -> None:
        """Remove a caller's waiter here, and in Redis unless it is the one to keep."""
        waiter = self._queue.remove(caller)
        if waiter is not None and waiter is not keep:
            self._in_background(self._log.remove, waiter)

    def _on_redis_down(self, error: BaseException) -> None:
        self._shared_from = math.inf
        if not self.stats.local:
            self.stats.local = True
            for account in self._accounts.values():
                account.begin_outage(_now(), self.stats.processes)
            logger.warning(
                f"Redis is down ({type(error).__name__}): this process limits itself to its share "
                f"of the rate budget, 1/{self.stats.processes}"
            )

    async def _send_heartbeats(self) -> None:
        """Once a second: record that this process is alive, read the totals, and look for Redis.

        Turns do not wait for a Redis that was down a second ago.
        """
        first = True
        while True:
            try:
                if self.stats.local:
                    await self._log.reset_connections()
                alive, known = await self._log.heartbeat()
                # A Redis that comes back empty does not know all processes at once.
                least = self.stats.processes if self.stats.local else 1
                self.stats.processes = max(alive, least)
                # Where this process was known and is not any more, Redis has lost everything.
                known, first = known or first, False
                for key, account in list(self._accounts.items()):
                    account.window.used(_now())
                    missing = [e for e in account.window.entries if not (known and e.is_shared)]
                    if missing:
                        await self._log.write(key, missing, _now())
                        for entry in missing:
                            entry.is_shared = True
                    await self._refresh(key, account)
                now = time.monotonic()
                if self.stats.local and self._shared_from == math.inf:
                    self._shared_from = now + _RECOVERY_S
                if self.stats.local and now >= self._shared_from:
                    self.stats.local = False
                    logger.info("Redis is back: the rate budget is shared again")
            except REDIS_ERRORS as e:
                self._on_redis_down(e)
            await asyncio.sleep(HEARTBEAT_S)

    async def _refresh(self, key: str, account: Account) -> None:
        """Read how much of an account is used, and renew this process's waiters."""
        now = _now()
        waiters = [(each, each.expires_at - now) for each in self._queue.waiting(key, now)]
        account.record_totals(_now(), *await self._log.refresh(key, waiters))
        self.stats.used = max(each.used for each in self._accounts.values())

    def _in_background(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Send Redis something that no caller waits for, unless it is down."""

        async def send() -> None:
            try:
                await work(*args)
            except REDIS_ERRORS as e:
                self._on_redis_down(e)

        if self.stats.local or self._closed:
            return
        task = asyncio.create_task(send())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _account(self, ask: RequestEstimate) -> Account:
        key = _key(ask)
        if key not in self._accounts:
            account = Account(SlidingWindow(self._window), self._configured, self._margin)
            account.set_limits({})
            self._accounts[key] = account
        return self._accounts[key]


def _key(ask: RequestEstimate) -> str:
    return f"{ask.account}:{ask.model}"


def _caller(ask: RequestEstimate) -> Hashable:
    return ask.caller or asyncio.current_task()


def _spaced(wait: float, ahead: int) -> float:
    """Seconds to wait, so that waiters come back one after the other."""
    return wait + min(SPACING_S * ahead, _MAX_SPACING_S) if wait > 0 else 0.0


def _now() -> float:
    """Seconds since 1970 by the clock at the start of this process; never set back or forth."""
    return _EPOCH + time.monotonic()
