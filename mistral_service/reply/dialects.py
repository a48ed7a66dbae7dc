"""Parses markup in the text of a reply: it becomes a thought, a call, or nothing.

A pure stage between the text of a stream and its events; the text may be split anywhere. Text that
only looks like markup passes unchanged, and a character is held back only as long as it can still
become a marker. `reply/thought_markup.py` parses thoughts, `reply/call_markup.py` calls.
"""

import re
from collections.abc import Callable, Collection
from typing import Literal

from mistral_service.reply.call_markup import CallMarkup
from mistral_service.reply.events import Event, Text, Thought, ToolCall, Unreadable
from mistral_service.reply.json_extent import JsonExtent
from mistral_service.reply.markers import (
    FENCE,
    FIRST,
    Marker,
    beginning_of,
    could_begin,
    marker_at,
    shortened,
)
from mistral_service.reply.speech import WORD
from mistral_service.reply.thought_markup import ThoughtMarkup
from mistral_service.reply.written_calls import BareCalls, Found

Holds = Literal["", "thought", "call"]

_MAY_BEGIN_MARKER = re.compile(f"[{re.escape(FIRST)}`]")
_FENCE_HEAD = re.compile(r"```[ \t]*[\w+-]*[ \t]*\n?\s*")
_MAX_HEAD = 200
_DATA = re.compile(r'\{\s*["}]')
_MAX_BLANKS = 64
_ENDS = ".!?…"


