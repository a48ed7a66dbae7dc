"""What is new in a reply that may repeat what was said before it."""

from mistral_service.reply.overlap import Overlap
from mistral_service.reply.prefix import RepeatedPrefix


class Continuation:
    """Takes out of a reply what it repeats: the prefix of its request, or words before a cut."""

    def __init__(self, prefix: str, cut: str, *, exact: bool) -> None:
        """Prepare for one reply.

        Args:
            prefix: The text that the reply may begin with, since the request ended with it.
            cut: The words after which the last reply was cut.
            exact: Whether the server goes on exactly after a prefix.
        """
        # With a prefix the repetition is exact, where the server knows prefixes.
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
