"""What a voice can say, and when it has something to say."""

import re
import unicodedata
from collections.abc import Callable

# Tags of HTML and SSML, comments, the targets of links, entities, the head of a block of code: a
# voice leaves them out.
_UNSPOKEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<!\[CDATA\[|\]\]>|</?[A-Za-z][^<>]*>|<[!?][^<>]*>"
    r"|\]\([^()]*\)|&#?\w+;|^\s*```[\w+-]*",
    re.DOTALL | re.MULTILINE,
)

# What may end a sentence, in any script.
_ENDS = frozenset(".!?;…。？！；．｡।॥؟؛۔።။။")

SENTENCE_TIMEOUT = 4.0
"""Seconds from the first word of a sentence to its end, by default."""

_CHARACTER_S = 0.1
"""Seconds that a slow voice takes for a character; a usual one speaks 150 words in a minute."""

LAST_MOMENT_S = 1.0
"""Seconds before the end of the turn's budget at which a voice gets what there is."""

# A voice does not look at these to find whether a sentence has ended.
_NO_WORD = "".join(_ENDS) + " \t\r\n"

_PAUSE_S = 1.0
"""Seconds without words after which a stream has turned to something else."""

_LOOKS = 2
"""Texts after a possible end in which a voice looks whether it was one."""

FirstSentence = Callable[[str], int]
"""How many characters of a text are its first sentence; 0 where it has not ended."""


def has_words(text: str) -> bool:
    """Whether a voice has something to say: a letter or a digit, in any script.

    Args:
        text: The text; markup in it counts for nothing.
    """
    return any(char.isalnum() for char in _UNSPOKEN.sub(" ", text))


class Sentences:
    """Ends a sentence that takes too long to come, so that a voice can begin.

    A voice speaks in sentences. Where a stream brings a word a second, the caller hears nothing
    until the first one ends: so an end is set after the word that has come. A stream that is as
    fast as a voice has twice the time. A later sentence has, in addition, the time that the voice
    needs for those before it. No sentence takes longer than the caller may hear nothing.
    """

    def __init__(
        self, within: float, first_sentence: FirstSentence, *, began: float = 0.0, silence: float
    ) -> None:
        """Prepare for one turn.

        Args:
            within: Seconds from the first word of a sentence to its end.
            first_sentence: Finds the first sentence of a text as the voice finds it.
            began: When the turn began, on the clock of `now` everywhere below.
            silence: Seconds in which the caller may hear nothing.
        """
        self._within = within
        self._first_sentence = first_sentence
        self._silence = silence
        self._waits_since: float | None = None  # a voice, for the end of this sentence
        self._sentence = ""  # as far as it has come
        self._looks = 0
        self._busy_until = began
        self._at = began

    @property
    def silent_since(self) -> float:
        """Since when the caller hears nothing: the voice has said all sentences that have ended."""
        return self._busy_until

    def feed(self, text: str, now: float) -> str:
        """Take the next text.

        Args:
            text: The text.
            now: The time in seconds.

        Returns:
            The text, with an end of a sentence before it where one is due.
        """
        if not text:
            return text
        since = self._waits_since
        # Where the next text would come too late, the end is due now.
        if since is not None:
            waited = 2 * now - self._at - since
            late = 2 * now - self._at >= self._last_moment
            if (waited >= self._within or late) and has_words(text):
                text = self._ended(text, waited, late=late)
        self._at = now
        self._sentence += text
        if not _ENDS.isdisjoint(text):
            self._looks = _LOOKS
        if self._looks:
            if not text.isspace():
                self._looks -= 1
            self._release(now)
        if self._waits_since is None and has_words(self._sentence):
            self._waits_since = max(now, self._busy_until)
        return text

    def overdue(self, now: float) -> str:
        """What has the voice say what there is, where something else than text has come.

        Args:
            now: The time in seconds.

        Returns:
            An end, and a dash behind it, for a voice says a sentence when it sees what follows;
            empty where there is nothing to say, or where there is time.
        """
        since = self._waits_since
        if since is None or now < self._at + _PAUSE_S:
            return ""
        if now < min(since + self._within, self._last_moment):
            return ""
        end = " —" if self._sentence.rstrip()[-1:] in _ENDS else self._end_before(" —") + " —"
        self._sentence += end
        self._release(now)
        # Where it was no end for the voice, there is nothing else to be done.
        self._sentence, self._looks, self._waits_since = "", 0, None
        return end + " "

    @property
    def _last_moment(self) -> float:
        return self._busy_until + self._silence - LAST_MOMENT_S

    def _release(self, now: float) -> None:
        """Take note of the sentences that the voice has got."""
        while (length := self._first_sentence(self._sentence)) and (
            rest := self._sentence[length:]
        ).strip(_NO_WORD):
            if has_words(self._sentence[:length]):
                self._busy_until = max(self._busy_until, now) + _CHARACTER_S * length
                self._waits_since = None
            self._sentence = rest
            self._looks = 0 if _ENDS.isdisjoint(rest) else _LOOKS

    def _ended(self, text: str, waited: float, *, late: bool) -> str:
        """The text with an end before it, if the stream is slow, and that cuts no word."""
        # Twice the time ends any sentence: a long one that comes as fast as it is spoken, and a
        # word that comes letter by letter.
        last = self._sentence[-1]
        in_time = (len(self._sentence) + len(text)) * _CHARACTER_S >= waited
        waits = (in_time or not _is_apart(last, text)) and waited < 2 * self._within
        if waits and not late:
            return text
        blank = "" if text[0].isspace() or _is_wide(last) else " "
        return self._end_before(blank + text) + blank + text

    def _end_before(self, text: str) -> str:
        """The mark that ends the sentence for the voice: `No.` and `Mr.` may be abbreviations."""
        if _is_wide(self._sentence[-1]):
            return "。"
        ends = (".", "!", "。")
        return next((end for end in ends if self._first_sentence(self._sentence + end + text)), ".")


def _is_apart(last: str, text: str) -> bool:
    """Whether a text begins another word than the last one."""
    return last.isspace() or text[0].isspace() or _is_wide(last)


def _is_wide(char: str) -> bool:
    """Whether a character is of a script that sets no blanks between words."""
    return unicodedata.east_asian_width(char) in "WF"
