"""Markup that arrives as text becomes what it means: a thought, a call, or nothing.

A pure stage between the text of a stream and its events, in whatever pieces the text comes. Text
that only looks like markup leaves unchanged, and a character is held back only as long as it can
still become a marker. Thoughts are read in `reply/thought_markup.py`, calls in
`reply/call_markup.py`.
"""

import re
from collections.abc import Callable, Collection
from typing import Literal

from mistral_service.reply.bare_calls import BareCalls, Found
from mistral_service.reply.call_markup import CallMarkup
from mistral_service.reply.events import Text, Thought, ToolCall, Unreadable
from mistral_service.reply.json_extent import JsonExtent
from mistral_service.reply.markers import (
    FENCE,
    FIRST,
    Marker,
    beginning_of,
    could_begin,
    marker_at,
    shown,
)
from mistral_service.reply.thought_markup import ThoughtMarkup

Event = Text | Thought | ToolCall | Unreadable

Holds = Literal["", "thought", "call"]

WORD = re.compile(r"[^\W_]")
"""A letter or a digit, in any script."""

_ANY = re.compile(f"[{re.escape(FIRST)}`]")
_FENCE_HEAD = re.compile(r"```[ \t]*[\w+-]*[ \t]*\n?\s*")
_MOST_HEAD = 200
_DATA = re.compile(r'\{\s*["}]')
_MOST_BLANKS = 64
_ENDS = ".!?…"


