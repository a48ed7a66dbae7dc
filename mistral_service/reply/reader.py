"""Chunks to events: a state machine without I/O.

Text goes through `reply/dialects.py`, calls through `reply/pieces.py`; their results are combined
here.
"""

import json
import re
from collections.abc import Collection, Iterable

from mistral_service.reply.dialects import MarkupReader
from mistral_service.reply.events import Event, Finish, Text, Thought, ToolCall, Unreadable
from mistral_service.reply.pieces import CallPieces, without_duplicates
from mistral_service.reply.speech import WORD
from mistral_service.reply.written_calls import offered_name
from mistral_service.wire.chunks import Chunk, Usage, cites, is_encrypted, thought_of
from mistral_service.wire.encoding import join_surrogates
from mistral_service.wire.errors import MAX_NAME, printable
from mistral_service.wire.messages import Messages

MAX_CALLS = 64
"""Calls that a reply may have by default; a model that makes more is in a loop."""

MAX_WORDS = 1_000_000
"""Characters of text and thoughts that a reply may have: a voice speaks a day for them."""

_COMPLETE = frozenset({"stop", "tool_calls", "function_call", "eos"})
_CUT = frozenset({"length", "model_length"})
_LIMITED = _CUT | {"content_filter"}
_THINKING = ("thinking", "reasoning", "redacted_thinking")
_SURROGATE = re.compile("[\ud800-\udfff]")


