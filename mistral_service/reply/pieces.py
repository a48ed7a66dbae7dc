"""The pieces of function calls that a stream sends, put together.

Mistral's own models send each call whole, several in one delta. Models that Mistral hosts for
others, and other servers, send fragments, whose later pieces may lack the id, repeat it, carry
another, or repeat what came before. A piece finds its call by index, by id, or by following what
came before.
"""

import json
from collections.abc import Sequence

from mistral_service.reply.events import ToolCall
from mistral_service.wire.chunks import ToolCallDelta

MAX_ARGUMENTS = 1_000_000
"""Characters that the arguments of all calls of a reply may have together."""


class _Call:
    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id: str | None = None
        self.name = ""
        self.arguments = ""

    def takes(self, piece: ToolCallDelta) -> bool:
        """Whether a piece goes on with this call, rather than beginning another."""
        if piece.index is not None and self.index is not None and piece.index != self.index:
            return False
        if not piece.name:
            # Later pieces have no name; whatever id they carry, they belong here.
            return True
        if piece.id and self.id:
            # Some servers repeat id and name on every piece.
            return piece.id == self.id
        if not self.name:
            return True
        # A second name without an id to tell. While no arguments have come, or where the whole
        # call comes again, an index says that it is this call; without one it is another.
        repeats = piece.index is not None and piece.name == self.name
        return repeats and (not self.arguments.strip() or self._has_all_of(piece))

    def add(self, piece: ToolCallDelta) -> None:
        self.id = self.id or piece.id
        again = bool(piece.name) and piece.name == self.name
        if piece.name and not again:
            self.name += piece.name
        if again and self._has_all_of(piece):
            return
        grows = again and piece.id and len(self.arguments) > 3
        if grows and piece.arguments.startswith(self.arguments):
            self.arguments = ""  # some servers send all that is written so far, each time anew
        if self.arguments.strip() == "{}" and piece.arguments.strip():
            self.arguments = ""  # it only stood for arguments that were still to come
        self.arguments += piece.arguments

    def _has_all_of(self, piece: ToolCallDelta) -> bool:
        """Whether a piece is a whole call, sent once more."""
        mine, theirs = _value(self.arguments), _value(piece.arguments)
        return bool(self.arguments.strip()) and isinstance(mine, dict) and mine == theirs


class CallPieces:
    """The calls of one reply, while they come.

    Attributes:
        left_out: Calls beyond the most that a reply may have.
    """

    def __init__(self, most: int) -> None:
        """Prepare for one reply.

        Args:
            most: How many calls are kept.
        """
        self.left_out = 0
        self._most = most
        self._calls: list[_Call] = []
        self._length = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def overflows(self) -> bool:
        """Whether there is more than is kept, so that the rest need not be read."""
        return self.left_out > self._most or self._length > MAX_ARGUMENTS

    def add(self, piece: ToolCallDelta) -> None:
        """Take a piece, or a whole call."""
        self._length += len(piece.arguments)
        call = self._call_of(piece)
        if call is not None:
            call.add(piece)
        elif len(self._calls) < self._most:
            call = _Call(piece.index)
            self._calls.append(call)
            call.add(piece)
        elif piece.name:
            self.left_out += 1

    def finish(self, without_arguments: str) -> list[ToolCall]:
        """The calls, in the order in which they began.

        Args:
            without_arguments: The arguments of a call that has none.
        """
        return [
            ToolCall(call.id, call.name, call.arguments.strip() or without_arguments)
            for call in self._calls
            if call.name
        ]

    def _call_of(self, piece: ToolCallDelta) -> _Call | None:
        """The call that a piece goes on with; None where it begins another."""
        if self.left_out and not piece.name:
            return None  # it goes on with one that was left out
        for call in reversed(self._calls):
            if call.takes(piece):
                return call
            if piece.index is None:
                # Without an index, a piece goes on with the last call or begins another.
                return None
        return None


def without_doubles(written: Sequence[ToolCall], sent: Sequence[ToolCall]) -> list[ToolCall]:
    """The calls that stand in the text of a reply, but for those that were sent as calls, too.

    Args:
        written: The calls in the text.
        sent: The calls that the server sent as such.
    """
    left = [(call.id, call.name, _value(call.arguments)) for call in sent]
    kept: list[ToolCall] = []
    for call in written:
        value = _value(call.arguments)
        same = next(
            (
                s
                for s in left
                if s[1] == call.name and (s[2] == value or (s[0] and s[0] == call.id))
            ),
            None,
        )
        if same is None:
            kept.append(call)
        else:
            left.remove(same)
    return kept


def _value(arguments: str) -> object:
    """What arguments say; None where they are no whole JSON."""
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return None
