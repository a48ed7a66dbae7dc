"""Parses a thought that arrives as text: finds where it ends."""

from typing import Literal

from mistral_service.reply.markers import CALL_MARKERS, MAX_MARKUP, THOUGHT_ENDS, beginning_of

Ended = Literal["", "closed", "given_up"]


class ThoughtMarkup:
    """Parses a thought from the end of its opening marker, up to one that certainly `ends` it.

    A thought may quote a marker of a call, or another model's closing marker. From there on the
    text is held back: if the thought's own end comes later, all of it was thought; if none comes,
    the thought ended there.

    Attributes:
        ended: Empty while the thought continues; `closed` by its own marker, or `given_up` at what
            may have been a quotation.
    """

    def __init__(self, ends: tuple[str, ...] = THOUGHT_ENDS) -> None:
        self.ended: Ended = ""
        self._ends = ends
        self._foreign = tuple(end for end in THOUGHT_ENDS if end not in ends)
        self._all = (*ends, *self._foreign, *CALL_MARKERS)
        self._quoted = ""
        self._searched = 0

    @property
    def quotes(self) -> bool:
        """Whether text is held back after what may be a quotation."""
        return bool(self._quoted)

    def read(self, text: str, *, final: bool) -> tuple[str, str]:
        """Parse the text that the last call left, and the text that has arrived since.

        Returns:
            The text that certainly is thought, and the text that is not parsed yet.
        """
        thought = ""
        if not self._quoted:
            at, end = _first_of(self._all, text)
            if not end:
                keep = 0 if final else beginning_of(self._all, text)
                return text[: len(text) - keep], text[len(text) - keep :]
            if end in self._ends:
                self.ended = "closed"
                return text[:at], text[at + len(end) :]
            self._quoted, self._searched = end, 0
            thought, text = text[:at], text[at:]
        overlap = max(map(len, self._ends)) - 1
        at, end = _first_of(self._ends, text, max(0, self._searched - overlap))
        self._searched = len(text)
        if end:
            self.ended = "closed"
            return thought + text[:at], text[at + len(end) :]
        if final or len(text) > MAX_MARKUP:
            self.ended = "given_up"
            return thought, text.removeprefix(self._quoted if self._quoted in self._foreign else "")
        return thought, text


def _first_of(markers: tuple[str, ...], text: str, begin: int = 0) -> tuple[int, str]:
    """The index of the first marker in a text, and the marker; -1 and empty if there is none."""
    found = [(at, marker) for marker in markers if (at := text.find(marker, begin)) >= 0]
    return min(found, default=(-1, ""))
