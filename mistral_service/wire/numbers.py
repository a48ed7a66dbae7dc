"""Validates the numbers that a server sends.

A number out of range counts as missing; a time that is too long counts as the maximum.
"""

import math

MAX_TOKENS = 10_000_000
"""Tokens of one request and its reply: forty times the longest context of Mistral's models."""

MAX_WAIT = 86_400.0
"""The maximum of seconds to wait: a day. A call is over long before."""


def tokens(value: object) -> int | None:
    """A number of tokens; None if it is no whole number from 0 to `MAX_TOKENS`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value) if abs(value) <= MAX_TOKENS else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MAX_TOKENS else None


def wait(seconds: float | None) -> float | None:
    """Seconds that a server asks to wait, a day at most; None if it is no valid time."""
    if seconds is None or math.isnan(seconds) or seconds < 0:
        return None
    return min(float(seconds), MAX_WAIT)
