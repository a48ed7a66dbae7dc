"""The metrics of calls on many machines, at no cost until `use_ray` is called.

Ray puts `ray_` before each name, and `_total` behind that of a counter; a histogram's has further
suffixes, such as `_bucket`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

_SECONDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
"""The buckets are fine around the half second in which a caller expects an answer."""

_Record = Callable[[float, dict[str, str]], None]


@dataclass(slots=True)
class Metric:
    """One metric: its name is without Ray's prefix and suffix, its tags without the replica."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    description: str
    tags: tuple[str, ...] = ()
    _record: _Record | None = None

    def record(self, value: float = 1.0, **tags: str) -> None:
        """Record a value: an increment, the current value, or an observation."""
        if self._record is not None:
            self._record(value, tags)

    def use_ray(self) -> None:
        """Export through Ray from now on. Call it in a replica."""
        from ray.serve import metrics

        name, description = self.name, self.description
        tags = cast("Any", self.tags)  # annotated there as a tuple of one
        if self.kind == "counter":
            self._record = metrics.Counter(name, description, tags).inc
        elif self.kind == "gauge":
            self._record = metrics.Gauge(name, description, tags).set
        else:
            self._record = metrics.Histogram(name, description, list(_SECONDS), tags).observe


CALLS = Metric("gauge", "mistral_calls", "Calls that a replica holds now.")
CAPACITY = Metric("gauge", "mistral_calls_capacity", "Calls that a replica may hold.")
STARTED = Metric(
    "counter", "mistral_calls_started", "Calls that began, by way: call or twilio.", ("way",)
)
TAKEN_OVER = Metric("counter", "mistral_takeovers", "Calls that came from another replica.")
ENDED = Metric("counter", "mistral_calls_ended", "Calls that ended, by how.", ("how",))
REFUSED = Metric("counter", "mistral_calls_refused", "Calls that were not taken, by why.", ("why",))
FIRST_WORD = Metric(
    "histogram", "mistral_first_word_seconds", "From a request to the first word of its answer."
)
FAULTS = Metric("counter", "mistral_turn_faults", "Faults that turns met on their way.")
COST = Metric("counter", "mistral_cost_dollars", "What turns cost, where prices are known.")
BUDGET_USED = Metric("gauge", "mistral_budget_used", "Part of the minute's budget that is spent.")
BUDGET_REFUSALS = Metric(
    "counter", "mistral_budget_refusals", "Requests that the budget held back, by rank.", ("rank",)
)
REDIS_FAILURES = Metric("counter", "mistral_redis_failures", "Round trips to Redis that failed.")
LAG = Metric("gauge", "mistral_loop_lag_seconds", "How late the event loop was, at its worst.")

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


def use_ray() -> None:
    """Export all metrics through Ray from now on. Call it in a replica."""
    for metric in METRICS:
        metric.use_ray()
