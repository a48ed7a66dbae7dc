"""What a voice can say, and when it has something to say."""

import re
import unicodedata

# Tags of HTML and SSML, and the targets of links: a voice leaves them out.
_UNSPOKEN = re.compile(r"</?[A-Za-z][^<>]*>|\]\([^()]*\)|&[a-z]+;|&#\d+;")

# What ends a sentence for Pipecat's aggregators, in any script.
_ENDS = frozenset(".!?;…。？！；．｡।॥؟؛۔።។။")

SENTENCE_TIMEOUT = 4.0
"""Seconds from the first word of a sentence to its end, by default."""

_CHARACTER_S = 0.1
"""Seconds that a slow voice takes for a character; a usual one speaks 150 words in a minute."""


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
    needs for those before it.
    """

    def __init__(self, within: float) -> None:
        """Prepare for one reply.

        Args:
            within: Seconds from the first word of a sentence to its end.
        """
        self._within = within
        self._waits_since: float | None = None  # a voice, for the end of this sentence
        self._characters = 0
        self._busy_until = 0.0
        self._at = 0.0
        self._last = ""

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
        if since is not None and (waited := 2 * now - self._at - since) >= self._within:
            text = self._ended(text, waited)
        self._at, self._last = now, text[-1]
        self._characters += len(text)
        if since is not None and _ENDS.isdisjoint(text):
            return text  # nearly every token
        rest = text[max(map(text.rfind, _ENDS)) + 1 :]
        if len(rest) < len(text):
            spoken = self._characters - len(rest)
            self._busy_until = max(self._busy_until, now) + _CHARACTER_S * spoken
            self._waits_since, self._characters = None, len(rest)
        if self._waits_since is None and has_words(rest):
            self._waits_since = max(now, self._busy_until)
        return text

    def _ended(self, text: str, waited: float) -> str:
        """The text with an end before it, if the stream is slow, and that cuts no word."""
        # Twice the time ends any sentence: a long one that comes as fast as it is spoken, and a
        # word that comes letter by letter.
        in_time = (self._characters + len(text)) * _CHARACTER_S >= waited
        if (in_time or not _is_apart(self._last, text)) and waited < 2 * self._within:
            return text
        blank = "" if text[0].isspace() or _is_wide(self._last) else " "
        return _end_after(self._last) + blank + text


def _is_apart(last: str, text: str) -> bool:
    """Whether a text begins another word than the last one."""
    return last.isspace() or text[0].isspace() or _is_wide(last)


def _end_after(char: str) -> str:
    return "。" if _is_wide(char) else "."


def _is_wide(char: str) -> bool:
    """Whether a character is of a script that sets no blanks between words."""
    return unicodedata.east_asian_width(char) in "WF"
