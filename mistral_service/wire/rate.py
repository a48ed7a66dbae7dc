"""Parses the rate limit headers of an answer.

Mistral counts requests and tokens by the minute and sends what is left with every answer. A refusal
may have a time after which to retry.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from mistral_service.wire.numbers import MAX_TOKENS, wait

WINDOW = 60.0
"""Seconds of Mistral's rate window: its headers end in `-minute`."""

_MAX_PER_MINUTE = 1e12
"""The maximum of requests or tokens in a header: a larger number counts as missing."""

_LOW = 0.1
"""The fraction of a limit below which the remainder counts as low."""


@dataclass(frozen=True, slots=True)
class RateBudget:
    """The limits of a minute, and what is left of them; None where the server does not say.

    `query_cost` are the tokens that this request was charged.
    """

    request_limit: float | None = None
    requests_left: float | None = None
    token_limit: float | None = None
    tokens_left: float | None = None
    query_cost: float | None = None

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> "RateBudget | None":
        """Parse the headers of an answer: names in lower case, or a case-blind mapping.

        The budget is None if there are no such headers.
        """

        def sent(name: str, most: float = _MAX_PER_MINUTE) -> float | None:
            value = _number(headers.get(f"x-ratelimit-{name}"))
            return value if value is not None and value <= most else None

        # No request is charged more than the limit: it would have been refused.
        limit = _number(headers.get("x-ratelimit-limit-tokens-minute"))
        budget = cls(
            sent("limit-req-minute"),
            sent("remaining-req-minute"),
            sent("limit-tokens-minute"),
            sent("remaining-tokens-minute"),
            sent("tokens-query-cost", min(MAX_TOKENS, limit or MAX_TOKENS)),
        )
        return budget if budget != cls() else None

    @property
    def spent(self) -> bool:
        """Whether the same request would be refused until the minute is over."""
        return self.requests_left == 0 or (
            self.tokens_left is not None and self.tokens_left <= (self.query_cost or 0)
        )

    @property
    def low(self) -> bool:
        """Whether optional requests should not be sent."""
        return (
            self.spent
            or _is_low(self.requests_left, self.request_limit)
            or _is_low(self.tokens_left, self.token_limit)
        )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds after which the server allows a retry, by the headers of a refusal.

    Returns:
        The value of `Retry-After`, a number or a date (relative to the server's own `Date`, so that
        the clocks need not agree); otherwise of a reset header; otherwise, if the minute's budget
        is spent, the whole minute, since no header says when it ends; a day at most. None if there
        is no such header, or its value is no valid time.
    """
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is None and value:
        seconds = _between(headers.get("date"), value)
    for name in ("ratelimitbysize-reset", "x-ratelimit-reset", "ratelimit-reset"):
        seconds = _number(headers.get(name)) if seconds is None else seconds
    if seconds is None:
        budget = RateBudget.from_headers(headers)
        seconds = WINDOW if budget is not None and budget.spent else None
    return wait(seconds)


def _is_low(left: float | None, limit: float | None) -> bool:
    return left is not None and limit is not None and left < limit * _LOW


def _number(value: str | None) -> float | None:
    """A finite number from 0, in digits; None for anything else."""
    if not value or not re.fullmatch(r"\s*\d{1,15}(\.\d{0,9})?\s*", value, re.ASCII):
        return None
    return float(value)


def _between(first: str | None, second: str | None) -> float | None:
    try:
        one, two = parsedate_to_datetime(first or ""), parsedate_to_datetime(second or "")
        seconds = (two - one).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return seconds if 0 <= seconds < math.inf else None
