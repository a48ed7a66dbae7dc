"""A clock of the test's own for the scripts of the rate limiter: how busy Redis is does not count.

`TIME` is a key that the test sets, and no key expires by the time of the wall.
"""

import pytest
from redis.asyncio import Redis

from mistral_service.scale import scripts

CLOCK = "the-clock-of-the-test"
EPOCH = 1_700_000_000.0

_READ = f"string.gmatch(redis.call('GET', '{CLOCK}'), '%d+')"
_TIME = f"(function() local n = {_READ}; return {{n(), n()}} end)()"


def use_clock_of_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the scripts go by the key, in every limiter that is made from here on."""
    for name in ("ADMIT", "REFRESH", "WRITE", "PUBLISH", "HEARTBEAT"):
        text = getattr(scripts, name)
        assert "redis.call('TIME')" in text
        text = text.replace("redis.call('TIME')", _TIME)
        text = text.replace("redis.call('PEXPIRE'", "redis.call('EXISTS'")  # which does nothing
        assert "EXPIRE" not in text
        monkeypatch.setattr(scripts, name, text)


async def set_clock(redis: Redis, now: float) -> None:
    """Set the time, in seconds since the test began."""
    microseconds = round((EPOCH + now) * 1e6)
    await redis.set(CLOCK, f"{microseconds // 10**6} {microseconds % 10**6}")
