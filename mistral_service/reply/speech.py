"""What a TTS can speak, and when it has a sentence to speak."""

import re
import unicodedata
from collections.abc import Callable

# HTML and SSML tags, comments, link targets, entities, the head of a code block: a TTS leaves them
# out.
_UNSPOKEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<!\[CDATA\[|\]\]>|</?[A-Za-z][^<>]*>|<[!?][^<>]*>"
    r"|\]\([^()]*\)|&#?\w+;|^[^\S\n]*```[\w+-]*",
    re.DOTALL | re.MULTILINE,
)

_BEGINS_UNSPOKEN = frozenset("<]&`")
WORD = re.compile(r"[^\W_]")
"""A letter or a digit, in any script."""

# What may end a sentence, in any script.
_ENDS = frozenset(".!?;…。？！；．｡।॥؟؛۔።။။")

SENTENCE_TIMEOUT = 4.0
"""Seconds from the first word of a sentence to its end, by default."""

_CHARACTER_S = 0.1
"""Seconds that a slow voice takes for a character; a typical one speaks 150 words a minute."""

LAST_MOMENT_S = 1.0
"""Seconds before the end of the turn's budget at which the TTS gets the text so far."""

# A TTS ignores these characters when it looks for the end of a sentence.
_NOT_WORDS = "".join(_ENDS) + " \t\r\n"

_PAUSE_S = 1.0
"""Seconds without text after which a stream is taken to send something else."""

# Characters that are searched for sentences, which takes some milliseconds: a slow voice needs a
# minute for them. Of a longer text, only the last characters are kept.
_MAX_BUFFER, _KEPT = 1_000, 300

FirstSentence = Callable[[str], int]
"""Returns how many characters of a text are its first sentence; 0 if it has not ended."""


def has_words(text: str) -> bool:
    """Whether a text has something to speak: a letter or a digit outside of markup."""
    first = WORD.search(text)
    if first is None or _BEGINS_UNSPOKEN.isdisjoint(text[: first.start()]):
        return first is not None
    return WORD.search(_UNSPOKEN.sub(" ", text)) is not None


