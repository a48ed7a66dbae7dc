"""The requests of one process in the last minute: pure, the clock is an argument.

A process limits itself by this window while Redis is down, and writes it to a Redis that comes back
empty.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

UNIT = 100
"""Tokens to one unit of the shared log."""

_MAX_TOKENS = 100_000_000
"""More tokens than any account has a minute."""


@dataclass(slots=True)
class Entry:
    """One request: when it was admitted, on this process's clock, and with how many units.

    The shared log has it under its id, or not yet (`is_shared`).
    """

    at: float
    units: int
    is_shared: bool
    id: str = ""


@dataclass
class SlidingWindow:
    """The requests of one account and model.

    Parameters:
        seconds: How long a request counts.
        entries: The requests, the oldest first.
    """

    seconds: float
    entries: deque[Entry] = field(default_factory=deque[Entry])
    _carry: float = 0.0

    def to_units(self, tokens: float) -> int:
        """Units to take for a request; the next request is charged the rounding error.

        A request is charged at most its own size for the errors of earlier ones: a figure that is
        far off makes requests more expensive for a while, and blocks none.
        """
        tokens = _token_count(tokens, least=0)
        carried = min(self._carry, max(tokens, UNIT))
        units = max(0, int((tokens + carried) // UNIT))
        self._carry += tokens - units * UNIT
        return units

    def correct(self, tokens: float) -> None:
        """Charge the next requests for what one cost beyond its estimate, or credit them."""
        self._carry = _token_count(self._carry + _token_count(tokens))

    def add(self, now: float, units: int, *, is_shared: bool, id: str = "") -> None:
        """Record a request that was admitted."""
        self.entries.append(Entry(now, units, is_shared, id))

    def used(self, now: float) -> tuple[int, int]:
        """Requests and units in the window."""
        while self.entries and self.entries[0].at <= now - self.seconds:
            self.entries.popleft()
        if not self.entries:
            self._carry = min(max(self._carry, 0.0), UNIT)  # too late to compensate for the rest
        return len(self.entries), sum(entry.units for entry in self.entries)

    def used_since(self, when: float) -> tuple[int, int]:
        """Requests and units admitted after a moment."""
        newer = [entry.units for entry in self.entries if entry.at > when]
        return len(newer), sum(newer)

    def wait_time(
        self,
        now: float,
        units: int,
        request_limit: int | None,
        unit_limit: int | None,
        ahead: tuple[int, int] = (0, 0),
    ) -> float:
        """Seconds until a request fits within the limits; 0 if it fits now.

        A request that needs more than all units of a window fits an empty one. `ahead` has the
        requests and units that are promised to others.
        """
        requests, used = self.used(now)
        expiring = [(entry.at + self.seconds - now, entry.units) for entry in self.entries]
        wait = 0.0
        if request_limit is not None:
            ones = ((at, 1) for at, _ in expiring)
            wait = _wait(1, requests, ahead[0], request_limit, ones, self.seconds)
        if unit_limit is not None and units:
            wanted = min(units, unit_limit)
            wait = max(wait, _wait(wanted, used, ahead[1], unit_limit, expiring, self.seconds))
        return wait


def _wait(
    wanted: int,
    used: int,
    ahead: int,
    limit: int,
    expiring: Iterable[tuple[float, int]],
    window: float,
) -> float:
    """Seconds until an amount is free; `scripts.ADMIT` counts in the same way."""
    windows = (ahead + wanted - 1) // limit
    excess = used + ahead + wanted - (windows + 1) * limit
    wait = 0.0
    for at, amount in expiring:
        if excess <= 0:
            break
        excess, wait = excess - amount, at
    return min(windows * window + wait, window)


def _token_count(tokens: float, least: float = -_MAX_TOKENS) -> float:
    """A possible number of tokens; 0 for what is not a number."""
    count = min(max(tokens, least), _MAX_TOKENS)
    return 0.0 if math.isnan(count) else count
