"""The beginning that Mistral repeats where a reply goes on from a prefix."""


class RepeatedPrefix:
    """Takes the prefix out of a reply that repeats it.

    A request whose last message is an assistant's with `prefix: true` is answered with that
    message's text again, and then the rest. What the caller has heard already is not said twice.
    Where the reply does not repeat the prefix, it passes unchanged.

    Attributes:
        repeated: Whether the reply has repeated the prefix.
    """

    def __init__(self, prefix: str) -> None:
        """Prepare for one reply.

        Args:
            prefix: The text that the reply may begin with; empty lets everything pass.
        """
        self.repeated = False
        self._expected = prefix
        self._held = ""

    def feed(self, text: str) -> str:
        """Take a piece of the reply.

        Args:
            text: The piece.

        Returns:
            What is new in it; empty as long as it may still be the prefix.
        """
        if not self._expected:
            return text
        self._held += text
        if len(self._held) < len(self._expected):
            if self._expected.startswith(self._held):
                return ""
        elif self._held.startswith(self._expected):
            self.repeated = True
            return self._end(self._held[len(self._expected) :])
        return self._end(self._held)

    def finish(self) -> str:
        """Take the end of the reply.

        Returns:
            What was held back and is no whole prefix after all.
        """
        return self._end(self._held)

    def _end(self, rest: str) -> str:
        self._expected = ""
        self._held = ""
        return rest
