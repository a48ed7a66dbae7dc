"""Where a sentence was cut, and how its continuation joins on."""

_MARK = "\ufeff"
"""The mark of a byte order, which some servers put before a text."""


class Overlap:
    """Takes out of a continuation the words that were said before the cut.

    A model that is asked to go on in mid-sentence may begin with its last words again. A beginning
    counts as repeated where it equals the end of what was said, from the start of a word on,
    whatever the case of its letters.
    """

    def __init__(self, said: str, *, in_words: bool = True) -> None:
        """Prepare for one continuation.

        Args:
            said: What was said before the cut; empty lets everything pass.
            in_words: Whether the model was asked in words to go on, so that it begins with a whole
                word. A server that goes on from a prefix may go on within one.
        """
        self._in_words = in_words
        self._spaced = bool(said) and said[-1].isspace()
        self._said = said = said.rstrip()
        # Where a repetition may begin: at the start of a word.
        self._starts = [
            at for at in range(len(said)) if not said[at].isspace() and said[at - 1 : at].isspace()
        ]
        if said and not said[0].isspace():
            self._starts.insert(0, 0)
        self._held = ""
        self._joined = not said

    def feed(self, text: str) -> str:
        """Take a piece of the continuation.

        Args:
            text: The piece.

        Returns:
            What is new in it; empty as long as it may still be a repetition.
        """
        if self._joined:
            return self._after_space(text)
        self._held += text
        begins = _begun(self._held)
        if not begins:
            return ""
        said = self._said
        self._starts = [
            at
            for at in self._starts
            if _is_alike(said[at : at + len(begins)], begins[: len(said) - at])
        ]
        if any(len(said) - at > len(begins) for at in self._starts):
            return ""
        return self.finish()

    def finish(self) -> str:
        """Take the end of the continuation.

        Returns:
            What was held back and is new.
        """
        held, self._held = self._held, ""
        if self._joined or not held:
            return ""
        self._joined = True
        begins = _begun(held)
        repeated = (len(self._said) - at for at in self._starts)
        if length := next((length for length in repeated if length <= len(begins)), 0):
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


def _begun(text: str) -> str:
    return text.lstrip(_MARK).lstrip()


def _is_alike(one: str, other: str) -> bool:
    return one == other or one.casefold() == other.casefold()
