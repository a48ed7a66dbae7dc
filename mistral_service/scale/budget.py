"""One rate budget for all processes that share an account: who may ask, and who waits.

What Mistral's headers tell one process, all know at the next request; what one has let out counts
for all. Where the minute runs low, new calls and then hedges are held back for the turns of calls
that go on. Who is held back is told so before the request goes out, and when there will be room.
"""

import asyncio
import itertools
import math
import time
import uuid
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any, cast

from loguru import logger

from mistral_service.scale.account import BEAT, SHARES, Account, limits_in
from mistral_service.scale.ledger import UNIT, Ledger
from mistral_service.scale.shared_log import GONE, SharedLog
from mistral_service.scale.wait_queue import Place, WaitQueue
from mistral_service.turn.ports import Rank, RequestEstimate
from mistral_service.wire.errors import HeldBack, MistralError
from mistral_service.wire.rate import WINDOW, RateBudget

_ON_THE_WAY = 1
"""Seconds that a request counts beyond the window: two that are let out a minute apart may arrive
somewhat closer to each other."""

_A_MOMENT = 0.005
"""Seconds after the moment at which there is room, for a timer that fires a little early."""

_APART, _MOST_APART = 0.06, 1.2
"""Seconds between two that wait for the same room, and at most for all of them: they do not come
in one burst, which would come again with every window."""

_STARTED = time.time() - time.monotonic()

_SETTLES = 2 * BEAT
"""Seconds for which a process keeps to its share as well when Redis is back: by then all have
written there what Redis has forgotten."""


@dataclass
class Stats:
    """What the budget has done in this process, for metrics.

    Parameters:
        admitted: Requests let out.
        refused: Requests held back, by rank.
        limited: Requests that Mistral refused in spite of all.
        used: The part of the account's budget in use when last looked at, 0 to 1; of the model
            that has used most.
        request_limit: Requests per minute of that model; None while unknown.
        token_limit: Its tokens per minute.
        processes: How many processes share the budget.
        local: Whether this process goes by its fair share, because Redis is gone.
    """

    admitted: int = 0
    refused: dict[Rank, int] = field(default_factory=lambda: dict.fromkeys(Rank, 0))
    limited: int = 0
    used: float = 0.0
    request_limit: float | None = None
    token_limit: float | None = None
    processes: int = 1
    local: bool = False


