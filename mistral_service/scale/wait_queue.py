"""Who of this process waits for room, and since when: pure, the clock is handed in.

Each caller that is held back has a place: the room that it was promised does not go to callers who
come later, whatever their size. A place ends when its caller is let out, asks for something else,
leaves, or does not come back in time.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

from mistral_service.turn.ports import Rank

STAYS = 2.0
"""Seconds for which a place outlasts the moment at which its caller was asked to come back."""


@dataclass(slots=True)
class Place:
    """One caller's place.

    Parameters:
        id: Its name, which no other place of any process has.
        key: The account and model.
        rank: The caller's rank.
        since: When the caller asked first.
        units: What it wants.
        until: When the place ends.
        held_back: Whether its caller was asked to come back.
    """

    id: str
    key: str
    rank: Rank
    since: float
    units: int = 0
    until: float = 0.0
    held_back: bool = False

    def before(self, other: "Place") -> bool:
        """Whether this one goes first: the better rank, and within a rank who asked first."""
        return (self.rank, self.since, self.id) < (other.rank, other.since, other.id)


class WaitQueue:
    """The places of one process; a caller has one at a time."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        """Begin with none.

        Args:
            new_id: Makes a name that no process makes again.
        """
        self._new_id = new_id
        self._held: dict[Hashable, Place] = {}

    def __len__(self) -> int:
        return len(self._held)

    def of(self, caller: Hashable, key: str, rank: Rank, now: float) -> Place:
        """The place that a caller holds for such a request, or else a new one at the end."""
        place = self._held.get(caller)
        if place is None or (place.key, place.rank) != (key, rank) or place.until <= now:
            return Place(self._new_id(), key, rank, now)
        return place

    def hold(self, caller: Hashable, place: Place, until: float) -> None:
        """Have a caller hold a place, and no other.

        Args:
            caller: The caller.
            place: Its place.
            until: When it was asked to come back.
        """
        place.until = until + STAYS
        self._held[caller] = place

    def leave(self, caller: Hashable) -> Place | None:
        """Give up a caller's place; returns it, if there was one."""
        return self._held.pop(caller, None)

    def ahead(self, place: Place, now: float) -> tuple[int, int]:
        """Requests and units that are promised to those of this process who go first."""
        first = [each.units for each in self.held(place.key, now) if each.before(place)]
        return len(first), sum(first)

    def held(self, key: str, now: float) -> Iterator[Place]:
        """The places for an account and model; those that have ended are dropped."""
        for caller, place in list(self._held.items()):
            if place.until <= now:
                del self._held[caller]
            elif place.key == key:
                yield place
