"""Assembles the fragments of function calls in a stream.

Mistral's own models send each call whole, several in one delta. Third-party models at Mistral, and
other servers, send fragments, whose later pieces may lack the id, repeat it, have another one, or
repeat earlier content. A piece is assigned to its call by index, by id, or by its position.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import chain

from mistral_service.reply.events import ToolCall
from mistral_service.reply.json_extent import JsonExtent
from mistral_service.wire.chunks import ToolCallDelta
from mistral_service.wire.encoding import MAX_EVENT_VALUES, values_in

MAX_ARGUMENTS = 1_000_000
"""Characters that the arguments of all calls of a reply may have together."""


class _Arguments:
    """The arguments of one call while they arrive; each character is read once."""

    def __init__(self) -> None:
        # All pieces concatenated, once a piece was taken for the whole arguments so far.
        self._row: list[str] | None = None
        self._row_length = 0
        self._begin()

    def _begin(self) -> None:
        self.length = 0
        self._pieces: list[str] = []
        self._extent = JsonExtent()
        self._first = ""  # non-blank character
        self._ended = self._has_trailing = False  # the JSON value; text after its end

    def __str__(self) -> str:
        text = "".join(self._pieces)
        if self._row is None or _value(text) is not None:
            return text
        row = "".join(self._row)
        return text if _value(row) is None else row

    def __bool__(self) -> bool:
        return bool(self._first)

    @property
    def is_whole(self) -> bool:
        """Whether they are one object, or one that was encoded twice, judged by brackets."""
        return self._ended and not self._has_trailing and self._first in '{"'

    def add(self, piece: str) -> None:
        """Add a piece, which may be a repetition, or the whole arguments so far."""
        if self._repeats(piece):
            return
        if self.is_whole and piece.strip() and self.length < 5 and str(self).strip() == "{}":
            self._begin()  # it was a placeholder
        if self._row is not None:
            self._row_length += len(piece)
            self._row.append(piece)
            if self._row_length > MAX_ARGUMENTS:
                self._row = None
        if not self._first:
            piece = piece.lstrip()
        elif self._first in '{"' and len(piece) >= self.length:
            text, whole = "".join(self._pieces), piece.lstrip()
            if whole.startswith(text):
                self._row = [text, piece] if self._row is None else self._row
                piece = whole[self.length :]
        self._append(piece)

    def repeated_in(self, piece: str) -> bool:
        """Whether the arguments are whole, and a piece adds nothing to them."""
        return self.is_whole and (not piece.strip() or self._repeats(piece))

    def _repeats(self, piece: str) -> bool:
        if not self.is_whole:
            return False
        stripped = piece.strip()
        if stripped.startswith('"'):
            return len(stripped) <= self.length and stripped == str(self).strip()
        if not stripped.startswith("{") or not stripped.endswith("}"):
            return False
        value = _value(stripped)
        return isinstance(value, dict) and (not value or value == _value(str(self)))

    def _append(self, piece: str) -> None:
        self.length += len(piece)
        self._pieces.append(piece)
        self._first = self._first or piece[:1]
        if self._first and not self._ended and (end := self._extent.feed(piece)) is not None:
            self._ended, piece = True, piece[end:]
        self._has_trailing = self._has_trailing or (self._ended and bool(piece.strip()))


class _Call:
    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id: str | None = None
        self.name = ""
        self.arguments = _Arguments()

    def is_named_by(self, piece: ToolCallDelta) -> bool:
        """Whether a piece with this call's id belongs to it: a name comes before arguments.

        Some servers use one id for every call.
        """
        return not piece.name or not self.arguments or self._names_again(piece)

    def takes(self, piece: ToolCallDelta) -> bool:
        """Whether a piece belongs to this call, and does not begin another."""
        if piece.index not in (None, self.index) and self.index is not None:
            return False
        if not piece.name:
            # Later pieces have no name; whatever their id, they belong here.
            return True
        if piece.id and self.id:
            # Some servers repeat id and name on every piece.
            return piece.id == self.id and self.is_named_by(piece)
        if not self.name:
            return True
        # A second name, without ids to compare. While the arguments are incomplete, or where the
        # piece adds nothing, the same index means this call; without an index it is another.
        if piece.index is None or not self._names_again(piece):
            return False
        return not self.arguments.is_whole or self.arguments.repeated_in(piece.arguments)

    def add(self, piece: ToolCallDelta) -> None:
        self.id = self.id or piece.id
        if piece.name.startswith(self.name):
            self.name = piece.name or self.name  # some servers repeat the name so far
        else:
            self.name += piece.name
        self.arguments.add(piece.arguments)

    def _names_again(self, piece: ToolCallDelta) -> bool:
        """Whether a piece has the same name, or more of it before any arguments."""
        return piece.name == self.name or (
            not self.arguments and bool(self.name) and piece.name.startswith(self.name)
        )


_Key = tuple[str, int | None] | str | int | None


class CallPieces:
    """The calls of one reply, at most `most`, while they arrive."""

    def __init__(self, most: int) -> None:
        self.left_out = 0  # calls beyond that
        self._most = most
        self._calls: list[_Call] = []
        # The same by id, by index, and by both, so that no piece needs a linear search. A call
        # without an index has the index None.
        self._found: dict[_Key, list[_Call]] = {}
        self._last: _Call | None = None  # of the last piece
        self._length = self._values = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def overflows(self) -> bool:
        """Whether the limits are exceeded, so that the rest need not be read."""
        return (
            self.left_out > self._most
            or self._length > MAX_ARGUMENTS
            or self._values > MAX_EVENT_VALUES
        )

    def add(self, piece: ToolCallDelta) -> None:
        """Add a piece, or a whole call; nothing, once the limits are exceeded."""
        if self.overflows:
            return
        self._values += values_in(piece.arguments)
        call = self._call_of(piece)
        if call is None:
            if len(self._calls) >= self._most:
                self._length += len(piece.arguments)
                self.left_out += bool(piece.name)
                return
            call = _Call(piece.index)
            self._calls.append(call)
            self._found.setdefault(piece.index, []).append(call)
        length, had_id = call.arguments.length, call.id is not None
        call.add(piece)
        if call.id is not None and not had_id:
            self._found.setdefault(call.id, []).append(call)
            self._found.setdefault((call.id, call.index), []).append(call)
        self._length += call.arguments.length - length
        self._last = call

    def finish(self, without_arguments: str) -> list[ToolCall]:
        """The calls in the order of their beginning; `without_arguments` is for missing ones."""
        return [
            ToolCall(call.id, call.name, str(call.arguments).strip() or without_arguments)
            for call in self._calls
            if call.name
        ]

    def _call_of(self, piece: ToolCallDelta) -> _Call | None:
        """The call to which a piece belongs; None if it begins another."""
        if piece.id:
            for call in self._with_id(piece.id, piece.index):
                if call.is_named_by(piece):
                    return call
        if self.left_out and not piece.name:
            return None  # it belongs to one that was left out
        last = self._last
        if last is not None and last.takes(piece):
            return last
        # Without an index, a piece belongs to the last call or begins another.
        if piece.index is not None:
            for call in self._latest(piece.index, None):
                if call.takes(piece):
                    return call
        return None

    def _with_id(self, call_id: str, index: int | None) -> Iterator[_Call]:
        """The calls of an id, the latest first, without those of another index."""
        if index is None:
            return self._latest(call_id)
        return self._latest((call_id, index), (call_id, None))

    def _latest(self, *keys: _Key) -> Iterator[_Call]:
        return chain.from_iterable(reversed(self._found.get(key, [])) for key in keys)


def without_duplicates(written: Sequence[ToolCall], sent: Sequence[ToolCall]) -> list[ToolCall]:
    """The calls in the text of a reply, without those that were also sent as calls."""
    if not written:
        return []
    unmatched = [(call.id, call.name, _value(call.arguments)) for call in sent]
    kept: list[ToolCall] = []
    for call in written:
        value = _value(call.arguments)
        for each in unmatched:
            if each[1] == call.name and (each[2] == value or (each[0] and each[0] == call.id)):
                unmatched.remove(each)
                break
        else:
            kept.append(call)
    # A call that was cut in the text may have been sent completely.
    names = [name for _, name, _ in unmatched]
    cut = [c for c in kept if not c.arguments or not isinstance(_value(c.arguments), dict)]
    for call in cut:
        if call.name in names:
            names.remove(call.name)
            kept.remove(call)
    return kept


def _value(arguments: str) -> object:
    """The parsed arguments; None if they are no valid JSON."""
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return None