class SharedBudget:
    """The gate of all processes that share an account (`mistral_service.turn.ports.RateLimiter`).

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
        """Prepare it; Redis is asked at the first request.

        Args:
            redis_url: Where Redis is: `redis://:PASSWORD@HOST:PORT/0`, Sentinels, or a Cluster; see
                `mistral_service.scale.connect`.
            requests_per_minute: The most requests, where less is wanted than Mistral allows; until
                Mistral has told its own limits, nothing else is held back.
            tokens_per_minute: The most tokens, likewise.
            window: Seconds that Mistral takes for a minute.
            margin: The part of every limit that is left unused, for what estimates miss.
            name: What the keys in Redis begin with; who has another shares nothing.

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
        self._most = (requests_per_minute, tokens_per_minute)
        self._margin = margin
        self._window = math.ceil(window) + _ON_THE_WAY
        self._log = SharedLog(redis_url, name, self._window)
        self._accounts: dict[str, Account] = {}
        me, numbers = uuid.uuid4().hex[:12], itertools.count()
        self._places = WaitQueue(lambda: f"{me}-{next(numbers)}")
        self._shared_again = 0.0
        self._closed = False
        self._beating: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the gate ---------------------------------------------------------------------------------

    async def acquire(self, ask: RequestEstimate) -> None:
        """Let a request out, or hold a place for its caller.

        Within a rank it is first come, first served: what has room at once goes out beside those
        who wait only if it takes nothing from them, and after those who have room as well. The
        caller is `ask.caller`, or else the task that asks; it keeps its place if it asks for the
        same again at the time it was given, and leaves it with `leave`, with the end of the task,
        or by asking for something else.

        Args:
            ask: The request.

        Raises:
            HeldBack: With the seconds until there is room, if it has to wait.
        """
        if self._beating is None or self._beating.done():
            self._beating = asyncio.create_task(self._beat())
        caller, account, now = _caller(ask), self._of(ask), _now()
        place = self._places.of(caller, _key(ask), ask.rank, now)
        self._leave(caller, but=place)
        self._places.hold(caller, place, now)  # meanwhile: who falls back alone sees it
        account.ledger.used(now)
        tokens = account.possible(ask.tokens)
        place.units = units = account.ledger.units(tokens)
        kept, wait = False, math.inf
        try:
            wait = self._alone(account, place) if self.stats.local else 0.0
            # Where Redis is back, it counts as well: some may go by it already, and some not yet.
            if wait <= 0 and self._shared_again < math.inf:
                try:
                    wait = await self._shared(account, place)
                    kept = True
                except GONE as e:
                    self._lost(e)
                    wait = self._alone(account, place)
        except BaseException:
            wait = math.inf
            self._leave(caller)
            raise
        finally:
            if wait > 0:
                account.ledger.correct(units * UNIT - tokens)
        if wait > 0:
            self._hold(caller, place, wait)
            self.stats.refused[ask.rank] += 1
            raise HeldBack(wait + _A_MOMENT)
        self._places.leave(caller)
        account.ledger.add(_now(), units, kept=kept, id=place.id)
        self.stats.admitted += 1

    def release(self, ask: RequestEstimate) -> None:
        """Give up the place of a caller that does not wait any longer."""
        self._leave(_caller(ask))

    def has_headroom(self, ask: RequestEstimate) -> bool:
        """Whether there is room for a request that is not needed, by what was last heard."""
        account = self._of(ask)
        return account.pause <= _now() and account.used < SHARES[ask.rank]

    def record_answer(self, ask: RequestEstimate, budget: RateBudget | None) -> None:
        """Learn the limits; those that are news go to the others."""
        if budget is None:
            return
        account, now = self._of(ask), _now()
        account.heard = (now, budget)
        fields = limits_in(requests=budget.request_limit, tokens=budget.token_limit)
        before = (account.requests, account.tokens)
        account.know(fields)
        news = before != (account.requests, account.tokens)
        if fields and (news or now - account.told > self._window):
            account.told = now
            self._tell(_key(ask), fields)

    def record_refusal(self, ask: RequestEstimate, error: MistralError) -> None:
        """Have all pause a little: Mistral refuses in spite of the count."""
        self.stats.limited += 1
        self.record_answer(ask, error.budget)
        self._tell(_key(ask), {"pause": self._of(ask).refused(_now(), error.retry_after)})

    def record_usage(self, ask: RequestEstimate, tokens: int) -> None:
        """Have the next requests bear what the estimate missed."""
        self._of(ask).settle(ask.tokens, tokens)

    async def close(self) -> None:
        """Stop, and close the connections."""
        self._closed = True
        tasks = [task for task in (self._beating, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._log.close()

    # --- with Redis, and without ------------------------------------------------------------------

    async def _shared(self, account: Account, place: Place) -> float:
        """Take from what is shared; returns the seconds to wait where that fails."""
        while True:
            age, bounds = _now() - place.since, account.bounds(place.rank)
            answer = await self._log.acquire(place, age, bounds, account.limits)
            if answer.wait is not None:
                break
            account.limits = answer.limits
            requests, tokens = answer.limits
            account.know(limits_in(requests=requests, tokens=tokens))
        if answer.pause > 0:
            account.pause = max(account.pause, _now() + answer.pause)
        return _apart(max(answer.wait, account.pause - _now()), answer.ahead)

    def _alone(self, account: Account, place: Place) -> float:
        """Seconds until this process's share has room beside those who came before."""
        now = _now()
        ahead = self._places.ahead(place, now)
        wait = account.room_in(now, place.units, place.rank, self.stats.processes, ahead)
        if ahead[0] and not place.held_back:
            wait = max(wait, _A_MOMENT)  # a newcomer does not overtake those who come one by one
        return _apart(wait, ahead[0])

    def _hold(self, caller: Hashable, place: Place, wait: float) -> None:
        self._places.hold(caller, place, _now() + wait)
        place.held_back = True
        if isinstance(caller, asyncio.Task):
            # A task that has ended, or was cancelled, does not come back.
            task = cast("asyncio.Task[object]", caller)
            task.remove_done_callback(self._leave)
            task.add_done_callback(self._leave)

    def _leave(self, caller: Hashable, *, but: Place | None = None) -> None:
        """Have a caller hold no place any longer, here and in Redis; one may stay there."""
        place = self._places.leave(caller)
        if place is not None and place is not but:
            self._later(self._log.leave, place)

    def _lost(self, error: BaseException) -> None:
        self._shared_again = math.inf
        if not self.stats.local:
            self.stats.local = True
            for account in self._accounts.values():
                account.lose_sight(_now(), self.stats.processes)
            logger.warning(
                f"Redis is gone ({type(error).__name__}): this process goes by its share of the "
                f"rate budget, 1/{self.stats.processes}"
            )

    async def _beat(self) -> None:
        """Once a second: give a sign of life, look how much is used, and for a Redis that is gone.

        Turns do not wait for a Redis that was gone a second ago.
        """
        first = True
        while True:
            try:
                if self.stats.local:
                    await self._log.renew()
                alive, known = await self._log.alive()
                # A Redis that comes back empty does not know all of them at once.
                least = self.stats.processes if self.stats.local else 1
                self.stats.processes = max(alive, least)
                # Who was known, and is not any more, meets a Redis that has forgotten everything.
                known, first = known or first, False
                for key, account in list(self._accounts.items()):
                    account.ledger.used(_now())
                    missing = [e for e in account.ledger.entries if not (known and e.kept)]
                    if missing:
                        await self._log.write(key, missing, _now())
                        for entry in missing:
                            entry.kept = True
                    await self._look(key, account)
                now = time.monotonic()
                if self.stats.local and self._shared_again == math.inf:
                    self._shared_again = now + _SETTLES
                if self.stats.local and now >= self._shared_again:
                    self.stats.local = False
                    logger.info("Redis is back: the rate budget is shared again")
            except GONE as e:
                self._lost(e)
            await asyncio.sleep(BEAT)

    async def _look(self, key: str, account: Account) -> None:
        """See how much of an account is used, by us and by others; and who of us still waits."""
        now = _now()
        places = [(place, place.until - now) for place in self._places.held(key, now)]
        account.look(_now(), *await self._log.look(key, places))
        most = max(self._accounts.values(), key=lambda each: each.used)
        self.stats.used = most.used
        self.stats.request_limit, self.stats.token_limit = most.requests, most.tokens

    def _tell(self, key: str, fields: dict[str, float]) -> None:
        self._later(self._log.learn, key, fields)

    def _later(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Have Redis hear something that nothing waits for, while it is there."""

        async def hear() -> None:
            try:
                await work(*args)
            except GONE as e:
                self._lost(e)

        if self.stats.local or self._closed:
            return
        task = asyncio.create_task(hear())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _of(self, ask: RequestEstimate) -> Account:
        key = _key(ask)
        if key not in self._accounts:
            account = Account(Ledger(self._window), self._most, self._margin)
            account.know({})
            self._accounts[key] = account
        return self._accounts[key]


def _key(ask: RequestEstimate) -> str:
    return f"{ask.account}:{ask.model}"


def _caller(ask: RequestEstimate) -> Hashable:
    return ask.caller or asyncio.current_task()


def _apart(wait: float, ahead: int) -> float:
    """Seconds to wait, in the order of the line."""
    return wait + min(_APART * ahead, _MOST_APART) if wait > 0 else 0.0


def _now() -> float:
    """Seconds since 1970 as this process saw them when it began; never set back or forth."""
    return _STARTED + time.monotonic()
