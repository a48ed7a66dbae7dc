"""What a voice can say, and when it has something to say."""

import re
import unicodedata
from collections.abc import Callable

# Tags of HTML and SSML, comments, the targets of links, entities, the head of a block of code: a
# voice leaves them out.
_UNSPOKEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<!\[CDATA\[|\]\]>|</?[A-Za-z][^<>]*>|<[!?][^<>]*>"
    r"|\]\([^()]*\)|&#?\w+;|^[^\S\n]*```[\w+-]*",
    re.DOTALL | re.MULTILINE,
)

_BEGINS_UNSPOKEN = frozenset("<]&`")
_WORD = re.compile(r"[^\W_]")

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

# Characters that are looked through for sentences, which takes some milliseconds: a slow voice has
# enough to say for a minute. Of more, the last are kept.
_MOST, _KEPT = 1_000, 300

FirstSentence = Callable[[str], int]
"""How many characters of a text are its first sentence; 0 where it has not ended."""


def has_words(text: str) -> bool:
    """Whether a voice has something to say: a letter or a digit, in any script.

    Args:
        text: The text; markup in it counts for nothing.
    """
    first = _WORD.search(text)
    if first is None or _BEGINS_UNSPOKEN.isdisjoint(text[: first.start()]):
        return first is not None
    return _WORD.search(_UNSPOKEN.sub(" ", text)) is not None


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
        self._sentence = ""  # as far as it has come, and those before it that were not looked for
        self._came: list[tuple[int, float]] = []  # how long it was, and when
        self._may_have_ended = False
        self._busy_until = began
        self._at = began

    @property
    def silent_since(self) -> float:
        """Since when the caller hears nothing: the voice has said all sentences that have ended."""
        self._release()
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
        # Where the next text would come too late, the end is due now.
        then = 2 * now - self._at
        if self._is_due(then):
            self._release()
            if self._is_due(then) and has_words(text):
                text = self._ended(text, then)
        self._at = now
        self._sentence += text
        self._came.append((len(self._sentence), now))
        self._may_have_ended = self._may_have_ended or not _ENDS.isdisjoint(text)
        if len(self._sentence) > _MOST:
            self._shorten()
        if self._waits_since is None and has_words(self._sentence):
            self._waits_since = max(now, self._busy_until)
        return text

    def _shorten(self) -> None:
        """Let go of all but the end of what came: sentences count as given to the voice."""
        head = self._sentence[:-_KEPT]
        length = 1 + max(map(head.rfind, _ENDS)) if self._may_have_ended else 0
        if not length:  # one long sentence, of which the voice still waits for the end
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
        """What has the voice say what there is, where something else than text has come.

        Args:
            now: The time in seconds.

        Returns:
            An end, and a dash behind it, for a voice says a sentence when it sees what follows;
            empty where there is nothing to say, or where there is time.
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
        # Where it was no end for the voice, there is nothing else to be done.
        self._sentence, self._came, self._waits_since = "", [], None
        return end + " "

    def _is_due(self, then: float) -> bool:
        """Whether the voice has waited long enough by then, as far as is known."""
        since = self._waits_since
        return since is not None and (then >= since + self._within or self._is_late(then))

    def _is_late(self, then: float) -> bool:
        return then >= self._busy_until + self._silence - LAST_MOMENT_S

    def _release(self) -> None:
        """Take note of the sentences that the voice has got.

        Looking for them takes time, so it is done only where it makes a difference.
        """
        while self._may_have_ended and (length := self._first_sentence(self._sentence)):
            rest = self._sentence[length:]
            if not (follows := rest.lstrip(_NO_WORD)):
                return
            at = self._came_at(len(self._sentence) - len(follows))
            if has_words(self._sentence[:length]):
                self._busy_until = max(self._busy_until, at) + _CHARACTER_S * length
            self._cut(length)
            self._may_have_ended = not _ENDS.isdisjoint(rest)
            self._waits_since = max(at, self._busy_until) if has_words(rest) else None

    def _came_at(self, place: int) -> float:
        """When the character at a place came."""
        return next(when for end, when in self._came if end > place)

    def _ended(self, text: str, then: float) -> str:
        """The text with an end before it, if the stream is slow, and that cuts no word."""
        # Twice the time ends any sentence: a long one that comes as fast as it is spoken, and a
        # word that comes letter by letter.
        late, waited = self._is_late(then), then - (self._waits_since or 0.0)
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
