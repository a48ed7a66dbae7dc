"""Where a sentence was cut, and how its continuation joins on."""

_MARK = "\ufeff"
"""The mark of a byte order, which some servers put before a text."""


class Overlap:
    """Takes out of a continuation the words that were said before the cut.

    A model that is asked to go on in mid-sentence may begin with its last words again. A beginning
    counts as repeated where it equals the end of what was said, from the start of a word on,
    whatever the case of its letters.

    What was said is looked through once, however many pieces the continuation comes in.
    """

    def __init__(self, said: str, *, in_words: bool = True, exact: bool = False) -> None:
        """Prepare for one continuation.

        Args:
            said: What was said before the cut; empty lets everything pass.
            in_words: Whether the model was asked in words to go on, so that it begins with a whole
                word. A server that goes on from a prefix may go on within one.
            exact: Whether the server goes on right behind what was said, so that nothing counts as
                repeated: "Room 2" is followed by "2".
        """
        self._in_words = in_words
        self._spaced = bool(said) and said[-1].isspace()
        said = said.rstrip()
        # A blank before it, so that every start of a word has one.
        self._said = " " + _folded(said)
        # The first blank in it after which the continuation, as far as it has come, stands.
        self._at = 0
        self._held: list[str] = []
        self._begins: list[str] = []  # what is held, without the blanks at its beginning
        self._length = 0
        self._after_mark = False  # something that is no mark has come
        self._joined = not said or exact

    def feed(self, text: str) -> str:
        """Take a piece of the continuation.

        Args:
            text: The piece.

        Returns:
            What is new in it; empty as long as it may still be a repetition.
        """
        if self._joined:
            return self._after_space(text)
        self._held.append(text)
        piece = text
        if not self._begins:
            piece = text if self._after_mark else text.lstrip(_MARK)
            self._after_mark = self._after_mark or bool(piece)
            piece = piece.lstrip()
        if not piece:
            return ""
        self._begins.append(piece)
        before, self._length = self._length, self._length + len(piece)
        if not self._said.startswith(_folded(piece), self._at + 1 + before):
            begins = " " + _folded("".join(self._begins))
            self._at = self._said.find(begins, self._at + (before > 0))
        if 0 <= self._at < len(self._said) - 1 - self._length:
            return ""  # more of it may follow
        return self.finish()

    def finish(self) -> str:
        """Take the end of the continuation.

        Returns:
            What was held back and is new.
        """
        held = "".join(self._held)
        if self._joined or not held:
            return ""
        self._joined, self._held = True, []
        begins = "".join(self._begins)
        if length := _shared(self._said, " " + _folded(begins)) - 1:
            return self._after_space(begins[length:])
        if not self._in_words:
            return held.lstrip(_MARK)
        # A new word is set apart from the last one, punctuation is not.
        if self._spaced:
            return self._after_space(begins)
        apart = held[0].isspace() or not begins or not begins[0].isalnum()
        return held.lstrip(_MARK) if apart else " " + begins

    def _after_space(self, text: str) -> str:
        """A text without the space that was said already."""
        if self._spaced:
            text = text.lstrip()
            self._spaced = not text
        return text


def _folded(text: str) -> str:
    """A text of the same length, with neither case nor kinds of blanks."""
    folded = text.casefold()
    if len(folded) != len(text):
        folded = "".join(each if len(each.casefold()) != 1 else each.casefold() for each in text)
    return folded if folded.isascii() and folded.isprintable() else _with_blanks(folded)


def _with_blanks(text: str) -> str:
    return "".join(" " if each.isspace() else each for each in text)


def _shared(said: str, begins: str) -> int:
    """How many characters of the longest beginning of one text the other ends with; at least 1.

    Both begin with a blank, and so does what is shared. (D. E. Knuth, J. H. Morris and V. R. Pratt,
    "Fast pattern matching in strings", 1977: each character is looked at about twice.)
    """
    said = said[-len(begins) :]
    borders = [0] * len(begins)
    length = 0
    for at in range(1, len(begins)):
        while length and begins[at] != begins[length]:
            length = borders[length - 1]
        length += begins[at] == begins[length]
        borders[at] = length
    length = 0
    for character in said:
        if length == len(begins):
            length = borders[length - 1]
        while length and character != begins[length]:
            length = borders[length - 1]
        length += character == begins[length]
    return max(length, 1)