class MarkupReader:
    """Reads the text of one reply.

    Attributes:
        calling: Whether a call has begun.
        begins_in_thought: Whether the reply began within a thought without an opening tag; None
            while that is not known.
        holds: What is probably held back after the last text: a thought, a call, or neither.
    """

    def __init__(self, offered: Collection[str] = (), *, begins_in_thought: bool = False) -> None:
        """Prepare for one reply.

        Args:
            offered: The names of the functions that the request offers, as they are sent.
            begins_in_thought: Whether the reply begins within a thought whose opening tag is part
                of the template. If its end never comes, it was no thought.
        """
        self.calling = False
        self.begins_in_thought: bool | None = None
        self.holds: Holds = ""
        self._offered = offered
        self._events: list[Event] = []
        self._assumed_thought: list[str] | None = [] if begins_in_thought else None
        self._begin_with("", self._maybe_opening_tag if begins_in_thought else self._text)
        self._learns = False  # that the reply began in a thought, once text or a call follows
        self._unopened = ""  # text that became a thought because of a closing tag alone
        self._stray = ""  # a marker of calls that nothing has followed yet
        self._was_calling = False
        self._skip_to = ""
        self._thinking = ThoughtMarkup()
        self._calls = CallMarkup("", offered)
        self._extent = JsonExtent()  # of a JSON reply

    def _begin_with(self, text: str, step: Callable[[bool], bool]) -> None:
        self._buffer = text
        self._step = step
        self._plain = False  # only a marker can change the meaning of the next text
        self._fresh = True  # no text since the beginning, or since the last markup
        self._begun = False  # text or calls have come, thoughts aside
        self._after_markup = False
        self._last = " "  # character of the last text event
        self._bare = BareCalls(self._offered)

    def feed(self, text: str) -> list[Event]:
        """Take the next text; returns the events that are certain by now."""
        if self._plain and _MAY_BEGIN_MARKER.search(text) is None:
            # The fast path of nearly every token: no character in it begins a marker.
            if not text:
                return []
            self._last = text[-1]
            return [Text(text)]
        self._buffer += text
        return self._run(final=False)

    def finish(self, *, cut: bool = False) -> list[Event]:
        """Take the end of the reply.

        Args:
            cut: Whether a token limit ended it, so that a thought may be incomplete.

        Returns:
            What was held back: text, calls as far as they were written, or unreadable markup.
        """
        events = self._run(final=True)
        text = "".join(self._assumed_thought or ())
        if text.strip() and not cut:
            # A thought that was only assumed, and never ended, is the answer.
            self._assumed_thought = None
            self._begin_with(text, self._text)
            events = self._run(final=True)
            self.begins_in_thought = False
        if self._unopened and not cut:
            events.append(Text(self._unopened))  # there is no other answer
        if self._stray:
            events.append(Unreadable(self._stray))
        return events

    def typed_thought(self) -> list[Event]:
        """Learn that the server sends thoughts as such; returns the text that was taken for one."""
        self.begins_in_thought = False
        if self._assumed_thought is None:
            return []
        text, self._assumed_thought = "".join(self._assumed_thought) + self._buffer, None
        self._begin_with(text, self._text)
        return self._run(final=False)

    def _run(self, *, final: bool) -> list[Event]:
        # Each step takes text from the buffer, and returns whether there is more to do.
        while (self._buffer or (final and self._step == self._call)) and self._step(final):
            pass
        undecided = self._fresh or self._learns or bool(self._stray)
        self._plain = not self._buffer and not undecided and self._step == self._text
        self.holds = self._kind_of_buffer() if self._buffer else ""
        events, self._events = self._events, []
        return events

    def _kind_of_buffer(self) -> Holds:
        if self._step == self._thought:
            return "thought" if self._thinking.quotes else ""
        in_call = self._calls.inside if self._step == self._call else self._bare.pending
        return "call" if in_call else ""

    # --- text -------------------------------------------------------------------------------------

    def _text(self, final: bool) -> bool:
        if self._fresh:
            if (begun := self._call_without_marker(final)) is not None:
                return begun
            if not self._begun and (data := self._begins_data(final)) is not None:
                return data
        found = _MAY_BEGIN_MARKER.search(self._buffer)
        if found is None or found.start():
            self._emit(found.start() if found else len(self._buffer))
            return True
        marker, grows = marker_at(self._buffer, fences=bool(self._offered))
        if grows and not final:
            return False
        if grows and (marker is None or len(self._buffer) > len(marker.text)):
            self._cut_marker()
        elif marker is not None:
            self._begin(marker)
        else:
            self._emit(1)
        return True

    def _emit(self, length: int) -> None:
        text, self._buffer = self._buffer[:length], self._buffer[length:]
        if self._after_markup:
            if self._last.isspace():
                text = text.lstrip()
            elif self._last in _ENDS and text[:1].isalpha():
                text = " " + text  # only markup separated two sentences
        if not text:
            return
        self._after_markup = False
        self._last = text[-1]
        if not text.isspace():
            self._fresh, self._begun = False, True
        if WORD.search(text) is not None:
            self._settle()
        if self._events and isinstance(last := self._events[-1], Text):
            self._events[-1] = Text(last.text + text)
        else:
            self._events.append(Text(text))

    def _settle(self) -> None:
        """Text or a call has come, which decides what was open before it."""
        self._stray = self._unopened = ""
        if self._learns:
            self._learns = False
            if self.begins_in_thought is None:
                self.begins_in_thought = True

    def _begin(self, marker: Marker) -> None:
        """Continue with the step that a marker begins."""
        if marker.what == "fence":
            self._step = self._fence
            return
        self._buffer = self._buffer[len(marker.text) :]
        self._after_markup = self._fresh = True
        match marker.what:
            case "think":
                self.begins_in_thought = False
                self._thinking = ThoughtMarkup(marker.ends)
                self._step = self._thought
            case "think_end":
                self._end_of_unknown_thought()
            case "skip":
                self._skip_to, self._step = marker.ends[0], self._skip
            case "call":
                self._begin_calls(marker.text)
            case _:
                pass

    def _cut_marker(self) -> None:
        """The reply has ended within what may be a marker."""
        markup, kinds = self._buffer, could_begin(self._buffer)
        if "call" in kinds and len(markup) > 5:
            self._buffer = ""
            self._events.append(Unreadable(shortened(markup)))
        elif kinds and "call" not in kinds and (len(markup) > 2 or markup in ("</", "<|")):
            self._buffer = ""  # a voice would spell it out
        else:
            self._emit(len(markup))

    def _end_of_unknown_thought(self) -> None:
        """A closing tag alone: what came before was a thought, as far as it has not left yet."""
        if self.begins_in_thought is not None or self._learns:
            return  # it is known how this reply began: the tag has no meaning
        self._learns, self._begun, self._last = True, False, " "
        self._unopened = "".join(e.text for e in self._events if isinstance(e, Text))
        self._events = [Thought(e.text) if isinstance(e, Text) else e for e in self._events]

    def _begins_data(self, final: bool) -> bool | None:
        """Read a JSON object at the beginning as data, without markers; None if there is none."""
        text = self._buffer.lstrip()
        if not text.startswith("{"):
            return None
        if _DATA.match(text) is None:
            waits = not final and len(text) < _MAX_BLANKS and not text[1:].strip()
            return False if waits else None
        self._emit(len(self._buffer) - len(text))
        self._extent = JsonExtent()
        self._step = self._data
        return True

    def _data(self, final: bool) -> bool:
        end = self._extent.feed(self._buffer)
        self._emit(len(self._buffer) if end is None else end)
        if end is not None:
            self._step = self._text
        return True

    # --- thoughts and skipped markup --------------------------------------------------------------

    def _maybe_opening_tag(self, final: bool) -> bool:
        """The beginning of a reply that is assumed to begin within a thought."""
        text = self._buffer.lstrip()
        if not text:
            return False
        marker, grows = marker_at(text)
        if grows and not final:
            return False
        if marker is not None and marker.what == "think":
            self._buffer, self._assumed_thought = text, None
            self._begin(marker)
        elif marker is not None and marker.what == "drop":
            self._buffer = text[len(marker.text) :]
        else:
            self._step = self._thought
        return True

    def _thought(self, final: bool) -> bool:
        thought, self._buffer = self._thinking.read(self._buffer, final=final)
        if thought:
            self._events.append(Thought(thought))
            if self._assumed_thought is not None:
                self._assumed_thought.append(thought)
        if not self._thinking.ended:
            return False
        if self._assumed_thought is not None:
            self._assumed_thought = None
            self._learns = self._thinking.ended == "closed"
        self._step = self._text
        self._after_markup = self._fresh = True
        return True

    def _skip(self, final: bool) -> bool:
        end = self._skip_to
        if not end or end not in self._buffer:
            keep = 0 if final or not end else beginning_of((end,), self._buffer)
            self._buffer = self._buffer[len(self._buffer) - keep :]
            return False
        self._buffer = self._buffer.partition(end)[2]
        self._step = self._text
        return True

    # --- calls ------------------------------------------------------------------------------------

    def _begin_calls(self, opener: str) -> None:
        self._was_calling, self.calling = self.calling, True
        self._calls = CallMarkup(opener, self._offered)
        self._step = self._call

    def _call(self, final: bool) -> bool:
        calls = self._calls
        self._buffer = calls.read(self._buffer, final=final)
        if calls.found:
            self._events += calls.found
            self._begun, self._stray = True, ""
            if any(isinstance(each, ToolCall) for each in calls.found):
                self._settle()
            calls.found = []
        if calls.outcome == "pending":
            return False
        self._step = self._text
        self._after_markup = self._fresh = True
        if calls.outcome == "skip":
            self._skip_to, self._step = calls.skip_to, self._skip
        elif calls.outcome == "no_call":
            self._stray, self.calling = calls.opener, self._was_calling
        return True

    def _call_without_marker(self, final: bool) -> bool | None:
        """Begin a call whose marker the server has removed; None if there is none."""
        if not self._offered:
            return None
        text = self._buffer.lstrip()
        if not text:
            return None if final or not self._after_markup else False
        return self._begin_found(self._bare.look(text, final=final), text, "")

    def _fence(self, final: bool) -> bool:
        """A code block that may contain a call."""
        head = _FENCE_HEAD.match(self._buffer)
        body = self._buffer[head.end() :] if head else ""
        if head and not body and not final and head.end() <= _MAX_HEAD:
            return False
        found = self._bare.look_at_json(body, final=final) if body[:1] in ("{", "[") else ""
        begun = self._begin_found(found, body, FENCE.text)
        if begun is None:
            self._step, self._fresh = self._text, False
            self._emit(head.end() if head else len(FENCE.text))
        return begun is not False

    def _begin_found(self, found: Found, text: str, opener: str) -> bool | None:
        """Continue with what was found without a marker."""
        match found:
            case "pending":
                return False
            case "calls":
                self._buffer = text
                self._begin_calls(opener)
            case "cut":
                self._events.append(Unreadable(shortened(opener + text)))
                self._buffer, self._step = "", self._text
            case _:
                return None
        return True
