"""What the code under test logs."""

from collections.abc import Iterator
from contextlib import contextmanager

from loguru import logger


@contextmanager
def logged(level: str = "WARNING") -> Iterator[list[str]]:
    """The messages that are logged from a level on, within the block."""
    messages: list[str] = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level=level)
    try:
        yield messages
    finally:
        logger.remove(sink)
