"""What one process has let out in the last minute: pure, the clock is handed in.

It is what the process falls back on when Redis is gone, and what it writes there again when Redis
comes back empty.
"""

from collections import deque
from dataclasses import dataclass, field

UNIT = 100
"""Tokens to one entry of the shared log: two million a minute are 20,000 entries, or 360 kB as
measured in Redis 7."""


@dataclass(slots=True)
class Entry:
    """One request.

    Parameters:
        at: When it was let out, in seconds since 1970: machines compare it.
        units: The tokens it was let out with, in `UNIT`s.
        kept: Whether it stands in the shared log.
    """

    at: float
    units: int
    kept: bool


@dataclass
class Ledger:
    """The requests of one account and model.

    Parameters:
        window: Seconds for which a request counts.
        entries: The requests, the oldest first.
    """

    window: float
    entries: deque[Entry] = field(default_factory=deque[Entry])
    _carry: float = 0.0

    def units(self, tokens: float) -> int:
        """Units to take for a request; what they are too many or too few, the next one bears."""
        wanted = tokens + self._carry
        units = max(0, int(wanted // UNIT))
        self._carry = wanted - units * UNIT
        return units

    def correct(self, tokens: float) -> None:
        """Have the next request bear what one cost more than it was taken for; or less."""
        self._carry += tokens

    def add(self, now: float, units: int, *, kept: bool) -> None:
        """Take note of a request that was let out."""
        self.entries.append(Entry(now, units, kept))

    def used(self, now: float) -> tuple[int, int]:
        """Requests and units of the window."""
        while self.entries and self.entries[0].at <= now - self.window:
            self.entries.popleft()
        if not self.entries:
            self._carry = min(self._carry, UNIT)  # what is over cannot be made good for any more
            self._carry = max(self._carry, 0.0)
        return len(self.entries), sum(entry.units for entry in self.entries)

    def used_since(self, when: float) -> tuple[int, int]:
        """Requests and units let out after a moment."""
        newer = [entry.units for entry in self.entries if entry.at > when]
        return len(newer), sum(newer)

    def room_in(
        self, now: float, units: int, requests_limit: int | None, units_limit: int | None
    ) -> float:
        """Seconds until a request fits within the limits; 0 if it does now.

        Args:
            now: The time.
            units: What it takes.
            requests_limit: Requests per window; None for no limit.
            units_limit: Units per window; None for no limit. What takes more than all of them
                fits an empty window.
        """
        requests, used = self.used(now)
        wait = 0.0
        for entry in self.entries:
            fits = requests_limit is None or requests < requests_limit
            if fits and (units_limit is None or used + min(units, units_limit) <= units_limit):
                break
            requests, used = requests - 1, used - entry.units
            wait = entry.at + self.window - now
        return wait
