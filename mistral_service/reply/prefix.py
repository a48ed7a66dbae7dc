"""Removes the prefix that Mistral repeats at the beginning of a reply."""


class RepeatedPrefix:
    """Removes the prefix from a reply that repeats it.

    If the last message of a request is an assistant message with `prefix: true`, the reply begins
    with its text. The caller has heard it already, so it is not spoken again. A reply that does not
    repeat the prefix passes unchanged.

    Attributes:
        repeated: Whether the reply has repeated the prefix.
    """

    def __init__(self, prefix: str) -> None:
        """Prepare for one reply.

        Args:
            prefix: The text that the reply may repeat; empty lets everything pass.
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
            What was held back, if it is no complete prefix.
        """
        return self._end(self._held)

    def _end(self, rest: str) -> str:
        self._expected = ""
        self._held = ""
        return rest
