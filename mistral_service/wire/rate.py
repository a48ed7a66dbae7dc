"""What the account may still ask for: the rate headers of an answer, read once.

Mistral counts requests and tokens by the minute and tells what is left with every answer, and a
refused request is told when to come back, where the server says so at all.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from mistral_service.wire.numbers import MAX_TOKENS, rate, wait

WINDOW = 60.0
"""Seconds of the window in which Mistral counts: its headers end in `-minute`."""

_LOW = 0.1
"""The part of a limit below which what is left counts as little."""


@dataclass(frozen=True, slots=True)
class RateBudget:
    """What is left of the minute's requests and tokens.

    Parameters:
        request_limit: Requests per minute; None where the server does not say, as below.
        requests_left: Requests left.
        token_limit: Tokens per minute.
        tokens_left: Tokens left.
        query_cost: Tokens that this request was counted with.
    """

    request_limit: float | None = None
    requests_left: float | None = None
    token_limit: float | None = None
    tokens_left: float | None = None
    query_cost: float | None = None

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> "RateBudget | None":
        """Read the headers of an answer.

        Args:
            headers: The headers; names in lower case, or a case-blind mapping.

        Returns:
            The budget; None where no header tells of it.
        """
        budget = cls(
            rate(_number(headers.get("x-ratelimit-limit-req-minute"))),
            rate(_number(headers.get("x-ratelimit-remaining-req-minute"))),
            rate(limit := _number(headers.get("x-ratelimit-limit-tokens-minute"))),
            rate(_number(headers.get("x-ratelimit-remaining-tokens-minute"))),
            # No request is counted with more than the whole minute has: it would be refused.
            rate(
                _number(headers.get("x-ratelimit-tokens-query-cost")),
                min(MAX_TOKENS, limit or MAX_TOKENS),
            ),
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
        """Whether a request that can be spared should be."""
        return (
            self.spent
            or _little(self.requests_left, self.request_limit)
            or _little(self.tokens_left, self.token_limit)
        )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds after which the server asks to come back.

    Args:
        headers: The headers of a refusal.

    Returns:
        What `Retry-After` says, as a number or as a date (counted from the server's own `Date`, so
        that the clocks need not agree); or else what a reset header says; or else, where the
        minute's budget is spent, the whole minute, since no header says when it ends; a day
        at most. None if nothing says anything, or what it says is no time.
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


def _little(left: float | None, limit: float | None) -> bool:
    return left is not None and limit is not None and left < limit * _LOW


def _number(value: str | None) -> float | None:
    """A finite number from 0, written in digits; None for anything else."""
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
