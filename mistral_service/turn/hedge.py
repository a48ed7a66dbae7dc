"""When a request that does not answer is worth hedging with a second one.

Most turns begin to speak within a second; a few, for no reason that the caller could see, take
several. A second request, sent when the first is later than nearly all before it, is then mostly
the faster one. (J. Dean and L. A. Barroso, "The Tail at Scale", 2013.)
"""

from collections import deque

from mistral_service.wire.rate import WINDOW, RateBudget

FLOOR = 1.0
"""Seconds before which no second request goes out by itself, however fast the session is."""

_UNKNOWN = 2.0
"""Seconds of waiting while the session is too young to know its own pace: half of the default
deadline of the first token."""

_ENOUGH = 5
_REMEMBERED = 20
_PERCENTILE = 0.95


class Pace:
    """How fast the replies of one session begin, and what the account may still ask for."""

    def __init__(self) -> None:
        self._waits: deque[float] = deque(maxlen=_REMEMBERED)
        self._budget: tuple[float, RateBudget] | None = None

    def spoke(self, seconds: float) -> None:
        """Record how long a turn's first output took, from its first request."""
        self._waits.append(seconds)

    def budget(self, budget: RateBudget | None, now: float) -> None:
        """Record what an answer's headers say."""
        if budget is not None:
            self._budget = (now, budget)

    def hedge_after(self, now: float, chosen: float | None = None) -> float | None:
        """Seconds of silence after which a second request goes out.

        Returns:
            `chosen`, or else the 95th percentile of the last 20 turns, but no less than `FLOOR`
            (two seconds while fewer than five turns are known). None while the rate budget is
            low: the spare request may be the one that the next turn needs.
        """
        if self._budget is not None:
            when, budget = self._budget
            if budget.low and now - when < WINDOW:
                return None
        if chosen is not None:
            return chosen
        if len(self._waits) < _ENOUGH:
            return _UNKNOWN
        waits = sorted(self._waits)
        return max(FLOOR, waits[round(_PERCENTILE * (len(waits) - 1))])