class ReplyReader:
    """Reads one reply.

    Feed it every chunk as it arrives, then call `finish` once, also after a broken stream: it
    returns what is left.

    Attributes:
        model: The model that answers; empty while no chunk has named it.
        usage: The tokens as last reported; None while no chunk has reported them.
        progress: How many pieces of progress have come: text with a letter or a digit, thoughts,
            pieces of calls.
        thoughts: How many of these were thoughts.
        call_progress: How many of these were pieces of calls, sent as such or in the text.
    """

    def __init__(
        self,
        offered: Collection[str] = (),
        *,
        most_calls: int = MAX_CALLS,
        begins_in_thought: bool = False,
        markup: bool = True,
    ) -> None:
        """Prepare for one reply.

        Args:
            offered: The names of the functions that the request offers, as they are sent.
            most_calls: How many calls the reply may have; further ones are counted and left out.
            begins_in_thought: Whether the model's template opens a thought before the reply begins.
            markup: Whether markup in the text is parsed; it is not in code that is filled in.
        """
        self.model = ""
        self.usage: Usage | None = None
        self.progress = self.thoughts = self.call_progress = self._length = 0
        self._offered = offered
        self._most = most_calls
        self._finish_reason: str | None = None
        self._calls = CallPieces(most_calls)
        self._messages = Messages()
        self._reads_markup = markup
        self._markup = MarkupReader(offered, begins_in_thought=begins_in_thought)
        self._written: list[ToolCall | Unreadable] = []
        self._surrogate = ""  # the first half of a pair whose second half is still to come
        self._thought_surrogate = ""

    def feed(self, chunk: Chunk) -> list[Event]:
        """Take one chunk, as `feed_all` takes several."""
        return self.feed_all([chunk])

    def feed_all(self, chunks: Iterable[Chunk]) -> list[Event]:
        """Take the chunks that came in one read.

        Returns:
            The Text and Thought in them, in order; adjacent texts are one event.
        """
        events: list[Event] = []
        words: list[str] = []
        for chunk in chunks:
            self.model = chunk.model or self.model
            self.usage = chunk.usage or self.usage
            if chunk.finish_reason and self.broken is None:
                self._finish_reason = chunk.finish_reason  # an error is not overwritten
            if chunk.place is not None and self._messages.advance(chunk.place) and self._has_words:
                words.append(" ")  # separates the text from that of the message before
            if self._messages.in_tool_result:
                self._length += len(chunk.text)
                self._count_call()
            else:
                self._add_content(chunk, words, events)
            for piece in chunk.tool_calls:
                if piece.name or piece.arguments.strip():
                    self._count_call()
                self._calls.add(piece)
        self._add_words(words, events)
        return events

    def _add_content(self, chunk: Chunk, words: list[str], events: list[Event]) -> None:
        """Take the text and the thoughts of a chunk."""
        self._length += len(chunk.text) + len(chunk.thought)
        if chunk.thought or chunk.hidden_thought:
            self._add_words(words, events)
            self._add_thought(chunk.thought, events)
        if chunk.text:
            words.append(chunk.text)
        for part in chunk.parts:
            kind, text = part.get("type"), part.get("text")
            if kind == "text" and isinstance(text, str):
                self._length += len(text)
                words.append(text)
            elif isinstance(kind, str) and kind.startswith(_THINKING):
                thought = thought_of(part)
                self._length += len(thought)
                # An empty one stands for a thought that is encrypted, or only has references.
                if thought or is_encrypted(part) or cites(part):
                    self._add_words(words, events)
                    self._add_thought(thought, events)
            # References, links, resources, images and files are no text, and not spoken.

    @property
    def _has_words(self) -> bool:
        return self.progress > self.thoughts + self.call_progress

    @property
    def calling(self) -> bool:
        """Whether the reply has begun to call a function."""
        return bool(self._calls) or self._markup.calling

    @property
    def ended(self) -> bool:
        """Whether the server has sent a `finish_reason`."""
        return self._finish_reason is not None

    @property
    def overflows(self) -> bool:
        """Whether the reply exceeds the limits, so that the rest need not be read."""
        return self._length > MAX_WORDS or self._calls_overflow

    @property
    def _calls_overflow(self) -> bool:
        return self._calls.overflows or len(self._written) > 2 * self._most

    @property
    def begins_in_thought(self) -> bool | None:
        """Whether the reply began within a thought without an opening tag; None if not known."""
        return self._markup.begins_in_thought

    @property
    def broken(self) -> str | None:
        """The `finish_reason`, if it is none of a complete reply."""
        reason = self._finish_reason
        complete = reason is None or reason.lower() in _COMPLETE | _LIMITED
        return None if complete else reason

    def finish(self) -> list[Event]:
        """Take the end of the reply.

        Returns:
            The Text that was held back, every ToolCall in the order in which the calls began, every
            Unreadable, then the Finish.
        """
        events: list[Event] = []
        self._end_thought(events)
        self._add_text("\ufffd" if self._surrogate else "", events)
        self._surrogate = ""
        # A complete call without arguments takes none; one that was cut has lost them.
        reason = (self._finish_reason or "stop").lower()
        self._dispatch(self._markup.finish(cut=reason in _CUT), events)
        nothing = "{}" if reason in _COMPLETE else ""
        sent = [
            self._normalized(call, nothing)
            for call in self._calls.finish(nothing)
            if call.id not in self._messages.answered
        ]
        # A call in the text without arguments may have lost them.
        written = [
            self._normalized(call, "") for call in self._written if isinstance(call, ToolCall)
        ]
        calls = [*without_duplicates(written, sent), *sent]
        left_out = self._calls.left_out + max(0, len(calls) - self._most)
        unreadable = [each for each in self._written if isinstance(each, Unreadable)]
        self._calls, self._written = CallPieces(self._most), []
        finish = Finish(self._finish_reason, self.model, self.usage, left_out)
        return [*events, *calls[: self._most], *unreadable, finish]

    def _add_words(self, words: list[str], events: list[Event]) -> None:
        if not words:
            return
        text = self._surrogate + "".join(words)
        words.clear()
        self._surrogate = ""
        if not text.isascii() and _SURROGATE.search(text) is not None:
            if "\ud800" <= text[-1] <= "\udbff":
                text, self._surrogate = text[:-1], text[-1]
            text = _paired(text)
        self._add_text(text, events)

    def _add_text(self, text: str, events: list[Event]) -> None:
        if not text:
            return
        self._end_thought(events)
        if not self._reads_markup:
            self.progress += not text.isspace()
            events.append(Text(text))
            return
        self._dispatch(self._markup.feed(text), events)
        if self._markup.holds and not text.isspace():
            if self._markup.holds == "call":
                self._count_call()
            else:
                self._count_thought()

    def _add_thought(self, text: str, events: list[Event]) -> None:
        """Take a thought that the server sent as such; empty if it is encrypted."""
        self._dispatch(self._markup.typed_thought(), events)
        if not text.isspace():
            self._count_thought()
        text, self._thought_surrogate = self._thought_surrogate + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._thought_surrogate = text[:-1], text[-1]
        if text:
            events.append(Thought(_paired(text)))

    def _end_thought(self, events: list[Event]) -> None:
        if self._thought_surrogate:
            self._thought_surrogate = ""
            events.append(Thought("\ufffd"))

    def _count_thought(self) -> None:
        self.progress += 1
        self.thoughts += 1

    def _count_call(self) -> None:
        self.progress += 1
        self.call_progress += 1

    def _dispatch(self, found: Iterable[Event], events: list[Event]) -> None:
        """Pass on text and thoughts at once, and store calls for the end."""
        for event in found:
            if isinstance(event, Text):
                self.progress += WORD.search(event.text) is not None
                events.append(event)
            elif isinstance(event, ToolCall | Unreadable):
                if isinstance(event, ToolCall):
                    self._count_call()
                if not self._calls_overflow:
                    self._written.append(event)
            else:
                if isinstance(event, Thought) and not event.text.isspace():
                    self._count_thought()
                events.append(event)

    def _normalized(self, call: ToolCall, nothing: str) -> ToolCall:
        name = printable(offered_name(_paired(call.name), self._offered), MAX_NAME)
        arguments = _unwrapped(_paired(call.arguments).strip())
        # Names and ids are logged; a call with an invalid id gets another.
        valid = call.id is not None and call.id.isprintable() and len(call.id) <= MAX_NAME
        return ToolCall(call.id if valid else None, name, arguments or nothing, call.written)


def _unwrapped(arguments: str) -> str:
    """Decode arguments that were encoded twice, as some servers send them."""
    if not arguments.startswith('"'):
        return arguments
    try:
        inner: object = json.loads(arguments)
        is_object = isinstance(inner, str) and isinstance(json.loads(inner), dict)
    except (ValueError, RecursionError):
        return arguments
    return _paired(inner).strip() if is_object and isinstance(inner, str) else arguments


def _paired(text: str) -> str:
    """A text with its surrogate pairs joined; a lone surrogate crashes the encoder of a TTS."""
    if text.isascii() or _SURROGATE.search(text) is None:
        return text
    return join_surrogates(text)
