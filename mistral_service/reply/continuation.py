"""Removes what a reply repeats of earlier text: the request's prefix, or words before a cut."""

_BOM = "\ufeff"
"""The byte order mark, which some servers put in front of a text."""


class Continuation:
    """Removes what a reply repeats: all of the prefix, or words before the cut.

    If the last message of a request is an assistant message with `prefix: true`, the reply begins
    with its text. The caller has heard it already, so it is not spoken again.
    """

    def __init__(self, prefix: str, cut: str, *, exact: bool) -> None:
        self._prefix = prefix  # empty once the reply has repeated it, or cannot any longer
        self._held = ""
        # A server that supports prefixes repeats them exactly.
        self._repeated = False
        self._overlap = Overlap(cut, in_words=not prefix, exact=exact)

    def feed(self, text: str) -> str:
        """Take a piece of the reply; returns what is new in it."""
        if self._prefix:
            self._held += text
            if len(self._held) < len(self._prefix) and self._prefix.startswith(self._held):
                return ""
            self._repeated = self._held.startswith(self._prefix)
            text = self._held.removeprefix(self._prefix)
            self._prefix = self._held = ""
        return text if self._repeated else self._overlap.feed(text)

    def finish(self) -> str:
        """Take the end of the reply; returns what was held back."""
        return self._overlap.feed(self._held) + self._overlap.finish()


class Overlap:
    """Removes the words of a continuation that were already spoken before the cut.

    A model that continues in mid-sentence may repeat its last words. A beginning counts as repeated
    if it equals the end of the spoken text, from the start of a word on, case-insensitively.

    The spoken text is searched once, however many pieces the continuation has.
    """

    def __init__(self, spoken: str, *, in_words: bool = True, exact: bool = False) -> None:
        """Prepare for one continuation.

        Args:
            spoken: The text that was spoken before the cut; empty lets everything pass.
            in_words: Whether a user message asked the model to continue, so that it begins with a
                whole word. A server that continues a prefix may continue within a word.
            exact: Whether the server continues exactly at the cut, so that nothing counts as
                repeated: "Room 2" is followed by "2".
        """
        self._in_words = in_words
        self._spaced = bool(spoken) and spoken[-1].isspace()
        spoken = spoken.rstrip()
        # A blank in front, so that every word has one.
        self._spoken = " " + _folded(spoken)
        # The first blank in it that is followed by the continuation so far.
        self._at = 0
        self._held: list[str] = []
        self._begins: list[str] = []  # what is held, without leading blanks
        self._length = 0
        self._after_bom = False  # something else than a BOM has come
        self._joined = not spoken or exact

    def feed(self, text: str) -> str:
        """Take a piece; returns what is new in it, nothing while it may still be a repetition."""
        if self._joined:
            return self._after_space(text)
        self._held.append(text)
        piece = text
        if not self._begins:
            piece = text if self._after_bom else text.lstrip(_BOM)
            self._after_bom = self._after_bom or bool(piece)
            piece = piece.lstrip()
        if not piece:
            return ""
        self._begins.append(piece)
        before, self._length = self._length, self._length + len(piece)
        if not self._spoken.startswith(_folded(piece), self._at + 1 + before):
            begins = " " + _folded("".join(self._begins))
            self._at = self._spoken.find(begins, self._at + (before > 0))
        if 0 <= self._at < len(self._spoken) - 1 - self._length:
            return ""  # more of the repetition may follow
        return self.finish()

    def finish(self) -> str:
        """Take the end of the continuation; returns what was held back and is new."""
        held = "".join(self._held)
        if self._joined or not held:
            return ""
        self._joined, self._held = True, []
        begins = "".join(self._begins)
        if length := _shared(self._spoken, " " + _folded(begins)) - 1:
            return self._after_space(begins[length:])
        if not self._in_words:
            return held.lstrip(_BOM)
        # A new word is separated from the last one by a blank, punctuation is not.
        if self._spaced:
            return self._after_space(begins)
        apart = held[0].isspace() or not begins or not begins[0].isalnum()
        return held.lstrip(_BOM) if apart else " " + begins

    def _after_space(self, text: str) -> str:
        """A text without leading space, if the spoken text ends with space."""
        if self._spaced:
            text = text.lstrip()
            self._spaced = not text
        return text


def _folded(text: str) -> str:
    """A text of the same length, case-folded and with every kind of blank as a space."""
    folded = text.casefold()
    if len(folded) != len(text):
        folded = "".join(each if len(each.casefold()) != 1 else each.casefold() for each in text)
    if folded.isascii() and folded.isprintable():
        return folded
    return "".join(" " if each.isspace() else each for each in folded)


def _shared(spoken: str, begins: str) -> int:
    """The length of the longest beginning of one text with which the other ends; at least 1.

    Both begin with a blank, and so does the shared text. (D. E. Knuth, J. H. Morris and V. R.
    Pratt, "Fast pattern matching in strings", 1977: each character is compared about twice.)
    """
    spoken = spoken[-len(begins) :]
    borders = [0] * len(begins)
    length = 0
    for at in range(1, len(begins)):
        while length and begins[at] != begins[length]:
            length = borders[length - 1]
        length += begins[at] == begins[length]
        borders[at] = length
    length = 0
    for character in spoken:
        if length == len(begins):
            length = borders[length - 1]
        while length and character != begins[length]:
            length = borders[length - 1]
        length += character == begins[length]
    return max(length, 1)
