"""The shared part of the rate budget, in Redis: who was let out, who waits, the limits, who lives.

The window moves: every request of the last minute stands in a sorted set, and one script decides
and writes, in one round trip. Estimating windows would need less memory, but let a burst through
that a server which counts exactly refuses. What counts is Redis's clock.
"""

import contextlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from mistral_service.scale import scripts
from mistral_service.scale.account import BEAT, LONGEST_PAUSE, NO_LIMIT
from mistral_service.scale.connect import Address, close, connect, renew
from mistral_service.scale.ledger import Entry
from mistral_service.scale.wait_queue import STAYS, Place

GONE = (RedisError, OSError, TimeoutError)
"""What says that Redis is not there."""

_TIMEOUT = 0.2
"""Seconds, twice, until Redis counts as gone: it answers in one millisecond, and a caller waits."""

_ALIVE = 5
"""Seconds for which a process counts as alive after its last sign of life; one comes a second."""

_LEASE = 3 * BEAT
"""Seconds for which a place lasts without a sign of life of its process."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Redis says to a request.

    Parameters:
        wait: Seconds to wait; 0 if it was let out, None if the limits are others than was thought.
        pause: Those of them for which nothing is let out.
        ahead: How many requests go first.
        limits: The limits of requests and tokens as they stand in Redis: text, empty if unknown.
    """

    wait: float | None
    pause: float
    ahead: int
    limits: tuple[str, str]


class SharedLog:
    """The requests of one fleet, and its line."""

    def __init__(self, redis_url: str, name: str, window: int) -> None:
        self._window = window
        self._name = name
        self._me = uuid.uuid4().hex
        self._redis = connect(
            Address.read(redis_url),
            timeout=_TIMEOUT,
            # A late answer may be our own lateness, and is waited for once more. Other failures
            # are looked into: behind them may be a Redis that has forgotten everything.
            retry=Retry(NoBackoff(), 1, (RedisTimeoutError,)),
            decode_responses=True,
        )
        self._admit, self._look, self._write, self._learn, self._alive = map(
            self._redis.register_script,
            (scripts.ADMIT, scripts.LOOK, scripts.WRITE, scripts.LEARN, scripts.ALIVE),
        )

    async def acquire(
        self,
        place: Place,
        age: float,
        bounds: tuple[int | None, int | None],
        limits: tuple[str, str],
    ) -> Answer:
        """Let a request out, or give it a place in line.

        Args:
            place: Its place: its name, its rank, and what it wants.
            age: Seconds since its caller asked first.
            bounds: Requests and units that there may be in a window; None for no limit.
            limits: The limits from which the bounds were made, as they stood in Redis.
        """
        requests, units = (NO_LIMIT if bound is None else bound for bound in bounds)
        wait, pause, ahead, *told = await self._admit(
            keys=self._keys(place.key),
            args=[
                _micro(self._window),
                place.id,
                int(place.rank),
                _micro(age),
                place.units,
                requests,
                units,
                _micro(STAYS),
                _micro(_LEASE),
                *limits,
                _micro(LONGEST_PAUSE),
            ],
        )
        waits = None if wait == "-1" else int(wait) / 1e6
        return Answer(waits, int(pause) / 1e6, int(ahead), (str(told[0]), str(told[1])))

    async def leave(self, place: Place) -> None:
        """Give up a place."""
        await self._redis.hdel(self._keys(place.key)[3], place.id)

    async def learn(self, key: str, fields: Mapping[str, float]) -> None:
        """Tell the others; forgotten after ten windows without a word.

        Args:
            key: The account and model.
            fields: `requests` and `tokens` per minute; `pause` in seconds from now.
        """
        args: list[Any] = [10_000 * self._window]
        for name, value in fields.items():
            args += [name, _micro(value) if name == "pause" else repr(value)]
        await self._learn(keys=self._keys(key)[:1], args=args)

    async def look(self, key: str, places: Iterable[tuple[Place, float]] = ()) -> tuple[int, int]:
        """See how much of a window is used.

        Args:
            key: The account and model.
            places: WaitQueue of this process that are still waited for, and for how many seconds.

        Returns:
            Requests and units.
        """
        args: list[Any] = [_micro(self._window)]
        for place, seconds in places:
            args += [place.id, _micro(min(seconds, _LEASE))]
        requests, units = await self._look(keys=self._keys(key), args=args)
        return int(requests), int(units)

    async def renew(self) -> None:
        """Let go of connections that broke when Redis went: each of them would fail once more."""
        await renew(self._redis)

    async def alive(self) -> tuple[int, bool]:
        """Give a sign of life.

        Returns:
            How many processes have given one, and whether ours of before was still there.
        """
        args = [self._me, _ALIVE, 10_000 * self._window]
        processes, known = await self._alive(keys=[f"{self._name}:alive"], args=args)
        return max(1, int(processes)), bool(int(known))

    async def write(self, key: str, entries: Iterable[Entry], now: float) -> None:
        """Write requests that Redis does not know (any more).

        Args:
            key: The account and model.
            entries: The requests; those that Redis knows are left as they are.
            now: The time, on the clock of the entries.
        """
        args: list[Any] = []
        for entry in entries:
            args += [f"{entry.id}:{entry.units}", _micro(now - entry.at)]
        for first in range(0, len(args), 1000):  # Redis does nothing else meanwhile
            part = [_micro(self._window), *args[first : first + 1000]]
            await self._write(keys=self._keys(key), args=part)

    async def close(self) -> None:
        """Take leave, and close the connections."""
        with contextlib.suppress(*GONE):
            await self._redis.zrem(f"{self._name}:alive", self._me)
        with contextlib.suppress(*GONE):
            await close(self._redis)

    def _keys(self, key: str) -> list[str]:
        tagged = f"{{{self._name}:{key}}}"
        return [f"{tagged}:{what}" for what in ("known", "log", "sums", "line")]


def _micro(seconds: float) -> int:
    return max(0, round(seconds * 1_000_000))
