"""A bot's greeting after a takeover, which comes when the call has been answered already."""

import time
from collections.abc import Collection

from pipecat.processors.aggregators.llm_context import LLMContext, LLMContextMessage

from mistral_service.scale.record import to_thread_if_large
from mistral_service.scale.resume import digest, is_reply

GREETS_WITHIN_S = 10.0
"""Seconds after a takeover within which a bot greets that greets every caller."""


class Greeting:
    """Recognizes the one turn after a takeover that is nothing but the bot's greeting."""

    def __init__(self) -> None:
        self._went_on: tuple[float, list[LLMContextMessage]] | None = None

    def went_on(self, messages: list[LLMContextMessage]) -> None:
        """Take note that a call goes on that was taken over.

        Args:
            messages: The conversation.
        """
        self._went_on = time.monotonic(), messages

    async def comes_too_late(
        self, context: LLMContext, opened_with: Collection[str], *, answered: bool
    ) -> bool:
        """Whether a turn is the greeting; what stands there of it is taken away then.

        Args:
            context: The conversation, with what the turn would answer.
            opened_with: Marks of the messages that a call of this bot opens with.
            answered: Whether the turn before is whole, and the caller has said nothing since.
        """
        if self._went_on is None:
            return False
        (when, before), self._went_on = self._went_on, None
        known = {id(message) for message in before}
        new = [m for m in context.get_messages() if id(m) not in known and not is_reply(m)]
        marks = await to_thread_if_large(lambda: list(map(digest, new)), new)
        is_late = time.monotonic() > when + GREETS_WITHIN_S
        if is_late or not answered or any(mark not in opened_with for mark in marks):
            return False
        context.set_messages(
            [m for m in context.get_messages() if all(m is not opening for opening in new)]
        )
        return True