class Sentences:
    """Ends a sentence that takes too long to arrive, so that the TTS can begin.

    A TTS speaks whole sentences. With a stream of one word a second, the caller would hear nothing
    until the first sentence ends: so an end is inserted after the words so far. A stream that is as
    fast as speech has twice the time. A later sentence also has the time in which the TTS speaks
    those before it. No sentence takes longer than the caller may hear nothing.
    """

    def __init__(
        self, within: float, first_sentence: FirstSentence, *, began: float = 0.0, silence: float
    ) -> None:
        """Prepare for one turn.

        Args:
            within: Seconds from the first word of a sentence to its end.
            first_sentence: Finds the first sentence of a text as the TTS does.
            began: When the turn began.
            silence: Seconds in which the caller may hear nothing.
        """
        self._within = within
        self._first_sentence = first_sentence
        self._silence = silence
        self._waits_since: float | None = None  # the TTS, for the end of this sentence
        self._sentence = ""  # so far, with earlier ones that were not searched for yet
        self._came: list[tuple[int, float]] = []  # its length after each text, and when
        self._may_have_ended = False
        self._busy_until = began
        self._at = began

    @property
    def silent_since(self) -> float:
        """Since when the caller hears nothing: when the TTS has spoken all complete sentences."""
        self._release()
        return self._busy_until

    def feed(self, text: str, now: float) -> str:
        """Take the next text; returns it, preceded by the end of a sentence if one is due."""
        if not text:
            return text
        # If the next text would probably come too late, the end is due now.
        then = 2 * now - self._at
        if self._is_due(then):
            self._release()
            if self._is_due(then) and has_words(text):
                text = self._ended(text, then)
        self._at = now
        self._sentence += text
        self._came.append((len(self._sentence), now))
        self._may_have_ended = self._may_have_ended or not _ENDS.isdisjoint(text)
        if len(self._sentence) > _MAX_BUFFER:
            self._shorten()
        if self._waits_since is None and has_words(self._sentence):
            self._waits_since = max(now, self._busy_until)
        return text

    def _shorten(self) -> None:
        """Drop all but the end of a long text: its complete sentences count as sent to the TTS."""
        head = self._sentence[:-_KEPT]
        length = 1 + max(map(head.rfind, _ENDS)) if self._may_have_ended else 0
        if not length:  # one long sentence, for whose end the TTS still waits
            self._cut(len(head))
            return
        at = self._came_at(length - 1)
        self._busy_until = max(self._busy_until, at) + _CHARACTER_S * length
        self._cut(length)
        rest = has_words(self._sentence)
        self._waits_since = max(at, self._busy_until) if rest else None
        self._may_have_ended = not _ENDS.isdisjoint(self._sentence)

    def _cut(self, length: int) -> None:
        self._sentence = self._sentence[length:]
        self._came = [(end - length, when) for end, when in self._came if end > length]

    def overdue(self, now: float) -> str:
        """The end of a sentence that is due while the stream sends something else than text.

        A dash follows it, since a TTS speaks a sentence when it sees what follows. It is empty if
        there is nothing to speak, or still time.
        """
        if now < self._at + _PAUSE_S or not self._is_due(now):
            return ""
        self._release()
        if not self._is_due(now):
            return ""
        end = " —" if self._sentence.rstrip()[-1:] in _ENDS else self._end_before(" —") + " —"
        self._sentence += end
        self._came.append((len(self._sentence), now))
        self._may_have_ended = True
        self._release()
        # If the TTS did not take it as an end, nothing else can be done.
        self._sentence, self._came, self._waits_since = "", [], None
        return end + " "

    def _is_due(self, then: float) -> bool:
        """Whether the TTS has waited long enough by then, as far as is known."""
        since = self._waits_since
        return since is not None and (then >= since + self._within or self._is_late(then))

    def _is_late(self, then: float) -> bool:
        return then >= self._busy_until + self._silence - LAST_MOMENT_S

    def _release(self) -> None:
        """Account for the sentences that the TTS has received.

        The search for them takes time, so it is only done where it makes a difference.
        """
        while self._may_have_ended and (length := self._first_sentence(self._sentence)):
            rest = self._sentence[length:]
            if not (follows := rest.lstrip(_NOT_WORDS)):
                return
            at = self._came_at(len(self._sentence) - len(follows))
            if has_words(self._sentence[:length]):
                self._busy_until = max(self._busy_until, at) + _CHARACTER_S * length
            self._cut(length)
            self._may_have_ended = not _ENDS.isdisjoint(rest)
            self._waits_since = max(at, self._busy_until) if has_words(rest) else None

    def _came_at(self, place: int) -> float:
        """When the character at an index came."""
        return next(when for end, when in self._came if end > place)

    def _ended(self, text: str, then: float) -> str:
        """The text, preceded by an end if the stream is slow and the end does not cut a word."""
        # After twice the time any sentence is ended: a long one that comes as fast as it is spoken,
        # and a word that comes letter by letter.
        late, waited = self._is_late(then), then - (self._waits_since or 0.0)
        last = self._sentence[-1]
        in_time = (len(self._sentence) + len(text)) * _CHARACTER_S >= waited
        waits = (in_time or not _is_apart(last, text)) and waited < 2 * self._within
        if waits and not late:
            return text
        blank = "" if text[0].isspace() or _is_wide(last) else " "
        return self._end_before(blank + text) + blank + text

    def _end_before(self, text: str) -> str:
        """The mark that ends the sentence for the TTS: `No.` and `Mr.` may be abbreviations."""
        if _is_wide(self._sentence[-1]):
            return "。"
        ends = (".", "!", "。")
        return next((end for end in ends if self._first_sentence(self._sentence + end + text)), ".")


def _is_apart(last: str, text: str) -> bool:
    """Whether a text begins a new word."""
    return last.isspace() or text[0].isspace() or _is_wide(last)


def _is_wide(char: str) -> bool:
    """Whether a character is of a script without spaces between words."""
    return unicodedata.east_asian_width(char) in "WF"
