"""One process's view of an account and model, and its fair share: pure, the clock is given."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mistral_service.scale.sliding_window import UNIT, SlidingWindow
from mistral_service.turn.shared_services import Rank
from mistral_service.wire.rate import RateBudget

SHARES = {Rank.TURN: 1.0, Rank.NEW_CALL: 0.85, Rank.HEDGE: 0.7}
"""The part of the budget that each rank may use: a caller in mid-call hears a pause at once, a new
one waits for a greeting anyway, and a hedge is optional. Chosen, not measured."""

HEARTBEAT_S = 1.0
"""Seconds between two reads of the shared totals."""

NO_LIMIT = 1_000_000
"""More requests or units than any account has a minute: unlimited requests are counted too."""

DEFAULT_PAUSE_S, MAX_PAUSE_S = 1.0, 3.0
"""Seconds for which all processes pause after a 429 without a retry time, and at most. Mistral
mostly names the whole minute, not knowing how much of it is over; a turn has nine seconds."""

_MIN_EXTERNAL = 0.05
"""The part of a limit above which a difference between Mistral's count and ours is the usage of
others, and not the error of an estimate."""


@dataclass
class Account:
    """An account and model, as one process sees it.

    Parameters:
        window: The requests that this process has admitted.
        configured: The most requests and tokens a minute that are wanted; None for what Mistral
            allows.
        margin: The part of every limit that is left unused.
        requests: The limit of requests per minute, as far as known.
        tokens: The limit of tokens per minute, as far as known.
        external: Requests and tokens that other programs than our processes have used.
        paused_until: No request is admitted before this time.
        used: The part of the limits that is in use, 0 to 1.
        shared_limits: The limits as they last were in Redis: text, empty where none was.
        published_at: When this process last published the limits.
        last_answer: The time and the headers of Mistral's last answer.
        last_totals: When the shared totals were last read, with their requests and units.
        outage_window: The end of the window in which Redis failed, and how many requests and units
            this process may have in it.
    """

    window: SlidingWindow
    configured: tuple[float | None, float | None] = (None, None)
    margin: float = 0.0
    requests: float | None = None
    tokens: float | None = None
    external: tuple[float, float] = (0.0, 0.0)
    paused_until: float = 0.0
    used: float = 0.0
    shared_limits: tuple[str, str] = ("", "")
    published_at: float = -math.inf
    last_answer: tuple[float, RateBudget] | None = None
    last_totals: tuple[float, int, int] | None = None
    outage_window: tuple[float, int, int] | None = None

    def set_limits(self, limits: Mapping[str, float]) -> None:
        """Apply `requests` and `tokens` per minute, as far as they are given."""
        self.requests = _least(limits.get("requests", self.requests), self.configured[0])
        self.tokens = _least(limits.get("tokens", self.tokens), self.configured[1])

    def pause(self, now: float, retry_after: float | None) -> float:
        """Pause after a refusal, for `retry_after` or the default; returns the seconds."""
        if retry_after is None or not 0 < retry_after < math.inf:
            retry_after = DEFAULT_PAUSE_S
        seconds = min(retry_after, MAX_PAUSE_S)
        self.paused_until = max(self.paused_until, now + seconds)
        return seconds

    def clamp(self, tokens: float) -> float:
        """The tokens of a request, at most those of a whole window."""
        return min(tokens, self._token_limit) if tokens > 0 else 0.0

    def record_cost(self, estimate: float, tokens: float) -> None:
        """Charge or credit the next requests for an estimate that was not what a request cost.

        A number of tokens that no request can cost is ignored.
        """
        if 0 <= tokens <= self._token_limit:
            self.window.correct(tokens - self.clamp(estimate))

    @property
    def _token_limit(self) -> float:
        return self.tokens or NO_LIMIT * UNIT

    def limits_for(self, rank: Rank) -> tuple[int | None, int | None]:
        """Requests and units that a rank may use; None where no limit is known."""

        def part(limit: float | None, external: float, unit: int) -> int | None:
            if limit is None:
                return None
            return max(1, int((limit * (1 - self.margin) - external) * SHARES[rank] / unit))

        requests, tokens = self.external
        return part(self.requests, requests, 1), part(self.tokens, tokens, UNIT)

    def record_totals(self, now: float, requests: int, units: int) -> None:
        """Record what all our processes have admitted, and derive the usage of others."""
        self.last_totals = (now, requests, units)
        tokens = units * UNIT
        self.external = (0.0, 0.0)
        if self.last_answer is not None and now - self.last_answer[0] < 2 * HEARTBEAT_S:
            budget = self.last_answer[1]
            self.external = (
                _external_usage(budget.request_limit, budget.requests_left, requests),
                _external_usage(budget.token_limit, budget.tokens_left, tokens),
            )
        self.used = max(
            (requests + self.external[0]) / (self.requests or math.inf),
            (tokens + self.external[1]) / (self.tokens or math.inf),
        )

    def begin_outage(self, now: float, processes: int) -> None:
        """Limit this process in the window in which Redis fails.

        The others may have used more than their share by then. Until the window is over, each
        process may use what it has used already and its part of what is free: together they stay
        within the limit.
        """
        if self.last_totals is None:
            return
        when, *totals = self.last_totals
        own = self.window.used(now)
        since = self.window.used_since(when)
        limits: list[int] = []
        for limit, total, mine, newer in zip(
            self.limits_for(Rank.TURN), totals, own, since, strict=True
        ):
            # The others are assumed to be as busy as this process since the last totals.
            free = (limit or NO_LIMIT) - total - processes * newer
            limits.append(mine + max(0, free) // processes)
        self.outage_window = (now + self.window.seconds, limits[0], limits[1])

    def wait_time(
        self,
        now: float,
        units: int,
        rank: Rank,
        processes: int,
        ahead: tuple[int, int] = (0, 0),
    ) -> float:
        """Seconds until a request fits this process's fair share; 0 if it fits now.

        `ahead` has the requests and units that this process has promised to others.
        """
        if self.paused_until > now:
            return self.paused_until - now
        requests, units_limit = (b and max(1, b // processes) for b in self.limits_for(rank))
        if self.outage_window is not None and now < self.outage_window[0]:
            _, most_requests, most_units = self.outage_window
            requests = requests and max(1, min(requests, most_requests))
            units_limit = units_limit and max(1, min(units_limit, most_units))
        return self.window.wait_time(now, units, requests, units_limit, ahead)


def parse_limits(**values: float | str | None) -> dict[str, float]:
    """The limits that the server named: numbers above 0, each at most `NO_LIMIT`."""
    limits: dict[str, float] = {}
    for name, text in values.items():
        try:
            value = min(float(text or 0), float(NO_LIMIT * UNIT))
        except (ValueError, OverflowError):
            continue
        if value > 0:
            limits[name] = value
    return limits


def _least(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _external_usage(limit: float | None, left: float | None, ours: float) -> float:
    """How much of a limit other programs use."""
    if limit is None or left is None or not 0 <= left <= limit:
        return 0.0
    others = limit - left - ours
    return others if others > limit * _MIN_EXTERNAL else 0.0
