"""Where calls are kept: Redis, one hash for each call, and every write fenced.

A call belongs to the machine that took it last. Each taking gets a number above all before it, the
fence; a write with a smaller one is refused by the script that would have made it, so that a
machine which was thought dead and is not can do no harm.
"""

import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from loguru import logger
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from mistral_service.scale.connect import Address, close, connect, run

# A field that is larger than anything that is kept is not sent: empty, it cannot be read.
_FIELD = """
local function field(name)
  if redis.call('HSTRLEN', KEYS[1], name) > %d then return '' end
  return redis.call('HGET', KEYS[1], name)
end
"""

PACKED_MOST = 16_000_000
"""Bytes that a field may have as it lies in Redis."""

# Looking renews nothing: what cannot be read expires, and an owner that can read it goes on.
_LOOK = (
    _FIELD % PACKED_MOST
    + """
local held = redis.call('HMGET', KEYS[1], 'fence', 'over')
if not held[1] or held[2] then return false end
return {held[1], 1, field('snapshot'), field('journal'), field('calls')}
"""
)

# The fence follows the clock of Redis, so that it grows over a restart that lost everything.
_TAKE = (
    _FIELD % PACKED_MOST
    + """
local held = redis.call('HMGET', KEYS[1], 'fence', 'over')
local known = held[1] and not held[2]
if ARGV[3] ~= '' and ARGV[3] ~= (known and held[1] or '0') then return {'0', 0} end
if not known and ARGV[2] == '0' then return false end
local now = redis.call('TIME')
local fence = math.max((tonumber(held[1]) or 0) + 1, now[1] * 1000000 + now[2])
local written = string.format('%.0f', fence)
redis.call('HSET', KEYS[1], 'fence', written)
redis.call('HDEL', KEYS[1], 'over')
if ARGV[4] == '1' then redis.call('HDEL', KEYS[1], 'snapshot', 'journal', 'calls') end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
if not known or ARGV[4] == '1' then return {written, 0} end
return {written, 1, field('snapshot'), field('journal'), field('calls')}
"""
)

_WRITE = """
local held = redis.call('HMGET', KEYS[1], 'fence', 'over')
if held[1] and (tonumber(held[1]) > tonumber(ARGV[1]) or held[2]) then return 0 end
redis.call('HSET', KEYS[1], 'fence', ARGV[1], unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if held[1] and tonumber(held[1]) == tonumber(ARGV[1]) then return 1 end
return 2
"""

