"""A bot's greeting after a takeover, which is dropped where the caller needs none."""

import time
from collections.abc import Collection

from pipecat.processors.aggregators.llm_context import LLMContext, LLMContextMessage

from mistral_service.scale.record import to_thread_if_large
from mistral_service.scale.resume import digest, is_reply

GREETS_WITHIN_S = 10.0
"""Seconds after a takeover within which a bot greets, if it greets every caller."""


class Greeting:
    """Recognizes the one turn after a takeover that is only the bot's greeting."""

    def __init__(self) -> None:
        self._resumed: tuple[float, list[LLMContextMessage]] | None = None

    def on_resumed(self, messages: list[LLMContextMessage]) -> None:
        """Record that a call has resumed after a takeover.

        Args:
            messages: The conversation.
        """
        self._resumed = time.monotonic(), messages

    async def drop_if_redundant(
        self, context: LLMContext, opened_with: Collection[str], *, answered: bool
    ) -> bool:
        """Remove the greeting's messages from the context, if the turn is a redundant greeting.

        Args:
            context: The conversation, with what the turn would answer.
            opened_with: Digests of the messages with which this bot opens a call.
            answered: Whether the reply before is complete, and the user has said nothing since.

        Returns:
            Whether the turn is a redundant greeting.
        """
        if self._resumed is None:
            return False
        (when, before), self._resumed = self._resumed, None
        known = {id(message) for message in before}
        new = [m for m in context.get_messages() if id(m) not in known and not is_reply(m)]
        digests = await to_thread_if_large(lambda: list(map(digest, new)), new)
        is_late = time.monotonic() > when + GREETS_WITHIN_S
        if is_late or not answered or any(each not in opened_with for each in digests):
            return False
        context.set_messages(
            [m for m in context.get_messages() if all(m is not opening for opening in new)]
        )
        return True
