"""The shared part of the rate budget, in Redis: requests, waiters, limits, live processes.

A sorted set holds every request of the last minute, and one script decides and writes in one round
trip. An approximate window needs less memory, but lets bursts through that a server with an exact
count refuses. Redis's clock counts.
"""

import contextlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as RedisTimeoutError

from mistral_service.scale import scripts
from mistral_service.scale.account import HEARTBEAT_S, MAX_PAUSE_S, NO_LIMIT
from mistral_service.scale.connect import REDIS_ERRORS, Address, connect
from mistral_service.scale.sliding_window import Entry
from mistral_service.scale.wait_queue import GRACE_S, SPACING_S, Waiter

_TIMEOUT_S = 0.2
"""Seconds, twice, until Redis counts as down: it answers in one millisecond, and a caller waits."""

_ALIVE_S = 5
"""Seconds for which a process counts as alive after its last heartbeat; one comes a second."""

_LEASE_S = 3 * HEARTBEAT_S
"""Seconds for which a waiter lasts without a heartbeat of its process."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What Redis answers to a request.

    Parameters:
        wait: Seconds to wait; 0 if the request is admitted, None if the limits have changed.
        pause: The part of them that is a pause of all processes.
        ahead: How many requests go first.
        limits: The limits of requests and tokens in Redis: text, empty if unknown.
    """

    wait: float | None
    pause: float
    ahead: int
    limits: tuple[str, str]


class SharedLog:
    """The requests and waiters of one fleet."""

    def __init__(self, redis_url: str, name: str, window: int) -> None:
        self._window = window
        self._name = name
        self._process_id = uuid.uuid4().hex
        self._redis = connect(
            Address.read(redis_url),
            timeout=_TIMEOUT_S,
            # A timeout may be this process's own delay, and is retried once. Other failures are
            # not: behind them may be a Redis that has lost everything.
            retry=Retry(NoBackoff(), 1, (RedisTimeoutError,)),
            decode_responses=True,
        )
        self._admit, self._refresh, self._write, self._publish, self._heartbeat = map(
            self._redis.register_script,
            (scripts.ADMIT, scripts.REFRESH, scripts.WRITE, scripts.PUBLISH, scripts.HEARTBEAT),
        )

    async def acquire(
        self,
        waiter: Waiter,
        age: float,
        bounds: tuple[int | None, int | None],
        limits: tuple[str, str],
    ) -> Decision:
        """Admit the request of a waiter that asked first `age` seconds ago, or let it wait.

        A window may have the requests and units of `bounds`, which were computed from the `limits`.
        """
        requests, units = (NO_LIMIT if bound is None else bound for bound in bounds)
        wait, pause, ahead, request_limit, token_limit = await self._admit(
            keys=self._keys(waiter.key),
            args=[
                _microseconds(self._window),
                waiter.id,
                int(waiter.rank),
                _microseconds(age),
                waiter.units,
                requests,
                units,
                _microseconds(GRACE_S),
                _microseconds(_LEASE_S),
                *limits,
                _microseconds(MAX_PAUSE_S),
                _microseconds(SPACING_S),
            ],
        )
        seconds = None if wait == "-1" else int(wait) / 1e6
        now = (str(request_limit), str(token_limit))
        return Decision(seconds, int(pause) / 1e6, int(ahead), now)

    async def remove(self, waiter: Waiter) -> None:
        """Remove a waiter."""
        await self._redis.hdel(self._keys(waiter.key)[3], waiter.id)

    async def publish(self, key: str, fields: Mapping[str, float]) -> None:
        """Publish `requests` and `tokens` per minute, or a `pause` in seconds, for ten windows."""
        args: list[Any] = [10_000 * self._window]
        for name, value in fields.items():
            args += [name, _microseconds(value) if name == "pause" else repr(value)]
        await self._publish(keys=self._keys(key)[:1], args=args)

    async def refresh(
        self, key: str, waiters: Iterable[tuple[Waiter, float]] = ()
    ) -> tuple[int, int]:
        """Renew waiters for the seconds that they still wait; returns requests and units used."""
        args: list[Any] = [_microseconds(self._window)]
        for waiter, seconds in waiters:
            args += [waiter.id, _microseconds(min(seconds, _LEASE_S))]
        requests, units = await self._refresh(keys=self._keys(key), args=args)
        return int(requests), int(units)

    async def reset_connections(self) -> None:
        """Close connections that broke when Redis went down: each of them would fail once more."""
        if isinstance(self._redis, RedisCluster):
            await self._redis.aclose()  # the next command looks up the nodes again
        else:
            await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def heartbeat(self) -> tuple[int, bool]:
        """Record that this process is alive; returns how many are, and whether it was known."""
        args = [self._process_id, _ALIVE_S, 10_000 * self._window]
        processes, known = await self._heartbeat(keys=[f"{self._name}:alive"], args=args)
        return max(1, int(processes)), bool(int(known))

    async def write(self, key: str, entries: Iterable[Entry], now: float) -> None:
        """Write requests that Redis does not have, or has lost; `now` is on their clock."""
        args: list[Any] = []
        for entry in entries:
            args += [f"{entry.id}:{entry.units}", _microseconds(now - entry.at)]
        for first in range(0, len(args), 1000):  # Redis runs nothing else meanwhile
            part = [_microseconds(self._window), *args[first : first + 1000]]
            await self._write(keys=self._keys(key), args=part)

    async def close(self) -> None:
        """Remove this process from those alive, and close the connections."""
        with contextlib.suppress(*REDIS_ERRORS):
            await self._redis.zrem(f"{self._name}:alive", self._process_id)
        with contextlib.suppress(*REDIS_ERRORS):
            await self._redis.aclose()

    def _keys(self, key: str) -> list[str]:
        tagged = f"{{{self._name}:{key}}}"
        return [f"{tagged}:{what}" for what in ("known", "log", "sums", "line")]


def _microseconds(seconds: float) -> int:
    return max(0, round(seconds * 1_000_000))
