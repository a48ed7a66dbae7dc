"""Estimates the size of a value without serialising it."""

from typing import Any, cast

NODE = 20
"""Characters that a number, a key or a container counts as."""


def weight(value: Any, most: int, *, objects: bool = True) -> int:
    """About the characters of a value as JSON; some number above `most` if it has more.

    Args:
        value: A JSON value, or nearly.
        most: The limit at which counting ends.
        objects: Whether the attributes of objects count.
    """
    total, stack = 0, [value]
    while stack and total <= most:
        value = stack.pop()
        total += NODE
        if value is None or isinstance(value, int | float):
            continue
        if isinstance(value, (str, bytes, bytearray)):
            total += len(value)
        elif isinstance(value, dict):
            mapping = cast("dict[Any, Any]", value)
            if NODE * len(mapping) > most:
                return NODE * len(mapping)
            for key, inner in list(mapping.items()):
                total += len(key) if isinstance(key, str) else NODE
                stack.append(inner)
        elif isinstance(value, list | tuple):
            values = cast("list[Any] | tuple[Any, ...]", value)
            if NODE * len(values) > most:
                return NODE * len(values)
            stack += values
        elif objects and hasattr(value, "__dict__"):
            # one of Pipecat's messages, or a record of ours
            stack.append(cast("dict[str, Any]", vars(value)))
    return total


def is_endless(value: Any, levels: int = 1_000) -> bool:
    """Whether a value contains itself, or is nested deeper than JSON can be.

    Ten times as many of the values in it as there may be levels are examined.
    """
    stack, left = [(value, 0)], 10 * levels
    while stack and left:
        value, level = stack.pop()
        left -= 1
        if level > levels:
            return True
        if isinstance(value, dict):
            inner = list(cast("dict[Any, Any]", value).values())
        elif isinstance(value, list | tuple):
            inner = cast("list[Any] | tuple[Any, ...]", value)
        else:
            continue
        stack += [(each, level + 1) for each in inner[:left]]
    return False
