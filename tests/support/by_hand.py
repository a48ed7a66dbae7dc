"""A model that goes on when the test says so: what comes first is no matter of time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from mistral_service.local.pieces import Delta, End, Piece

Step = str | Piece | Callable[[], object]
"""Words, a piece of another kind, or a condition that has to become true before the next step."""


class ByHand:
    """Answers requests with the steps of a reply each, one reply after the other.

    Example::

        ByHand(["One ", lambda: call.words, "two."], ["Three."])
    """

    def __init__(self, *replies: Sequence[Step]) -> None:
        self._replies = list(replies)

    async def answer(self, _request: dict[str, Any]) -> AsyncIterator[Piece]:
        """Answer with the next reply; it ends in `End` where it has no end of its own."""
        steps = self._replies.pop(0)
        for step in steps:
            if callable(step):
                while not step():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            else:
                yield Delta({"content": step}) if isinstance(step, str) else step
        if not any(isinstance(step, End) for step in steps):
            yield End()

    async def close(self) -> None:
        """Nothing to release."""
