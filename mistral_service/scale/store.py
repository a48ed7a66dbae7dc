"""The records of calls in Redis: a hash for each call, with a fencing token for every write.

A call belongs to the machine that claimed it last. Each claim gets a larger number than all before
it, the fence; the scripts refuse a write with a smaller one, so that a machine that is wrongly
taken for dead can do no harm.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from loguru import logger
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from mistral_service.scale import metrics
from mistral_service.scale.connect import REDIS_ERRORS, Address, connect, run_script

MAX_FIELD_BYTES = 16_000_000
"""Bytes that a field may have in Redis."""

# A field that is too large is read as empty, which is not a valid record.
_FIELD = f"""
local function field(name)
  if redis.call('HSTRLEN', KEYS[1], name) > {MAX_FIELD_BYTES} then return '' end
  return redis.call('HGET', KEYS[1], name)
end
"""

# Reading renews nothing: a record that cannot be read expires, unless its owner renews it.
_READ = (
    _FIELD
    + """
local held = redis.call('HMGET', KEYS[1], 'fence', 'over')
if not held[1] or held[2] then return false end
return {held[1], 1, field('snapshot'), field('journal'), field('calls')}
"""
)

# The fence follows the clock of Redis, so that it also grows where a restart loses everything.
_CLAIM = (
    _FIELD
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

# The fence stays for a while, so that a machine that lags cannot create the call again.
_DELETE = """
local held = redis.call('HGET', KEYS[1], 'fence')
if held and tonumber(held) > tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'over', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""


class StoreUnavailable(ConnectionError):
    """Redis does not answer."""


class Written(IntEnum):
    """The result of a write.

    Parameters:
        FENCED: Refused: the call belongs to another machine, or is over.
        UPDATED: Written.
        CREATED: Written where nothing was, or over the write of an earlier owner: Redis has lost
            data, and may have lost the claim of another machine.
        NOT_REPLICATED: Written, and too few replicas have confirmed it in time.
    """

    FENCED = 0
    UPDATED = 1
    CREATED = 2
    NOT_REPLICATED = 3


@dataclass(frozen=True, slots=True)
class Claim:
    """A call that a machine has claimed.

    Parameters:
        fence: The fencing token for its writes.
        known: Whether the call was there before.
        fields: Its record, by name: `snapshot`, `journal`, `calls`.
        is_replicated: Whether the replicas that the address asks for have the claim.
    """

    fence: int
    known: bool = False
    fields: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    is_replicated: bool = True


@dataclass
class Stats:
    """What the store has done.

    Parameters:
        operations: Round trips to Redis.
        fenced: Writes that were refused because the call belongs to another machine.
    """

    operations: int = 0
    fenced: int = 0


class Store:
    """The records of calls in Redis; where it does not answer, `StoreUnavailable` is raised.

    Attributes:
        stats: What it has done.
        is_down: Whether the last round trip to Redis failed.
    """

    def __init__(self, url: str, *, prefix: str = "call:", timeout: float = 0.3) -> None:
        """Make the store; nothing is connected yet.

        Args:
            url: Where Redis is: `redis://host:6379/0`, or a form of `scale/connect.py`.
            prefix: The prefix of all keys.
            timeout: Seconds to connect, and to wait for an answer.
        """
        self.stats = Stats()
        self._prefix = prefix
        self.is_down = False
        self._timeout = timeout
        self._address = Address.read(url)
        # A connection that idled through a restart of Redis is dead. Every script is idempotent.
        # A timeout is not retried.
        retry = Retry(NoBackoff(), 1, (RedisConnectionError,))
        self._redis = connect(self._address, timeout=timeout, retry=retry)
        self._read, self._claim, self._write, self._delete = map(
            self._redis.register_script, (_READ, _CLAIM, _WRITE, _DELETE)
        )

    async def read(self, call_id: str) -> Claim | None:
        """Read the claim of a call's owner; None if the call is not known, or over."""
        return _parse_claim(*await self._run(self._read, call_id, []))

    async def claim(
        self,
        call_id: str,
        keep_seconds: float,
        *,
        create: bool,
        expected_fence: int | None = None,
        reset: bool = False,
    ) -> Claim | None:
        """Claim a call, so that its owner before can write no more.

        Args:
            call_id: The call.
            keep_seconds: How long its record lasts from now on.
            create: Whether an unknown call begins.
            expected_fence: The fence that `read` has returned, 0 for an unknown call: where another
                machine has claimed the call since, nothing happens, and the fence returned is 0.
                None claims it in any case.
            reset: Whether its record is deleted.

        Returns:
            The claim; None if the call is not known.
        """
        arguments: list[Any] = [_milliseconds(keep_seconds), int(create)]
        arguments += ["" if expected_fence is None else expected_fence, int(reset)]
        replicas = self._address.replicas
        return _parse_claim(*await self._run(self._claim, call_id, arguments, replicas))

    async def write(
        self, call_id: str, fence: int, fields: Mapping[str, bytes], keep_seconds: float
    ) -> Written:
        """Write some fields of a call's record.

        Where the address names `replicas`, the notes of functions (`calls`) wait for them: a master
        that dies loses what no replica has.
        """
        arguments: list[Any] = [fence, _milliseconds(keep_seconds)]
        for name, value in fields.items():
            arguments += [name, value]
        replicas = self._address.replicas if "calls" in fields else 0
        answer, is_replicated = await self._run(self._write, call_id, arguments, replicas)
        written = Written(answer)
        self.stats.fenced += written is Written.FENCED
        if written is Written.UPDATED and not is_replicated:
            return Written.NOT_REPLICATED
        return written

    async def delete(self, call_id: str, fence: int, keep_seconds: float) -> None:
        """Delete the record of a call that is over; where that fails, it expires."""
        await self._run(self._delete, call_id, [fence, _milliseconds(keep_seconds)])

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _run(
        self, script: Any, call_id: str, arguments: list[Any], replicas: int = 0
    ) -> tuple[Any, bool]:
        self.stats.operations += 1
        keys, within = [self._prefix + call_id], self._timeout / 2
        try:
            answer = await run_script(
                self._redis, script, keys, arguments, replicas=replicas, within=within
            )
        except REDIS_ERRORS as e:
            metrics.REDIS_FAILURES.record()
            if not self.is_down:
                self.is_down = True
                logger.error(f"Calls are not recorded, because Redis does not answer: {e}")
            raise StoreUnavailable("Redis does not answer") from e
        if self.is_down:
            self.is_down = False
            logger.info("Calls are recorded again: Redis is back")
        return answer


def _parse_claim(answer: Any, is_replicated: bool) -> Claim | None:
    if answer is None:
        return None
    fence, known, *values = answer
    named = zip(("snapshot", "journal", "calls"), values, strict=False)
    fields = {name: value for name, value in named if value is not None}
    return Claim(int(fence), bool(known), fields, is_replicated)


def fence_without_redis() -> int:
    """A fence for a call that begins while Redis is down: this machine's clock, in µs."""
    return time.time_ns() // 1000


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
