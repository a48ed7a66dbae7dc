"""Where a JSON value ends in a text that is still coming."""


class JsonExtent:
    """Finds the end of the object, list or string that a text begins with.

    Each character is looked at once, however many pieces the text comes in.
    """

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def end(self, text: str) -> int | None:
        """Look for the end.

        Args:
            text: The text so far, from the value's first character on; it only grows.

        Returns:
            The index after the value's last character; None as long as it is not there.
        """
        while self._at < len(text):
            char = text[self._at]
            self._at += 1
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = char == "\\"
                self._in_string = char != '"'
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
            if not self._depth and not self._in_string:
                return self._at
        return None
