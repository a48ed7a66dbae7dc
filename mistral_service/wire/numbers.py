"""The numbers that a server says, held to what they may be: one place, so that none does harm.

A number beyond its bound is no news but a fault, and counts as not said; a time that is too long
counts as the longest.
"""

import math

MAX_TOKENS = 10_000_000
"""Tokens of one request and its reply: forty times the longest context of Mistral's models."""

MAX_PER_MINUTE = 1e12
"""Requests or tokens that a limit, or what is left of it, may tell."""

MAX_WAIT = 86_400.0
"""Seconds that a server may ask to wait: a day. A call is over long before."""


def tokens(value: object) -> int | None:
    """A number of tokens.

    Args:
        value: What the server says.

    Returns:
        The number; None for what is no whole number from 0 to `MAX_TOKENS`.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value) if abs(value) <= MAX_TOKENS else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MAX_TOKENS else None


def rate(value: float | None, most: float = MAX_PER_MINUTE) -> float | None:
    """A number of a rate header.

    Args:
        value: What the server says; None for nothing.
        most: The most that it may be.

    Returns:
        The number; None for what is no number from 0 to `most`.
    """
    return value if value is not None and 0 <= value <= most else None


def wait(seconds: float | None) -> float | None:
    """Seconds that a server asks to wait.

    Args:
        seconds: What the server says; None for nothing.

    Returns:
        The seconds, a day at most; None for what is no time.
    """
    if seconds is None or math.isnan(seconds) or seconds < 0:
        return None
    return min(float(seconds), MAX_WAIT)
