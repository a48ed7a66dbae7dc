"""The callers of this process that wait for capacity: pure, the clock is an argument.

A caller that is held back is a waiter: the capacity that it was promised does not go to callers
that come later, whatever their size. It stops waiting when its request is admitted, when it asks
for something else, when it gives up, or when it does not come back in time.
"""

import itertools
import uuid
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from mistral_service.turn.shared_services import Rank

GRACE_S = 2.0
"""Seconds that a waiter may be late after the time at which it is to come back."""

SPACING_S = 0.06
"""Seconds between two waiters for the same capacity: together they would make a burst, which would
come again with every window."""


@dataclass(slots=True)
class Waiter:
    """One waiting caller.

    Parameters:
        id: Its name, unique over all processes.
        key: The account and model.
        rank: The caller's rank.
        since: When the caller asked first.
        units: Units of its request.
        expires_at: When it stops waiting.
        held_back: Whether the caller was asked to come back.
    """

    id: str
    key: str
    rank: Rank
    since: float
    units: int = 0
    expires_at: float = 0.0
    held_back: bool = False

    def precedes(self, other: "Waiter") -> bool:
        """Whether this one goes first: by rank, and within a rank by the time of asking."""
        return (self.rank, self.since, self.id) < (other.rank, other.since, other.id)


class WaitQueue:
    """The waiters of one process; a caller has one at a time."""

    def __init__(self) -> None:
        self._prefix, self._numbers = uuid.uuid4().hex[:12], itertools.count()
        self._waiters: dict[Hashable, Waiter] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def waiter_for(self, caller: Hashable, key: str, rank: Rank, now: float) -> Waiter:
        """The caller's waiter for such a request, or else a new one at the end."""
        waiter = self._waiters.get(caller)
        if waiter is None or (waiter.key, waiter.rank) != (key, rank) or waiter.expires_at <= now:
            return Waiter(f"{self._prefix}-{next(self._numbers)}", key, rank, now)
        return waiter

    def put(self, caller: Hashable, waiter: Waiter, until: float) -> None:
        """Have a caller wait until it is to come back, in place of what it waited for before."""
        waiter.expires_at = until + GRACE_S
        self._waiters[caller] = waiter

    def remove(self, caller: Hashable) -> Waiter | None:
        """Remove a caller's waiter; returns it, if there was one."""
        return self._waiters.pop(caller, None)

    def ahead(self, waiter: Waiter, now: float) -> tuple[int, int]:
        """Requests and units that are promised to waiters of this process that go first."""
        first = [each.units for each in self.waiting(waiter.key, now) if each.precedes(waiter)]
        return len(first), sum(first)

    def waiting(self, key: str, now: float) -> Iterator[Waiter]:
        """The waiters for an account and model; expired ones are dropped."""
        for caller, waiter in list(self._waiters.items()):
            if waiter.expires_at <= now:
                del self._waiters[caller]
            elif waiter.key == key:
                yield waiter
