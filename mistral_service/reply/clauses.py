"""Gathers text in clauses after the first sentence; every sentence ends at the same moment."""

import re

from mistral_service.reply.speech import FirstSentence

CLAUSE_TIMEOUT = 0.1
"""Seconds that a word waits for the end of its clause; a voice takes four times as long for it."""

# What may end a sentence, in any script.
_MARKS = ".!?;…。？！；．｡।॥؟؛۔؏၊။។៕\u0ecc།༎։՜՞።፧፨"

_MARK_AT_END = re.compile(f"[{_MARKS}]\\s*\\Z")
_MARK_AND_MORE = re.compile(f"[{_MARKS}]\\s*[^\\s{_MARKS}]")
# Within a number it ends nothing, and to look for a sentence costs more than a frame.
_DECIMAL = re.compile(r"(?<=\d)\.(?=\d)")
_CLAUSE_END = re.compile("[,:—–\n،、，：]")
_BLANK = re.compile(r"\s")

# Characters in which the end of a sentence is looked for, and those that are kept of more.
_MOST, _KEPT = 1_000, 300


class Clauses:
    """Gathers text up to the end of a clause.

    A voice finds that a sentence has ended by what follows: by the first character, or, behind
    what may be an abbreviation, by the whole next word. That leaves at once, and all that waits
    before it. So does all of the first sentence, for which the caller waits. Other words wait for
    the end of their clause, none longer than `within` seconds: the stream's pace says whether the
    next word would come too late. At 0 none waits.
    """

    def __init__(self, first_sentence: FirstSentence, within: float = CLAUSE_TIMEOUT) -> None:
        self._first_sentence = first_sentence
        self._within = within
        self._gathered: list[str] = []
        self._since = self._at = 0.0  # when the first of it came, and the last
        self._sentence = ""  # as far as it has come
        self._is_first = True
        self._mark = ""  # stands at the end of the text, and may end the sentence
        self._in_next_word = False  # whose end shows whether the sentence has ended

    @property
    def due(self) -> float:
        """When what is gathered has to leave, on the clock of `feed`."""
        return self._since + self._within

    def feed(self, text: str, now: float) -> bool:
        """Take the next text; returns whether what is gathered has to leave now."""
        # When the next text comes at this pace, or somewhat later: a timer costs more than a frame.
        then, self._at = now + 1.5 * (now - self._at), now
        if not self._gathered:
            self._since = now
        self._gathered.append(text)
        if not self._within:
            return True
        leaves = self._is_first
        if self._shows_end(text) or leaves or then >= self.due:
            return True
        is_short = now - self._since < self._within / 2
        return not is_short and _CLAUSE_END.search(text) is not None

    def take(self) -> str:
        """Take what is gathered."""
        text = "".join(self._gathered)
        self._gathered.clear()
        return text

    def _shows_end(self, text: str) -> bool:
        """Whether a voice may find by a text that a sentence has ended."""
        self._sentence += text
        seen, looks_again = self._mark + _DECIMAL.sub("", text), self._in_next_word
        looks = _MARK_AND_MORE.search(seen) is not None
        self._mark = "." if _MARK_AT_END.search(seen) else ""
        if looks:
            self._in_next_word = not self._has_ended()
        elif looks_again and _BLANK.search(text):
            self._in_next_word = False
            self._has_ended()
        if len(self._sentence) > _MOST:
            self._sentence, self._is_first = self._sentence[-_KEPT:], False
        return looks or looks_again

    def _has_ended(self) -> bool:
        """Whether a sentence has ended in the text; it is no part of the next one."""
        length = self._first_sentence(self._sentence)
        if length:
            self._sentence, self._is_first = self._sentence[length:], False
        return length > 0
