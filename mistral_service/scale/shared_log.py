"""The shared part of the rate budget, in Redis: who was let out, what the limits are, who lives.

The windows are those of the library `limits` (a moving window: every request of the last minute
stands in a list, newest first, and one Lua script decides and writes). One list serves thresholds
of any height: what a lower one trims is older than the window. Estimating windows would need less
memory, but let a burst through that a server which counts exactly refuses.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, cast

from limits.aio.storage import RedisStorage
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from mistral_service.scale.account import NO_LIMIT
from mistral_service.scale.ledger import Entry

GONE = (RedisError, OSError, TimeoutError)
"""What says that Redis is not there."""

_TIMEOUT = 0.2
"""Seconds, twice, until Redis counts as gone: it answers in one millisecond, and a caller waits."""

_ALIVE = 5.0
"""Seconds for which a process counts as alive after its last sign of life; one comes a second."""


class SharedLog:
    """The lists of one fleet.

    The clocks of the machines have to agree to some tenths of a second, as NTP makes them.
    """

    def __init__(self, redis_url: str, name: str, window: int) -> None:
        self._window = window
        self._name = name
        self._me = uuid.uuid4().hex
        pool = cast(Any, ConnectionPool).from_url(
            redis_url,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            # A late answer may be our own lateness, and is waited for once more. Other failures
            # are looked into: behind them may be a Redis that has forgotten everything.
            retry=Retry(NoBackoff(), 1, (RedisTimeoutError,)),
            decode_responses=True,
        )
        self._redis: Any = Redis(connection_pool=pool)
        # The pool says where; what stands here would only be parsed.
        self._storage = RedisStorage(
            "async+redis://", implementation="redispy", key_prefix=name, connection_pool=pool
        )

    async def known(self, key: str) -> dict[str, float]:
        """What is known of an account and model: its limits, and until when all pause."""
        fields = cast("dict[str, str]", await self._redis.hgetall(f"{self._name}:{key}"))
        return {field: float(value) for field, value in fields.items()}

    async def learn(self, key: str, fields: Mapping[str, float]) -> None:
        """Tell the others; forgotten after ten windows without a word."""
        name = f"{self._name}:{key}"
        pipe = self._redis.pipeline()
        pipe.hset(name, mapping=dict(fields))
        pipe.expire(name, 10 * self._window)
        await pipe.execute()

    async def take(self, key: str, counts: Mapping[str, tuple[int, int]]) -> list[str]:
        """Take from several lists, all or nothing.

        Args:
            key: The account and model.
            counts: For each list how many to take, and how many there may be.

        Returns:
            The lists that are full; empty if it was taken.
        """
        took = await asyncio.gather(
            *(
                self._storage.acquire_entry(f"{key}:{name}", limit, self._window, amount)
                for name, (amount, limit) in counts.items()
            )
        )
        full = [name for name, done in zip(counts, took, strict=True) if not done]
        if full:
            # The newest go back: if they are another's by now, they are as new.
            for (name, (amount, _)), done in zip(counts.items(), took, strict=True):
                if done and amount:
                    await self._redis.lpop(self._list(key, name), amount)
        return full

    async def room_in(self, key: str, name: str, amount: int, limit: int) -> float:
        """Seconds until so many can be taken."""
        stays = max(1, limit - amount + 1)
        oldest, _ = await self._storage.get_moving_window(f"{key}:{name}", stays, self._window)
        return max(0.0, oldest + self._window - time.time())

    async def count(self, key: str, name: str) -> int:
        """How many stand in a list."""
        return (await self._storage.get_moving_window(f"{key}:{name}", NO_LIMIT, self._window))[1]

    async def renew(self) -> None:
        """Let go of connections that broke when Redis went: each of them would fail once more."""
        await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def alive(self) -> tuple[int, bool]:
        """Give a sign of life.

        Returns:
            How many processes have given one, and whether ours of before was still there.
        """
        key, now = f"{self._name}:alive", time.time()
        pipe = self._redis.pipeline()
        pipe.exists(f"{key}:{self._me}")
        pipe.set(f"{key}:{self._me}", 1, ex=10 * self._window)
        pipe.zadd(key, {self._me: now})
        pipe.zremrangebyscore(key, 0, now - _ALIVE)
        pipe.zcard(key)
        pipe.expire(key, 10 * self._window)
        known, _, _, _, processes, _ = await pipe.execute()
        return max(1, int(processes)), bool(known)

    async def write(self, key: str, entries: Iterable[Entry]) -> None:
        """Write requests that Redis does not know (any more), in their order."""
        requests = [repr(entry.at) for entry in entries]
        units = [repr(entry.at) for entry in entries for _ in range(entry.units)]
        pipe = self._redis.pipeline(transaction=True)
        for name, times in (("requests", requests), ("tokens", units)):
            if times:
                listed = self._list(key, name)
                pipe.rpush(listed, *times)
                pipe.sort(listed, desc=True, store=listed)
                pipe.expire(listed, self._window)
        await pipe.execute()

    async def close(self) -> None:
        """Take leave, and close the connections."""
        with contextlib.suppress(*GONE):
            await self._redis.zrem(f"{self._name}:alive", self._me)
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    def _list(self, key: str, name: str) -> str:
        return f"{self._name}:{key}:{name}"
