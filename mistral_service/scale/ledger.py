"""What one process has let out in the last minute: pure, the clock is handed in.

It is what the process falls back on when Redis is gone, and what it writes there again when Redis
comes back empty.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

UNIT = 100
"""Tokens to one unit of the shared log."""

_MOST = 100_000_000
"""More tokens than any account has a minute."""


@dataclass(slots=True)
class Entry:
    """One request.

    Parameters:
        at: When it was let out, on this process's own clock.
        units: The tokens it was let out with, in `UNIT`s.
        kept: Whether it stands in the shared log.
        id: Its name there.
    """

    at: float
    units: int
    kept: bool
    id: str = ""


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
        """Units to take for a request; what they are too many or too few, the next one bears.

        A request bears no more of what others have cost than it costs itself: a figure that is far
        off makes requests dearer for a while, and keeps none from going out.
        """
        tokens = _amount(tokens, least=0)
        borne = min(self._carry, max(tokens, UNIT))
        units = max(0, int((tokens + borne) // UNIT))
        self._carry += tokens - units * UNIT
        return units

    def correct(self, tokens: float) -> None:
        """Have the next requests bear what one cost more than it was taken for; or less."""
        self._carry = _amount(self._carry + _amount(tokens))

    def add(self, now: float, units: int, *, kept: bool, id: str = "") -> None:
        """Take note of a request that was let out."""
        self.entries.append(Entry(now, units, kept, id))

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
        self,
        now: float,
        units: int,
        requests_limit: int | None,
        units_limit: int | None,
        ahead: tuple[int, int] = (0, 0),
    ) -> float:
        """Seconds until a request fits within the limits; 0 if it does now.

        Args:
            now: The time.
            units: What it takes.
            requests_limit: Requests per window; None for no limit.
            units_limit: Units per window; None for no limit. What takes more than all of them
                fits an empty window.
            ahead: Requests and units that are promised to others.
        """
        requests, used = self.used(now)
        left = [(entry.at + self.window - now, entry.units) for entry in self.entries]
        wait = 0.0
        if requests_limit is not None:
            gone = ((at, 1) for at, _ in left)
            wait = _wait(1, requests, ahead[0], requests_limit, gone, self.window)
        if units_limit is not None and units:
            wanted = min(units, units_limit)
            wait = max(wait, _wait(wanted, used, ahead[1], units_limit, left, self.window))
        return wait


def _wait(
    wanted: int,
    used: int,
    ahead: int,
    limit: int,
    leaves: Iterable[tuple[float, int]],
    window: float,
) -> float:
    """Seconds until so much is free; see `scripts.ADMIT`, which counts likewise."""
    windows = (ahead + wanted - 1) // limit
    over = used + ahead + wanted - (windows + 1) * limit
    wait = 0.0
    for at, amount in leaves:
        if over <= 0:
            break
        over, wait = over - amount, at
    return min(windows * window + wait, window)


def _amount(tokens: float, least: float = -_MOST) -> float:
    """A number of tokens that there can be; 0 for what is no number."""
    amount = min(max(tokens, least), _MOST)
    return 0.0 if math.isnan(amount) else amount
