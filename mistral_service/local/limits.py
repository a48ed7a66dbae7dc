"""The endpoint's rate limits: a sliding window over every request of the last minute.

Mistral does not document its algorithm. A sliding window is the strictest: at no moment have more
requests or tokens than the limit been admitted in the minute before. A client that satisfies it
satisfies any other algorithm.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from mistral_service.local.pieces import Refusal

_LIMITS = ("requests_per_minute", "tokens_per_minute")
_BYTES_PER_TOKEN = 4
"""Bytes of a request's body that are counted as a token: English has about four to one."""


@dataclass
class RateLimits:
    """The rate limits of one account, which can change at any time.

    Parameters:
        requests_per_minute: Requests per window; None for no limit.
        tokens_per_minute: Tokens per window; None for no limit.
        window: Seconds that count as a minute.
        clock: Returns the time, in seconds.
        refused: Requests refused so far.

    Raises:
        ValueError: If a limit is less than 1, or the window is not above 0.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    window: float = 60.0
    clock: Callable[[], float] = time.monotonic
    refused: int = 0
    _admitted: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])

    def __post_init__(self) -> None:
        self.change({name: getattr(self, name) for name in _LIMITS})
        if not self.window > 0:
            raise ValueError(f"window is {self.window!r}: allowed is a number of seconds above 0")

    def change(self, limits: object) -> None:
        """Change limits by name; those that are not named keep their values.

        Raises:
            TypeError: If it is not a mapping.
            ValueError: If a name is not a limit, or a value is not a whole number from 1.
        """
        if not isinstance(limits, dict):
            raise TypeError(f"limits is {limits!r}: allowed is an object of {', '.join(_LIMITS)}")
        changed = cast("dict[str, Any]", limits)
        for name, value in changed.items():
            if name not in _LIMITS:
                raise ValueError(f"{name} is no limit: allowed are {', '.join(_LIMITS)}")
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} is {value!r}: allowed is a whole number from 1, or None")
        for name, value in changed.items():
            setattr(self, name, value)

    def state(self) -> dict[str, int | None]:
        """The limits by name, and how many requests were `refused`."""
        return {name: getattr(self, name) for name in (*_LIMITS, "refused")}

    def take(self, body: bytes) -> tuple[Refusal | None, dict[str, str]]:
        """Admit a request, or refuse it; returns the headers of the answer either way."""
        now = self.clock()
        while self._admitted and self._admitted[0][0] <= now - self.window:
            self._admitted.popleft()
        cost = len(body) // _BYTES_PER_TOKEN + 1
        counts = (
            ("req", self.requests_per_minute, len(self._admitted), 1),
            ("tokens", self.tokens_per_minute, sum(taken for _, taken in self._admitted), cost),
        )
        full = any(limit is not None and used + more > limit for _, limit, used, more in counts)
        headers = {"x-ratelimit-tokens-query-cost": str(cost)}
        for name, limit, used, more in counts:
            if limit is not None:
                remaining = limit - used - (0 if full else more)
                headers[f"x-ratelimit-limit-{name}-minute"] = str(limit)
                headers[f"x-ratelimit-remaining-{name}-minute"] = str(max(0, remaining))
        if not full:
            self._admitted.append((now, cost))
            return None, headers
        self.refused += 1
        refusal = Refusal.error("Rate limit exceeded", "rate_limited", "1300", status=429)
        return replace(refusal, headers=headers), headers
