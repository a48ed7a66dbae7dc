"""What is measured of calls on many machines; nothing is, and nothing is paid, until Ray measures.

Ray puts `ray_` before each name, and `_total` behind that of a counter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

_SECONDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
"""Where the histogram is fine: around the half second in which a caller expects an answer."""

_Record = Callable[[float, Mapping[str, str]], None]


@dataclass(slots=True)
class Metric:
    """One figure.

    Parameters:
        kind: A counter counts up, a gauge has a value, a histogram sorts values by size.
        name: Its name, before Ray has added to it.
        description: What it tells.
        tags: What its values are told apart by, apart from the replica.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    description: str
    tags: tuple[str, ...] = ()
    _record: _Record | None = None

    @property
    def exported(self) -> str:
        """The name as Prometheus sees it; a histogram's goes on with `_bucket`, for example."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")

    def record(self, value: float = 1.0, **tags: str) -> None:
        """Take note of a value: one more, the value now, or one value of many.

        Args:
            value: The value.
            **tags: A value for each tag.
        """
        if self._record is not None:
            self._record(value, tags)

    def use_ray(self) -> None:
        """Measure from now on. To be called in a replica."""
        from ray.serve import metrics  # the one place that needs Ray

        tags = cast("Any", self.tags)  # annotated there as a tuple of one
        if self.kind == "counter":
            counter = metrics.Counter(self.name, self.description, tags)
            self._record = lambda value, tags: counter.inc(value, dict(tags))
        elif self.kind == "gauge":
            gauge = metrics.Gauge(self.name, self.description, tags)
            self._record = lambda value, tags: gauge.set(value, dict(tags))
        else:
            histogram = metrics.Histogram(
                self.name, self.description, boundaries=list(_SECONDS), tag_keys=tags
            )
            self._record = lambda value, tags: histogram.observe(value, dict(tags))


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

METRICS = (
    CALLS,
    CAPACITY,
    STARTED,
    TAKEN_OVER,
    ENDED,
    REFUSED,
    FIRST_WORD,
    FAULTS,
    COST,
    BUDGET_USED,
    BUDGET_REFUSALS,
    REDIS_FAILURES,
    LAG,
)


def use_ray() -> None:
    """Measure everything through Ray from now on. To be called in a replica."""
    for metric in METRICS:
        metric.use_ray()
