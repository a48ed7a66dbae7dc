"""Chunks to events: a state machine without I/O.

Function calls are the part that differs between models: Mistral's own send each call whole,
several in one delta; models that Mistral hosts for others send them in fragments, whose later
pieces may lack the id, repeat it, or carry another. So calls are gathered until the reply ends,
and a piece finds its call by index, by id, or by following what came before.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from mistral_service.reply.events import Event, Finish, Text, Thought, ToolCall
from mistral_service.wire.chunks import Chunk, Part, ToolCallDelta, Usage

_CUT = ("length", "model_length", "error")


class _Call:
    """A function call that is being put together."""

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
        # A second name without an id to tell: another call, sent with the same index.
        return not self.name

    def add(self, piece: ToolCallDelta) -> None:
        self.id = self.id or piece.id
        if piece.name and piece.name != self.name:
            self.name += piece.name
        self.arguments += piece.arguments


class ReplyReader:
    """Reads one reply.

    Feed it every chunk as it comes, then call `finish` once, also if the stream broke: it returns
    what is known by then.

    Attributes:
        model: The model that answers, as far as the chunks have said.
        usage: The tokens, as far as the chunks have said; the last report counts.
        progress: How often something came that is not blank: words, thoughts, a piece of a call.
    """

    def __init__(self) -> None:
        self.model = ""
        self.usage: Usage | None = None
        self.progress = 0
        self._finish_reason: str | None = None
        self._calls: list[_Call] = []

    def feed(self, chunk: Chunk) -> Iterator[Event]:
        """Take one chunk.

        Args:
            chunk: The chunk.

        Yields:
            The Text and Thought in it, in order.
        """
        self.model = chunk.model or self.model
        self.usage = chunk.usage or self.usage
        self._finish_reason = chunk.finish_reason or self._finish_reason
        if chunk.text:
            self.progress += not chunk.text.isspace()
            yield Text(chunk.text)
        for part in chunk.parts:
            for event in _events_of(part):
                self.progress += not event.text.isspace()
                yield event
        for piece in chunk.tool_calls:
            self.progress += bool(piece.name or piece.arguments.strip())
            self._gather(piece)

    def feed_all(self, chunks: Iterable[Chunk]) -> list[Event]:
        """Take the chunks that came in one read.

        Args:
            chunks: The chunks.

        Returns:
            What they say, in order; words that follow each other are one event.
        """
        events: list[Event] = []
        words: list[str] = []
        for chunk in chunks:
            for event in self.feed(chunk):
                if isinstance(event, Text):
                    words.append(event.text)
                    continue
                if words:
                    events.append(Text("".join(words)))
                    words = []
                events.append(event)
        if words:
            events.append(Text("".join(words)))
        return events

    @property
    def calling(self) -> bool:
        """Whether the reply has begun to call a function."""
        return bool(self._calls)

    def finish(self) -> list[Event]:
        """Take the end of the reply.

        Returns:
            Every ToolCall, in the order in which the calls began, then the Finish.
        """
        # A call without arguments has none to give; one that was cut has lost them.
        nothing = "" if self._finish_reason in _CUT else "{}"
        calls = [
            ToolCall(call.id, call.name, call.arguments.strip() or nothing)
            for call in self._calls
            if call.name
        ]
        self._calls = []
        return [*calls, Finish(self._finish_reason, self.model, self.usage)]

    def _gather(self, piece: ToolCallDelta) -> None:
        for call in reversed(self._calls):
            if call.takes(piece):
                break
            if piece.index is None:
                # Without an index, a piece goes on with the last call or begins another.
                call = None
                break
        else:
            call = None
        if call is None:
            call = _Call(piece.index)
            self._calls.append(call)
        call.add(piece)


def _events_of(part: Part) -> Iterator[Text | Thought]:
    kind = part.get("type")
    if kind == "text":
        text = part.get("text")
        if isinstance(text, str) and text:
            yield Text(text)
    elif kind == "thinking":
        text = _thinking(part.get("thinking"))
        if text:
            yield Thought(text)
    # References point at sources, images and files are not words: nothing of them is spoken.


def _thinking(value: object) -> str:
    """The words of a thinking part, which are a string or a list of text parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    parts = (
        cast("Mapping[str, Any]", item).get("text")
        for item in cast("list[object]", value)
        if isinstance(item, Mapping)
    )
    return "".join(text for text in parts if isinstance(text, str))
