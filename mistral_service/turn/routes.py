"""Which model to ask, and where: a circuit-breaker without a clock.

The bot's own model comes first, its fallbacks after it, in order. A route that is full, gone or
failing again and again rests for a while, so that the turns that follow do not pay for it; then
one turn tries it again, and if it answers it is first again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mistral_service.wire.errors import HeldBack, MistralError, Reason

_SHORT_REST = 30.0
"""Seconds that a route rests the first time: a full model frees up within a minute or not soon."""

_LONG_REST = 300.0
"""Seconds that it rests at most, and at once where time alone will not mend it."""

_FAILURES = 2
"""Failures in a row of which any one might pass, until a route rests."""

_FULL = frozenset({Reason.CAPACITY, Reason.RATE_LIMIT})
# What is wrong with the key or the account is wrong for every model of the same endpoint.
_SHUT = frozenset({Reason.KEY, Reason.FORBIDDEN, Reason.QUOTA})


@dataclass(frozen=True, slots=True)
class Route:
    """A model at an endpoint.

    Parameters:
        model: The model's name.
        endpoint: Which endpoint: 0 is the service's own, 1 that of the fallbacks.
    """

    model: str
    endpoint: int = 0


@dataclass(slots=True)
class _Health:
    failures: int = 0
    rests: int = 0
    until: float = 0.0
    error: MistralError | None = None


_WELL = _Health()


class Routes:
    """The routes of one session and what is known of each."""

    def __init__(self) -> None:
        self._health: dict[Route, _Health] = {}
        self._shut_until: dict[int, float] = {}

    def choose(
        self,
        routes: Sequence[Route],
        now: float,
        able: Callable[[Route], bool] = lambda _: True,
        *,
        but: Route | None = None,
    ) -> Route:
        """Choose the route of the next request.

        Args:
            routes: The routes there are, the bot's own first.
            now: The time.
            able: Whether a fallback can do what the request needs (call functions, see).
            but: One that has just kept this turn waiting: asked only where no other can be.

        Returns:
            The first that does not rest; the bot's own where all rest.
        """
        own, *fallbacks = routes
        there = (r for r in (own, *filter(able, fallbacks)) if r != but)
        return next((r for r in there if not self.rests(r, now)), own)

    def rests(self, route: Route, now: float) -> bool:
        """Whether a route rests."""
        health = self._health.get(route, _WELL)
        return now < max(health.until, self._shut_until.get(route.endpoint, 0.0))

    def failed(self, route: Route, error: MistralError, now: float) -> None:
        """Record that a request failed; what is wrong with it alone says nothing about a route."""
        if error.reason in _SHUT:
            self._shut_until[route.endpoint] = now + _LONG_REST
            self._of(route).error = error
        elif error.reason is Reason.UNKNOWN_MODEL:
            self._rest(route, error, now + _LONG_REST)
        elif isinstance(error, HeldBack):
            # It is known when a request may go out, and the model itself is well.
            health = self._of(route)
            health.error = error
            health.until = max(health.until, now + (error.retry_after or 0.0))
        elif error.reason in _FULL:
            self._rest(route, error, now + max(self._next_rest(route), error.retry_after or 0.0))
        elif error.retryable:
            health = self._of(route)
            health.failures += 1
            health.error = error
            # One that has rested and fails its one trial rests again at once.
            if health.failures >= _FAILURES or health.rests:
                self._rest(route, error, now + self._next_rest(route))

    def answered(self, route: Route) -> None:
        """Record that a reply came: what was known against the route is forgotten."""
        self._health.pop(route, None)
        self._shut_until.pop(route.endpoint, None)

    def last_error(self, route: Route) -> MistralError | None:
        """Why a route rests, or failed last; None if it answered."""
        return self._health.get(route, _WELL).error

    def _of(self, route: Route) -> _Health:
        return self._health.setdefault(route, _Health())

    def _next_rest(self, route: Route) -> float:
        return min(_SHORT_REST * 2 ** self._of(route).rests, _LONG_REST)

    def _rest(self, route: Route, error: MistralError, until: float) -> None:
        health = self._of(route)
        health.failures = 0
        health.rests = min(health.rests + 1, 10)
        health.until = until
        health.error = error
