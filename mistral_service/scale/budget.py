"""One rate budget for all processes that share an account: who may ask, and who waits.

What Mistral's headers tell one process, all know at the next request; what one has let out counts
for all. Where the minute runs low, new calls and then hedges are held back for the turns of calls
that go on. Who is held back is told so before the request goes out, and when there will be room.
"""

import asyncio
import math
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from loguru import logger

from mistral_service.scale.account import BEAT, NO_LIMIT, SHARES, Account
from mistral_service.scale.ledger import UNIT, Ledger
from mistral_service.scale.shared_log import GONE, SharedLog
from mistral_service.surroundings import Ask, Rank
from mistral_service.wire.errors import HeldBack, MistralError
from mistral_service.wire.rate import WINDOW, RateBudget

_ON_THE_WAY = 1
"""Seconds that a request counts beyond the window: two that are let out a minute apart may arrive
somewhat closer to each other."""

_PAUSE, _LONGEST_PAUSE = 1.0, 3.0
"""Seconds for which all pause after a refusal of Mistral's that says no time, and at most. What is
said is mostly the whole minute, since nobody knows how much of it is over; and a turn has nine."""

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
    """The gate of all processes that share an account (`mistral_service.surroundings.Gate`).

    Each model of an account has limits of its own, as at Mistral. Use one instance per process and
    event loop, and close it at the end::

        budget = SharedBudget(os.environ["REDIS_URL"])
        surroundings.set(Surroundings(gate=budget))

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
            redis_url: Where Redis is: `redis://:PASSWORD@HOST:PORT/0`, `rediss://…`, `unix://…`.
            requests_per_minute: The most requests, where less is wanted than Mistral allows; until
                Mistral has told its own limits, nothing else is held back.
            tokens_per_minute: The most tokens, likewise.
            window: Seconds that Mistral takes for a minute.
            margin: The part of every limit that is left unused, for what estimates miss.
            name: What the keys in Redis begin with; who has another shares nothing.

        Raises:
            ValueError: If an argument is not allowed; the sentence says what is.
        """
        scheme = urlsplit(redis_url).scheme
        if scheme not in ("redis", "rediss", "unix"):
            # The rest may hold a password.
            raise ValueError(
                f"redis_url begins with {scheme!r}: allowed are redis://, rediss://, unix://"
            )
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
        self._shared_again = 0.0
        self._beating: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the gate ---------------------------------------------------------------------------------

    async def admit(self, ask: Ask) -> None:
        """Let a request out.

        Args:
            ask: The request.

        Raises:
            HeldBack: With the seconds until there is room, if it has to wait.
        """
        if self._beating is None or self._beating.done():
            self._beating = asyncio.create_task(self._beat())
        account = self._of(ask)
        account.ledger.used(time.time())
        units = account.ledger.units(ask.tokens)
        kept, wait = False, 0.0
        try:
            if self.stats.local:
                wait = account.room_in(time.time(), units, ask.rank, self.stats.processes)
            # Where Redis is back, it counts as well: some may go by it already, and some not yet.
            if wait <= 0 and self._shared_again < math.inf:
                try:
                    wait = await self._shared(ask, account, units)
                    kept = True
                except GONE as e:
                    self._lost(e)
                    wait = account.room_in(time.time(), units, ask.rank, self.stats.processes)
        except asyncio.CancelledError:
            account.ledger.correct(units * UNIT - ask.tokens)
            raise
        if wait > 0:
            account.ledger.correct(units * UNIT - ask.tokens)
            self.stats.refused[ask.rank] += 1
            # Those who wait for the same room do not all come at once.
            wait += random.random() * min(1.0, 0.1 + wait / 4)
            raise HeldBack(wait)
        account.ledger.add(time.time(), units, kept=kept)
        self.stats.admitted += 1

    def can_spare(self, ask: Ask) -> bool:
        """Whether there is room for a request that is not needed, by what was last heard."""
        account = self._of(ask)
        return account.pause <= time.time() and account.used < SHARES[ask.rank]

    def answered(self, ask: Ask, budget: RateBudget | None) -> None:
        """Learn the limits; those that are news go to the others."""
        if budget is None:
            return
        account, now = self._of(ask), time.time()
        account.heard = (now, budget)
        told = {"requests": budget.request_limit, "tokens": budget.token_limit}
        fields = {name: limit for name, limit in told.items() if limit}
        before = (account.requests, account.tokens)
        account.know(fields)
        news = before != (account.requests, account.tokens)
        if fields and (news or now - account.told > self._window):
            account.told = now
            self._tell(_key(ask), fields)

    def refused(self, ask: Ask, error: MistralError) -> None:
        """Have all pause a little: Mistral refuses in spite of the count."""
        self.stats.limited += 1
        self.answered(ask, error.budget)
        pause = min(error.retry_after or _PAUSE, _LONGEST_PAUSE)
        account = self._of(ask)
        account.pause = max(account.pause, time.time() + pause)
        self._tell(_key(ask), {"pause": account.pause})

    def spent(self, ask: Ask, tokens: int) -> None:
        """Have the next request bear what the estimate missed."""
        self._of(ask).ledger.correct(tokens - ask.tokens)

    async def close(self) -> None:
        """Stop, and close the connections."""
        tasks = [task for task in (self._beating, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._log.close()

    # --- with Redis, and without ------------------------------------------------------------------

    async def _shared(self, ask: Ask, account: Account, units: int) -> float:
        """Take from what is shared; returns the seconds to wait where that fails."""
        key = _key(ask)
        account.know(await self._log.known(key))
        if (pause := account.pause - time.time()) > 0:
            return pause
        requests, tokens = account.bounds(ask.rank)
        counts = {"requests": (1, requests or NO_LIMIT)}
        if units:
            bound = tokens or NO_LIMIT
            counts["tokens"] = (min(units, bound), bound)
        full = await self._log.take(key, counts)
        waits = [await self._log.room_in(key, name, *counts[name]) for name in full]
        return max(waits) + 0.001 if waits else 0.0

    def _lost(self, error: BaseException) -> None:
        self._shared_again = math.inf
        if not self.stats.local:
            self.stats.local = True
            for account in self._accounts.values():
                account.lose_sight(time.time(), self.stats.processes)
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
                    account.ledger.used(time.time())
                    missing = [e for e in account.ledger.entries if not (known and e.kept)]
                    if missing:
                        await self._log.write(key, missing)
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
        """See how much of an account is used, by us and by others."""
        requests = await self._log.count(key, "requests")
        units = await self._log.count(key, "tokens")
        account.look(time.time(), requests, units)
        most = max(self._accounts.values(), key=lambda each: each.used)
        self.stats.used = most.used
        self.stats.request_limit, self.stats.token_limit = most.requests, most.tokens

    def _tell(self, key: str, fields: dict[str, float]) -> None:
        async def tell() -> None:
            try:
                await self._log.learn(key, fields)
            except GONE as e:
                self._lost(e)

        if not self.stats.local:
            self._start(tell())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _of(self, ask: Ask) -> Account:
        key = _key(ask)
        if key not in self._accounts:
            account = Account(Ledger(self._window), self._most, self._margin)
            account.know({})
            self._accounts[key] = account
        return self._accounts[key]


def _key(ask: Ask) -> str:
    return f"{ask.account}:{ask.model}"
