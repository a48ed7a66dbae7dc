"""Finds the end of a JSON value in a text that arrives in pieces."""

import re

_IN_STRING = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["{}\[\]]')


class JsonExtent:
    """Finds the end of an object, a list or a string.

    Each character is read once, however many pieces there are.
    """

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, piece: str) -> int | None:
        """Take the next piece of the text; the first begins with the value's first character.

        Returns:
            The index in the piece after the value's last character; None while it has not come.
        """
        at = 0
        if self._escaped and piece:
            at, self._escaped = 1, False
        while found := (_IN_STRING if self._in_string else _OUTSIDE).search(piece, at):
            at = found.end()
            match found[0]:
                case "\\":
                    self._escaped = at == len(piece)
                    at += 1
                    continue
                case '"':
                    self._in_string = not self._in_string
                case "{" | "[":
                    self._depth += 1
                case _:
                    self._depth -= 1
            if not self._depth and not self._in_string:
                return at
        return None

    def end(self, text: str) -> int | None:
        """As `feed`, for all text so far, from the value's first character on; it only grows."""
        begin, self._at = self._at, len(text)
        end = self.feed(text[begin:])
        return None if end is None else begin + end
