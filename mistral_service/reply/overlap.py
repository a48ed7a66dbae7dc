"""Where a sentence was cut, and how its continuation joins on."""

_MARK = "\ufeff"
"""The mark of a byte order, which some servers put before a text."""


class Overlap:
    """Takes out of a continuation the words that were said before the cut.

    A model that is asked to go on in mid-sentence may begin with its last words again. A beginning
    counts as repeated where it equals the end of what was said, from the start of a word on,
    whatever the case of its letters.
    """

    def __init__(self, said: str) -> None:
        """Prepare for one continuation.

        Args:
            said: What was said before the cut; empty lets everything pass.
        """
        self._spaced = bool(said) and said[-1].isspace()
        said = said.rstrip()
        starts = [i for i in range(len(said)) if not i or said[i - 1].isspace()]
        # The ends of what was said that a continuation may repeat, the longest first.
        self._ends = [said[i:] for i in starts if not said[i].isspace()]
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
        longer = (end for end in self._ends if len(end) > len(begins))
        if not begins or any(_is_alike(end[: len(begins)], begins) for end in longer):
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
        repeated = next((end for end in self._ends if _is_alike(begins[: len(end)], end)), "")
        if repeated:
            rest = begins[len(repeated) :]
            return self._after_space(rest)
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