# The fence stays behind for a while: what is over is not made again by a machine that lags.
_END = """
local held = redis.call('HGET', KEYS[1], 'fence')
if held and tonumber(held) > tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'over', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""


class StoreGone(ConnectionError):
    """Redis does not answer."""


class Written(IntEnum):
    """What became of a write.

    Parameters:
        FENCED: The call belongs to another machine, or is over.
        KEPT: It was written.
        ANEW: It was written where nothing was, or where an earlier owner has written: Redis has
            lost what it had, and may have lost that others took the call.
        NOT_COPIED: It was written, and too few replicas have confirmed it in time.
    """

    FENCED = 0
    KEPT = 1
    ANEW = 2
    NOT_COPIED = 3


@dataclass(frozen=True, slots=True)
class Taken:
    """A call that was taken.

    Parameters:
        fence: The number that its writes have to carry.
        known: Whether it was there before.
        fields: What was kept of it, by name: `snapshot`, `journal`, `calls`.
        is_copied: Whether as many replicas know of the taking as the address names.
    """

    fence: int
    known: bool = False
    fields: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    is_copied: bool = True


@dataclass
class Stats:
    """What the store has done.

    Parameters:
        operations: Round trips to Redis.
        sent: Bytes of what was kept.
        failures: Round trips that failed.
        fenced: Writes that were refused since the call belongs to another machine.
    """

    operations: int = 0
    sent: int = 0
    failures: int = 0
    fenced: int = 0


class Store:
    """Calls in Redis.

    Attributes:
        stats: What has been done.
        gone: Whether Redis did not answer last time.
    """

    def __init__(self, url: str, *, prefix: str = "call:", timeout: float = 0.3) -> None:
        """Prepare; nothing is connected yet.

        Args:
            url: Where Redis is: `redis://host:6379/0`, or a form of `scale/connect.py`.
            prefix: What the names of all keys begin with.
            timeout: Seconds to connect, and to wait for an answer.
        """
        self.stats = Stats()
        self._prefix = prefix
        self.gone = False
        self._timeout = timeout
        self._address = Address.read(url)
        # A connection that idled through a restart is dead; every script may run twice.
        # One that does not answer in time is not asked twice.
        retry = Retry(NoBackoff(), 1, (RedisConnectionError,))
        self._redis = connect(self._address, timeout=timeout, retry=retry)
        scripts = (_LOOK, _TAKE, _WRITE, _END)
        self._look, self._take, self._write, self._end = map(self._redis.register_script, scripts)

    async def look(self, call_id: str) -> Taken | None:
        """See what is kept of a call, and leave it to its owner.

        Returns:
            The call under its owner's fence; None if it is not known, or over.

        Raises:
            StoreGone: If Redis does not answer.
        """
        return _taken(await self._do(self._look(keys=[self._prefix + call_id], args=[])))

    async def take(
        self,
        call_id: str,
        keep_seconds: float,
        *,
        create: bool,
        seen: int | None = None,
        anew: bool = False,
    ) -> Taken | None:
        """Take a call, so that who had it before can write no more.

        Args:
            call_id: The call.
            keep_seconds: How long it is kept from now on.
            create: Whether one that is not known begins.
            seen: The fence under which `look` has found it, 0 for a call that is not known: where
                another one has taken it since, nothing happens, and the fence returned is 0. None
                takes it in any case.
            anew: Whether it begins anew: what was kept of it is deleted.

        Returns:
            The call; None if it is not known.

        Raises:
            StoreGone: If Redis does not answer.
        """
        arguments: list[Any] = [_milliseconds(keep_seconds), int(create)]
        arguments += ["" if seen is None else seen, int(anew)]
        found, is_copied = await self._do(
            self._run(self._take, call_id, arguments, self._address.replicas)
        )
        return _taken(found, is_copied)

    async def write(
        self, call_id: str, fence: int, fields: Mapping[str, bytes], keep_seconds: float
    ) -> Written:
        """Write some of what is kept of a call.

        Where the address names `replicas`, the notes of functions (`calls`) wait for them: what no
        replica has is lost where the master dies.

        Raises:
            StoreGone: If Redis does not answer.
        """
        arguments: list[Any] = [fence, _milliseconds(keep_seconds)]
        for name, value in fields.items():
            arguments += [name, value]
            self.stats.sent += len(value)
        replicas = self._address.replicas if "calls" in fields else 0
        answer, is_copied = await self._do(self._run(self._write, call_id, arguments, replicas))
        written = Written(answer)
        self.stats.fenced += written is Written.FENCED
        return written if is_copied or written is not Written.KEPT else Written.NOT_COPIED

    async def end(self, call_id: str, fence: int, keep_seconds: float) -> None:
        """Delete what was kept of a call that is over.

        Raises:
            StoreGone: If Redis does not answer; it expires then.
        """
        arguments = [fence, _milliseconds(keep_seconds)]
        await self._do(self._end(keys=[self._prefix + call_id], args=arguments))

    async def close(self) -> None:
        """Close the connections."""
        await close(self._redis)

    def _run(
        self, script: Any, call_id: str, arguments: list[Any], replicas: int
    ) -> Awaitable[tuple[Any, bool]]:
        keys, within = [self._prefix + call_id], self._timeout / 2
        return run(self._redis, script, keys, arguments, replicas=replicas, within=within)

    async def _do(self, asked: Awaitable[Any]) -> Any:
        self.stats.operations += 1
        try:
            answer = await asked
        except (RedisError, OSError, TimeoutError) as e:
            self.stats.failures += 1
            if not self.gone:
                self.gone = True
                logger.error(f"Calls are not kept, since Redis does not answer: {e}")
            raise StoreGone("Redis does not answer") from e
        if self.gone:
            self.gone = False
            logger.info("Calls are kept again: Redis is back")
        return answer


def _taken(found: Any, is_copied: bool = True) -> Taken | None:
    if found is None:
        return None
    values = dict(zip(("snapshot", "journal", "calls"), found[2:], strict=False))
    kept = {name: value for name, value in values.items() if value is not None}
    return Taken(int(found[0]), bool(found[1]), kept, is_copied)


def fence_without_redis() -> int:
    """A fence for a call that begins while Redis is away: by this machine's clock, in µs."""
    return time.time_ns() // 1000


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
