"""The first turns after a takeover: a needless greeting is dropped, and a cut reply completed."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

from pipecat.processors.aggregators.llm_context import (
    LLMContext,
    LLMContextMessage,
    LLMSpecificMessage,
)

from mistral_service.scale.record import to_thread_if_large
from mistral_service.scale.resume import digest, is_reply

GREETS_WITHIN_S = 10.0
"""Seconds after a takeover within which a bot greets, if it greets every caller."""


class Greeting:
    """Recognizes the one turn after a takeover that is only the bot's greeting."""

    def __init__(self) -> None:
        self._resumed: tuple[float, list[LLMContextMessage]] | None = None

    def on_resumed(self, messages: list[LLMContextMessage]) -> None:
        """Record that a call has resumed after a takeover, with this conversation."""
        self._resumed = time.monotonic(), messages

    async def drop_if_redundant(
        self, context: LLMContext, opened_with: Collection[str], *, answered: bool
    ) -> bool:
        """Remove a redundant greeting's messages from the context; returns whether the turn is one.

        `opened_with` has digests of the messages with which this bot opens a call. `answered` says
        that the reply before is complete, and that the user has said nothing since.
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


@dataclass
class PendingContext:
    """The words of a cut reply that the context lacks: Pipecat adds only their continuation.

    Parameters:
        context: The context that lacks them.
        before: The message before them; None if there is none.
        cut: The words.
    """

    context: LLMContext
    before: Any
    cut: str
    _joint: str | None = None

    def on_continuation(self, words: str) -> None:
        """Note whether the continuation begins with a space: the context strips it."""
        if self._joint is None and words:
            self._joint = " " if words[0].isspace() and not self.cut[-1].isspace() else ""

    def merge(self, *, final: bool) -> bool:
        """Put the words before their continuation; returns whether the context has them.

        Where no continuation is to come (`final`) they become a message of their own.
        """
        messages = list(self.context.get_messages())
        found = [i for i, message in enumerate(messages) if message is self.before]
        if not found:
            return True  # The bot has replaced the context.
        at = found[-1] + 1
        rest = messages[at] if at < len(messages) else None
        if rest is not None and not isinstance(rest, LLMSpecificMessage):
            message = cast("dict[str, Any]", rest)
            words = message.get("content")
            if message.get("role") == "assistant" and isinstance(words, str) and words:
                whole = self.cut + (self._joint or "") + words.lstrip()
                messages[at] = cast(Any, {**message, "content": whole})
                self.context.set_messages(messages)
                return True
        if final:
            messages.insert(at, cast(Any, {"role": "assistant", "content": self.cut.strip()}))
            self.context.set_messages(messages)
        return final
