"""Removes what a reply repeats of earlier text."""

from mistral_service.reply.overlap import Overlap
from mistral_service.reply.prefix import RepeatedPrefix


class Continuation:
    """Removes what a reply repeats: the prefix of its request, or words before a cut."""

    def __init__(self, prefix: str, cut: str, *, exact: bool) -> None:
        """Prepare for one reply.

        Args:
            prefix: The prefix of the request, which the reply may repeat.
            cut: The text of the reply that was cut.
            exact: Whether the server continues exactly at the end of a prefix.
        """
        # A server that supports prefixes repeats them exactly.
        self._prefix = RepeatedPrefix(prefix)
        self._overlap = Overlap(cut, in_words=not prefix, exact=exact)

    def feed(self, text: str) -> str:
        """Take a piece of the reply; returns what is new in it."""
        return self._joined(self._prefix.feed(text))

    def finish(self) -> str:
        """Take the end of the reply; returns what was held back."""
        return self._joined(self._prefix.finish()) + self._overlap.finish()

    def _joined(self, text: str) -> str:
        return text if self._prefix.repeated else self._overlap.feed(text)
