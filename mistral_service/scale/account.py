"""What one process knows of an account and model, and its fair share: pure, the clock is given."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mistral_service.scale.ledger import UNIT, Ledger
from mistral_service.turn.ports import Rank
from mistral_service.wire.rate import RateBudget

SHARES = {Rank.TURN: 1.0, Rank.NEW_CALL: 0.85, Rank.HEDGE: 0.7}
"""The part of the budget up to which each rank may go: a caller in mid-call hears a pause at once,
a new one waits for a greeting anyway, and a hedge is a luxury. Chosen, not measured."""

BEAT = 1.0
"""Seconds between two looks at what all use."""

NO_LIMIT = 1_000_000
"""More requests or units than any account has a minute: what is not limited is counted as well."""

PAUSE, LONGEST_PAUSE = 1.0, 3.0
"""Seconds for which all pause after a refusal of Mistral's that says no time, and at most. What is
said is mostly the whole minute, since no one knows how much of it is over; and a turn has nine."""

_FOREIGN = 0.05
"""The part of a limit from which on a difference between Mistral's count and ours is taken for the
use of others, and not for an estimate's error."""


@dataclass
class Account:
    """An account and model, as one process sees it.

    Parameters:
        ledger: What this process has let out.
        most: The most requests and tokens a minute that are wanted; None for what Mistral allows.
        margin: The part of every limit that is left unused.
        requests: The limit of requests per minute, as far as known.
        tokens: That of tokens.
        foreign: Requests and tokens that others than our processes have used.
        pause: Until when nothing is let out.
        used: The part of the limits that is in use, 0 to 1.
        limits: The limits as they last stood in Redis: text, empty where none did.
        told: When the others were last told the limits.
        heard: When Mistral last said what is left, and what it said.
        seen: When the shared count was last looked at, with its requests and units.
        first_window: The end of the window in which Redis went, and how many requests and units
            this process may have in it.
    """

    ledger: Ledger
    most: tuple[float | None, float | None] = (None, None)
    margin: float = 0.0
    requests: float | None = None
    tokens: float | None = None
    foreign: tuple[float, float] = (0.0, 0.0)
    pause: float = 0.0
    used: float = 0.0
    limits: tuple[str, str] = ("", "")
    told: float = -math.inf
    heard: tuple[float, RateBudget] | None = None
    seen: tuple[float, int, int] | None = None
    first_window: tuple[float, int, int] | None = None

    def know(self, fields: Mapping[str, float]) -> None:
        """Take note of `requests` and `tokens` per minute, where told."""
        self.requests = _least(fields.get("requests", self.requests), self.most[0])
        self.tokens = _least(fields.get("tokens", self.tokens), self.most[1])

    def refused(self, now: float, seconds: float | None) -> float:
        """Pause after a refusal that says for how long, or does not; returns the seconds."""
        if seconds is None or not 0 < seconds < math.inf:
            seconds = PAUSE
        pause = min(seconds, LONGEST_PAUSE)
        self.pause = max(self.pause, now + pause)
        return pause

    def possible(self, tokens: float) -> float:
        """What a request takes at most: all tokens of a window."""
        most = self.tokens or NO_LIMIT * UNIT
        return min(tokens, most) if tokens > 0 else 0.0

    def settle(self, taken: float, cost: float) -> None:
        """Have the next requests bear what one cost more than it was let out with, or less.

        Args:
            taken: The tokens that it was let out with.
            cost: What it is said to have cost. What no request can cost says nothing.
        """
        if 0 <= cost <= (self.tokens or NO_LIMIT * UNIT):
            self.ledger.correct(cost - self.possible(taken))

    def bounds(self, rank: Rank) -> tuple[int | None, int | None]:
        """Requests and units up to which a rank may go; None where no limit is known."""

        def bound(limit: float | None, foreign: float, unit: int) -> int | None:
            if limit is None:
                return None
            return max(1, int((limit * (1 - self.margin) - foreign) * SHARES[rank] / unit))

        requests, tokens = self.foreign
        return bound(self.requests, requests, 1), bound(self.tokens, tokens, UNIT)

    def look(self, now: float, requests: int, units: int) -> None:
        """Take note of what all processes have let out, and what others must have used."""
        self.seen = (now, requests, units)
        tokens = units * UNIT
        self.foreign = (0.0, 0.0)
        if self.heard is not None and now - self.heard[0] < 2 * BEAT:
            budget = self.heard[1]
            self.foreign = (
                _foreign(budget.request_limit, budget.requests_left, requests),
                _foreign(budget.token_limit, budget.tokens_left, tokens),
            )
        self.used = max(
            (requests + self.foreign[0]) / (self.requests or math.inf),
            (tokens + self.foreign[1]) / (self.tokens or math.inf),
        )

    def lose_sight(self, now: float, processes: int) -> None:
        """Settle what this process may have in the window in which Redis went.

        The others may have had more than their share by then. Until that is over each goes no
        higher than it is, and its part of what is free: together they stay within the limit.
        """
        if self.seen is None:
            return
        when, *totals = self.seen
        own = self.ledger.used(now)
        since = self.ledger.used_since(when)
        most: list[int] = []
        for limit, total, mine, newer in zip(
            self.bounds(Rank.TURN), totals, own, since, strict=True
        ):
            # The others were as busy as we since we last looked.
            free = (limit or NO_LIMIT) - total - processes * newer
            most.append(mine + max(0, free) // processes)
        self.first_window = (now + self.ledger.window, most[0], most[1])

    def room_in(
        self,
        now: float,
        units: int,
        rank: Rank,
        processes: int,
        ahead: tuple[int, int] = (0, 0),
    ) -> float:
        """Seconds until a request fits this process's fair share; 0 if it does now.

        Args:
            now: The time.
            units: What it takes.
            rank: Who asks.
            processes: How many processes share the limits.
            ahead: Requests and units that this process has promised to others.
        """
        if self.pause > now:
            return self.pause - now
        requests, tokens = (b and max(1, b // processes) for b in self.bounds(rank))
        if self.first_window is not None and now < self.first_window[0]:
            _, most_requests, most_units = self.first_window
            requests = requests and max(1, min(requests, most_requests))
            tokens = tokens and max(1, min(tokens, most_units))
        return self.ledger.room_in(now, units, requests, tokens, ahead)


def limits_in(**told: float | str | None) -> dict[str, float]:
    """The limits that the server named; what is none is left out, and none is above `NO_LIMIT`."""
    found: dict[str, float] = {}
    for name, limit in told.items():
        try:
            value = min(float(limit or 0), float(NO_LIMIT * UNIT))
        except (ValueError, OverflowError):
            continue
        if value > 0:
            found[name] = value
    return found


def _least(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _foreign(limit: float | None, left: float | None, ours: float) -> float:
    """How much of a limit others use."""
    if limit is None or left is None or not 0 <= left <= limit:
        return 0.0
    others = limit - left - ours
    return others if others > limit * _FOREIGN else 0.0
