"""The endpoint's own rate limit: every request of the last minute is remembered, none is guessed.

Mistral does not say how it counts. This counts as strictly as can be done: at no moment have more
requests or tokens been let in than the limit, in the minute before it. A limiter that satisfies it
satisfies any other way of counting.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from mistral_service.local.pieces import Refusal

_LIMITS = ("requests_per_minute", "tokens_per_minute")
_BYTES_PER_TOKEN = 4
"""Bytes of a request's body that are counted as a token: English has about four to one."""


@dataclass
class RateLimits:
    """What one account may ask for; the limits may be changed at any time.

    Parameters:
        requests_per_minute: Requests per window; None for no limit.
        tokens_per_minute: Tokens per window; None for no limit.
        window: Seconds that count as a minute.
        clock: The time, in seconds.
        refused: Requests refused so far.

    Raises:
        ValueError: If a limit is less than 1, or the window no time.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    window: float = 60.0
    clock: Callable[[], float] = time.monotonic
    refused: int = 0
    _let_in: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])

    def __post_init__(self) -> None:
        self.change({name: getattr(self, name) for name in _LIMITS})
        if not self.window > 0:
            raise ValueError(f"window is {self.window!r}: allowed is a number of seconds above 0")

    def change(self, limits: object) -> None:
        """Change limits; those that are not named stay.

        Args:
            limits: A mapping of `requests_per_minute` and `tokens_per_minute`.

        Raises:
            TypeError: If it is no mapping.
            ValueError: If there is no such limit, or it is no number from 1.
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
        """Let a request in, or refuse it.

        Args:
            body: The request's body.

        Returns:
            The refusal, or None; and the headers that the answer has to carry either way.
        """
        now = self.clock()
        while self._let_in and self._let_in[0][0] <= now - self.window:
            self._let_in.popleft()
        cost = len(body) // _BYTES_PER_TOKEN + 1
        requests, tokens = len(self._let_in), sum(tokens for _, tokens in self._let_in)
        full = _above(requests + 1, self.requests_per_minute) or _above(
            tokens + cost, self.tokens_per_minute
        )
        if full:
            self.refused += 1
        else:
            self._let_in.append((now, cost))
            requests, tokens = requests + 1, tokens + cost
        headers = {"x-ratelimit-tokens-query-cost": str(cost)}
        for name, limit, used in (
            ("req", self.requests_per_minute, requests),
            ("tokens", self.tokens_per_minute, tokens),
        ):
            if limit is not None:
                headers[f"x-ratelimit-limit-{name}-minute"] = str(limit)
                headers[f"x-ratelimit-remaining-{name}-minute"] = str(max(0, limit - used))
        return (Refusal(429, dict(_REFUSED), headers) if full else None), headers


_REFUSED = {
    "object": "error",
    "message": "Rate limit exceeded",
    "type": "rate_limited",
    "param": None,
    "code": "1300",
    "raw_status_code": 429,
}


def _above(value: int, limit: int | None) -> bool:
    return limit is not None and value > limit