class MarkupReader:
    """Reads the text of one reply.

    Attributes:
        calling: Whether a call has begun.
        begins_in_thought: Whether the reply began within a thought without an opening tag; None
            as long as nothing says so or otherwise.
        holds: What is probably held back after the last text: a thought, a call, or neither.
    """

    def __init__(self, offered: Collection[str] = (), *, begins_in_thought: bool = False) -> None:
        """Prepare for one reply.

        Args:
            offered: The names of the functions that the request offers, as they are sent.
            begins_in_thought: Whether the reply begins within a thought whose opening tag the
                template has written. If its end never comes, it was no thought.
        """
        self.calling = False
        self.begins_in_thought: bool | None = None
        self.holds: Holds = ""
        self._offered = offered
        self._events: list[Event] = []
        self._assumed: list[str] | None = [] if begins_in_thought else None
        self._begin_with("", self._perhaps_opened if begins_in_thought else self._text)
        self._learns = False  # that the reply began in a thought, once words follow
        self._unopened = ""  # what was taken for a thought because of its end alone
        self._stray = ""  # a marker of calls, behind which there are neither calls nor words yet
        self._was_calling = False
        self._skip_to = ""
        self._thinking = ThoughtMarkup()
        self._calls = CallMarkup("", offered)
        self._extent = JsonExtent()  # of data

    def _begin_with(self, text: str, step: Callable[[bool], bool]) -> None:
        self._held = text
        self._step = step
        self._plain = False  # nothing but a marker can change what the next text means
        self._fresh = True  # no words since the beginning, or since the last markup
        self._begun = False  # words or calls, thoughts apart
        self._after_markup = False
        self._last = " "  # character that was said
        self._bare = BareCalls(self._offered)

    def feed(self, text: str) -> list[Event]:
        """Take the next text.

        Args:
            text: The text.

        Returns:
            What it means, as far as that is certain.
        """
        if self._plain and _ANY.search(text) is None:
            # Nearly every token: words without a character that a marker begins with.
            if not text:
                return []
            self._last = text[-1]
            return [Text(text)]
        self._held += text
        return self._run(final=False)

    def finish(self, *, cut: bool = False) -> list[Event]:
        """Take the end of the reply.

        Args:
            cut: Whether a limit ended it, so that a thought may have gone on.

        Returns:
            What was held back: text, calls as far as they were written, or what is unreadable.
        """
        events = self._run(final=True)
        if self._assumed is not None and not cut and (text := "".join(self._assumed)).strip():
            # The thought that never ended was the answer.
            self._assumed = None
            self._begin_with(text, self._text)
            events = self._run(final=True)
            self.begins_in_thought = False
        if self._unopened and not cut:
            events.append(Text(self._unopened))  # for there is no other answer
        if self._stray:
            events.append(Unreadable(self._stray))
        return events

    def typed_thought(self) -> list[Event]:
        """Take note that the server tells thoughts from text itself.

        Returns:
            What was assumed to be a thought because no opening tag was expected, and is none.
        """
        self.begins_in_thought = False
        if self._assumed is None:
            return []
        text, self._assumed = "".join(self._assumed) + self._held, None
        self._begin_with(text, self._text)
        return self._run(final=False)

    def _run(self, *, final: bool) -> list[Event]:
        # Each step takes something from what is held, and says whether there is more to do.
        while (self._held or (final and self._step == self._call)) and self._step(final):
            pass
        waits_for_words = self._fresh or self._learns or bool(self._stray)
        self._plain = not self._held and not waits_for_words and self._step == self._text
        self.holds = self._what_is_held() if self._held else ""
        events, self._events = self._events, []
        return events

    def _what_is_held(self) -> Holds:
        if self._step == self._thought:
            return "thought" if self._thinking.quotes else ""
        called = self._calls.inside if self._step == self._call else self._bare.waits
        return "call" if called else ""

    # --- text -------------------------------------------------------------------------------------

    def _text(self, final: bool) -> bool:
        if self._fresh:
            if (begun := self._call_without_marker(final)) is not None:
                return begun
            if not self._begun and (data := self._begins_data(final)) is not None:
                return data
        found = _ANY.search(self._held)
        if found is None or found.start():
            self._say(found.start() if found else len(self._held))
            return True
        marker, grows = marker_at(self._held, fences=bool(self._offered))
        if grows and not final:
            return False
        if grows and (marker is None or len(self._held) > len(marker.text)):
            self._cut_marker()
        elif marker is not None:
            self._begin(marker)
        else:
            self._say(1)
        return True

    def _say(self, length: int) -> None:
        text, self._held = self._held[:length], self._held[length:]
        if self._after_markup:
            if self._last.isspace():
                text = text.lstrip()
            elif self._last in _ENDS and text[:1].isalpha():
                text = " " + text  # words of two sentences, between which only markup stood
        if not text:
            return
        self._after_markup = False
        self._last = text[-1]
        if not text.isspace():
            self._fresh, self._begun = False, True
        if WORD.search(text) is not None:
            self._leads_on()
        if self._events and isinstance(last := self._events[-1], Text):
            self._events[-1] = Text(last.text + text)
        else:
            self._events.append(Text(text))

    def _leads_on(self) -> None:
        """Words or a call have come, which settles what was left open before them."""
        self._stray = self._unopened = ""
        if self._learns:
            self._learns = False
            if self.begins_in_thought is None:
                self.begins_in_thought = True

    def _begin(self, marker: Marker) -> None:
        """Go on with what a marker begins."""
        if marker.what == "fence":
            self._step = self._fence
            return
        self._held = self._held[len(marker.text) :]
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
        """What may have become a marker, had the reply not ended."""
        markup, kinds = self._held, could_begin(self._held)
        if "call" in kinds and len(markup) > 5:
            self._held = ""
            self._events.append(Unreadable(shown(markup)))
        elif kinds and "call" not in kinds and (len(markup) > 2 or markup in ("</", "<|")):
            self._held = ""  # a voice would spell it
        else:
            self._say(len(markup))

    def _end_of_unknown_thought(self) -> None:
        """What came before was a thought: what was not given away yet is known as one."""
        if self.begins_in_thought is not None or self._learns:
            return  # this reply has told otherwise, so that it is a marker without a meaning
        self._learns, self._begun, self._last = True, False, " "
        self._unopened = "".join(e.text for e in self._events if isinstance(e, Text))
        self._events = [Thought(e.text) if isinstance(e, Text) else e for e in self._events]

    def _begins_data(self, final: bool) -> bool | None:
        """A reply that begins as a JSON object is data, in which markers are as they stand.

        Returns:
            As a step does; None where it is none.
        """
        text = self._held.lstrip()
        if not text.startswith("{"):
            return None
        if _DATA.match(text) is None:
            waits = not final and len(text) < _MOST_BLANKS and not text[1:].strip()
            return False if waits else None
        self._say(len(self._held) - len(text))
        self._extent = JsonExtent()
        self._step = self._data
        return True

    def _data(self, final: bool) -> bool:
        end = self._extent.feed(self._held)
        self._say(len(self._held) if end is None else end)
        if end is not None:
            self._step = self._text
        return True

    # --- thoughts and what is skipped -------------------------------------------------------------

    def _perhaps_opened(self, final: bool) -> bool:
        """The beginning of a reply that is expected to begin within a thought."""
        text = self._held.lstrip()
        if not text:
            return False
        marker, grows = marker_at(text)
        if grows and not final:
            return False
        if marker is not None and marker.what == "think":
            self._held, self._assumed = text, None
            self._begin(marker)
        elif marker is not None and marker.what == "drop":
            self._held = text[len(marker.text) :]
        else:
            self._step = self._thought
        return True

    def _thought(self, final: bool) -> bool:
        thought, self._held = self._thinking.read(self._held, final=final)
        if thought:
            self._events.append(Thought(thought))
            if self._assumed is not None:
                self._assumed.append(thought)
        if not self._thinking.ended:
            return False
        if self._assumed is not None:
            self._assumed = None
            self._learns = self._thinking.ended == "closed"
        self._step = self._text
        self._after_markup = self._fresh = True
        return True

    def _skip(self, final: bool) -> bool:
        at = self._held.find(self._skip_to) if self._skip_to else -1
        if at < 0:
            ends = (self._skip_to,) if self._skip_to else ()
            keep = 0 if final or not ends else beginning_of(ends, self._held)
            self._held = self._held[len(self._held) - keep :]
            return False
        self._held = self._held[at + len(self._skip_to) :]
        self._step = self._text
        return True

    # --- calls ------------------------------------------------------------------------------------

    def _begin_calls(self, opener: str) -> None:
        self._was_calling, self.calling = self.calling, True
        self._calls = CallMarkup(opener, self._offered)
        self._step = self._call

    def _call(self, final: bool) -> bool:
        calls = self._calls
        self._held = calls.read(self._held, final=final)
        if calls.found:
            self._events += calls.found
            self._begun, self._stray = True, ""
            if any(isinstance(each, ToolCall) for each in calls.found):
                self._leads_on()
            calls.found = []
        if calls.then == "waits":
            return False
        self._step = self._text
        self._after_markup = self._fresh = True
        if calls.then == "skip":
            self._skip_to, self._step = calls.skip_to, self._skip
        elif calls.then == "words":
            self._stray, self.calling = calls.opener, self._was_calling
        return True

    def _call_without_marker(self, final: bool) -> bool | None:
        """A reply that begins with a call, whose marker the server has swallowed.

        Returns:
            As a step does; None where it is no call.
        """
        if not self._offered:
            return None
        text = self._held.lstrip()
        if not text:
            return None if final or not self._after_markup else False
        return self._begin_found(self._bare.look(text, final=final), text, "")

    def _fence(self, final: bool) -> bool:
        """A block of code that may hold a call."""
        head = _FENCE_HEAD.match(self._held)
        body = self._held[head.end() :] if head else ""
        if head and not body and not final and head.end() <= _MOST_HEAD:
            return False
        found = self._bare.look_at_json(body, final=final) if body[:1] in ("{", "[") else ""
        begun = self._begin_found(found, body, FENCE.text)
        if begun is None:
            self._step, self._fresh = self._text, False
            self._say(head.end() if head else len(FENCE.text))
        return begun is not False

    def _begin_found(self, found: Found, text: str, opener: str) -> bool | None:
        """Go on with what was found without a marker of its own."""
        match found:
            case "waits":
                return False
            case "calls":
                self._held = text
                self._begin_calls(opener)
            case "half":
                self._events.append(Unreadable(shown(opener + text)))
                self._held, self._step = "", self._text
            case _:
                return None
        return True
