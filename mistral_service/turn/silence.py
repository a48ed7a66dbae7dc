"""How long the caller may go on hearing nothing."""

import math

from mistral_service.reply.reader import ReplyReader
from mistral_service.reply.speech import Sentences
from mistral_service.turn.retries import Limits

_NEXT_WORD_S = 1.5
"""Seconds in which the next word of a stream comes that is slow and alive."""


class Silence:
    """Watches what the caller hears of a turn, whatever comes on the wire.

    A stream that brings blanks, dots or markup is alive and says nothing. A model that thinks, or
    writes a call, says nothing either, and is given more time.
    """

    def __init__(
        self, limits: Limits, began: float, allowed: float, sentences: Sentences | None
    ) -> None:
        """Prepare for one turn.

        Args:
            limits: How long a turn may take.
            began: When it began.
            allowed: Seconds that the caller may hear nothing where words come all the while.
            sentences: What the voice has got; None where no voice speaks: then all words count.
        """
        self._limits = limits
        self._allowed = allowed
        self._sentences = sentences
        self._words_at = self._worked_at = began
        self._words = self._work = 0
        self._least = began  # that is certain to come before the end

    @property
    def since(self) -> float:
        """Since when the caller hears nothing; later than now while the voice is speaking."""
        return self._words_at if self._sentences is None else self._sentences.silent_since

    def begin(self) -> None:
        """Begin to watch another reply of the turn."""
        self._words = self._work = 0

    def watch(self, reader: ReplyReader, at: float) -> bool:
        """Record how far a reply has come at a time; returns whether there are new words."""
        work = reader.thoughts + reader.call_progress
        words = reader.progress - work
        if work > self._work:
            self._worked_at = at
        new = words > self._words
        if new:
            self._words_at = at
        self._words, self._work = words, work
        return new

    def until(self, horizon: float = math.inf) -> float:
        """When the caller has waited long enough, as far as is known; `horizon` at the latest."""
        # It only ever moves on, and nearly every token comes long before.
        if horizon > self._least:
            self._least = self._end()
        return min(horizon, self._least)

    def _end(self) -> float:
        since = self.since
        at_work = min(self._worked_at + self._limits.stall, since + self._limits.thinking)
        # The first words may come at the last moment: the next ones end their sentence.
        late = min(self._words_at, since + self._limits.turn) + _NEXT_WORD_S
        in_words = min(self._words_at + self._limits.turn, since + self._allowed)
        return max(since + self._limits.turn, late, in_words, at_work)
