"""Markup that arrives as text becomes what it means: a thought, a call, or nothing.

A pure stage between the text of a stream and its events, in whatever pieces the text comes. Text
that only looks like markup leaves unchanged, and a character is held back only as long as it can
still become a marker.
"""

import re
from collections.abc import Callable, Collection

from mistral_service.reply.events import Text, Thought, ToolCall, Unreadable
from mistral_service.reply.json_extent import JsonExtent
from mistral_service.reply.markers import (
    CALLS,
    FIRST,
    THOUGHT_ENDS,
    Marker,
    beginning_of,
    marker_at,
)
from mistral_service.reply.written_calls import HEAD, calls_in, may_be_call, offered_name

Event = Text | Thought | ToolCall | Unreadable

MAX_MARKUP = 65_536
"""Characters that one piece of markup may have; a call of a thousand words has six thousand."""

_SHOWN = 200
_ANY = re.compile(f"[{re.escape(FIRST)}`]")
_JSON_OPENS = re.compile(r"\{|\[\s*[\[{\]]")
_FENCE_HEAD = re.compile(r"```[\w+-]*[ \t]*\n?\s*")
_PARTS = ("[CALL_ID]", "[ARGS]", "()", "</")
_BETWEEN_CALLS = " \t\r\n,;"


class MarkupReader:
    """Reads the text of one reply.

    Attributes:
        calling: Whether a call has begun.
        begins_in_thought: Whether the reply began within a thought without an opening tag; None
            as long as nothing says so or otherwise.
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
        self._offered = offered
        self._held = ""
        self._events: list[Event] = []
        self._assumed: list[str] | None = [] if begins_in_thought else None
        self._step: Callable[[bool], bool] = self._thought if begins_in_thought else self._text
        self._fresh = True  # no words since the beginning, or since the last markup
        self._after_markup = False
        self._blank = True  # what was said last ends in a blank, or nothing was said
        self._skip_to = ""
        self._opener = ""
        self._extent = JsonExtent()

    def feed(self, text: str) -> list[Event]:
        """Take the next text.

        Args:
            text: The text.

        Returns:
            What it means, as far as that is certain.
        """
        plain = not self._held and not self._fresh and self._step == self._text
        if plain and _ANY.search(text) is None:
            # Nearly every token: words without a character that a marker begins with.
            self._blank = text[-1:].isspace()
            return [Text(text)] if text else []
        self._held += text
        return self._run(final=False)

    def finish(self) -> list[Event]:
        """Take the end of the reply.

        Returns:
            What was held back: text, calls as far as they were written, or what is unreadable.
        """
        events = self._run(final=True)
        if self._step == self._call:
            events.append(Unreadable(self._opener))  # and nothing behind it
        if self._assumed is not None and (text := "".join(self._assumed)):
            # The thought that never ended was the answer.
            self._assumed, self.begins_in_thought = None, False
            events.append(Text(text))
        return events

    def typed_thought(self) -> None:
        """Take note that the server tells thoughts from text itself."""
        if self._assumed is not None and self._step == self._thought:
            self._assumed, self._step = None, self._text
            self.begins_in_thought = False

    def _run(self, *, final: bool) -> list[Event]:
        # Each step takes something from what is held, and says whether there is more to do.
        while self._held and self._step(final):
            pass
        events, self._events = self._events, []
        return events

    # --- text -------------------------------------------------------------------------------------

    def _text(self, final: bool) -> bool:
        if self._fresh and (begun := self._call_without_marker(final)) is not None:
            return begun
        found = _ANY.search(self._held)
        if found is None or found.start():
            self._say(found.start() if found else len(self._held))
            return True
        marker, grows = marker_at(self._held, fences=bool(self._offered))
        if grows and not final:
            return False
        if marker is not None:
            self._begin(marker)
        elif final and grows and (len(self._held) > 2 or self._held[1:] in ("/", "|")):
            # A marker that was cut, which a voice would spell.
            self._unreadable(len(self._held))
        else:
            self._say(1)
        return True

    def _say(self, length: int) -> None:
        text, self._held = self._held[:length], self._held[length:]
        if self._after_markup and self._blank:
            text = text.lstrip()
        if not text:
            return
        self._after_markup = False
        self._blank = text[-1].isspace()
        self._fresh = self._fresh and text.isspace()
        if self._events and isinstance(last := self._events[-1], Text):
            self._events[-1] = Text(last.text + text)
        else:
            self._events.append(Text(text))

    def _begin(self, marker: Marker) -> None:
        """Go on with what a marker begins."""
        if marker.what == "fence":
            self._extent = JsonExtent()
            self._step = self._fence
            return
        self._held = self._held[len(marker.text) :]
        self._after_markup = self._fresh = True
        match marker.what:
            case "think":
                self._step = self._thought
            case "think_end":
                self._end_of_unknown_thought()
            case "skip":
                self._skip_to, self._step = marker.end, self._skip
            case "call":
                self._begin_calls(marker.text)
            case _:
                pass

    def _end_of_unknown_thought(self) -> None:
        """What came before was a thought: what was not given away yet is known as one."""
        if self.begins_in_thought is None:
            self.begins_in_thought = True
        self._blank = True
        self._events = [Thought(e.text) if isinstance(e, Text) else e for e in self._events]

    # --- thoughts and what is skipped -------------------------------------------------------------

    def _thought(self, final: bool) -> bool:
        ends = (*THOUGHT_ENDS, CALLS)
        places = [(at, end) for end in ends if (at := self._held.find(end)) >= 0]
        if not places:
            keep = 0 if final else beginning_of(ends, self._held)
            self._think(len(self._held) - keep)
            return False
        at, end = min(places)
        self._think(at)
        if self._assumed is not None:
            self._assumed, self.begins_in_thought = None, True
        self._step = self._text
        self._after_markup = self._fresh = True
        if end != CALLS:
            self._held = self._held[len(end) :]
        return True

    def _think(self, length: int) -> None:
        text, self._held = self._held[:length], self._held[length:]
        if not text:
            return
        if self._assumed is not None:
            self._assumed.append(text)
        self._events.append(Thought(text))

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
        self.calling = True
        self._opener, self._extent = opener, JsonExtent()
        self._step = self._call

    def _call(self, final: bool) -> bool:
        """One call, or a list of calls, after a marker."""
        self._held = text = self._held.lstrip(_BETWEEN_CALLS)
        if len(text) > MAX_MARKUP:
            self._unreadable(len(text))
            self._skip_to, self._step = "", self._skip
            return False
        if not text or text.split() == ["["]:
            return final and bool(text) and self._take(text, [])
        if _JSON_OPENS.match(text):
            end = self._extent.end(text)
            if end is None and not final:
                return False
            return self._take(text[:end], calls_in(text[:end]))
        return self._named_call(text, final)

    def _named_call(self, text: str, final: bool) -> bool:
        """A call in the form of the newer tokenizers: `name[CALL_ID]id[ARGS]{…}`."""
        head = HEAD.match(text)
        if head is None:
            return self._not_a_call(text)
        rest = text[head.end() :]
        # What may still become a marker of this form waits, as do arguments without an end.
        waits = any(part.startswith(rest) and part != rest for part in _PARTS)
        if not waits and rest[0] not in '{"':
            return self._not_a_call(text, head["name"], closed=rest.startswith("</"))
        end = None if waits else self._extent.end(rest)
        if end is None and not final:
            return False
        arguments = rest[:end]
        call = ToolCall(head["id"] or None, head["name"], arguments)
        return self._take(text[: head.end()] + arguments, [call])

    def _take(self, markup: str, calls: list[ToolCall]) -> bool:
        """Take some markup as calls; without any, as unreadable."""
        self._held = self._held[len(markup) :]
        if calls:
            self._events += [
                ToolCall(call.id, offered_name(call.name, self._offered), call.arguments)
                for call in calls
            ]
        else:
            self._events.append(Unreadable(_shown(self._opener + markup)))
        self._extent = JsonExtent()
        self._after_markup = self._fresh = True
        self._step = self._more_calls
        return True

    def _more_calls(self, final: bool) -> bool:
        """What follows a call: another one without a marker of its own, or anything else."""
        text = self._held.lstrip(_BETWEEN_CALLS)
        if not text and not final:
            return False
        if text.startswith("{"):
            self._held, self._step = text, self._call
        else:
            self._step = self._text
        return True

    def _not_a_call(self, text: str, name: str = "", *, closed: bool = False) -> bool:
        """A marker with no arguments behind it."""
        meant = offered_name(name, self._offered) in self._offered
        if meant and closed:
            return self._take(text[: len(name)], [ToolCall(None, name, "")])
        self._events.append(Unreadable(self._opener + name * meant))
        self._step = self._text
        if meant:
            # It was meant for the machine: nothing of it is speech.
            self._skip_to, self._step = "", self._skip
        elif self._opener.startswith("<"):
            self._skip_to, self._step = "</" + self._opener[1:], self._skip
        return True

    def _unreadable(self, length: int) -> None:
        markup, self._held = self._held[:length], self._held[length:]
        self._events.append(Unreadable(_shown(markup)))

    # --- calls without a marker, where functions are offered --------------------------------------

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
        if text[0] in "{[":
            found = self._json_call(text, final)
            if isinstance(found, bool):
                return False if found else None
            self._held, self._opener, self.calling = text, "", True
            return self._take(*found)
        for name in self._offered:
            if name.startswith(text):
                if not final:
                    return False
            elif text.startswith(name):
                rest = text[len(name) :]
                if rest.startswith(("{", *_PARTS[:2])):
                    self._held = text
                    self._begin_calls("")
                    return True
                if not final and any(m.startswith(rest) for m in _PARTS[:2]):
                    return False
        return None

    def _json_call(self, text: str, final: bool) -> tuple[str, list[ToolCall]] | bool:
        """Calls in bare JSON: the text and its calls; True to wait, False where it is no call."""
        end = None
        if may_be_call(text, self._offered) and len(text) <= MAX_MARKUP:
            end = self._extent.end(text)
            if end is None and not final:
                return True
        self._extent = JsonExtent()
        calls = [] if end is None else calls_in(text[:end])
        known = (offered_name(call.name, self._offered) in self._offered for call in calls)
        return (text[:end], calls) if calls and all(known) else False

    def _fence(self, final: bool) -> bool:
        """A block of code that may hold a call."""
        head = _FENCE_HEAD.match(self._held)
        body = self._held[head.end() :] if head else ""
        if head and not body and not final:
            return False
        found = self._json_call(body, final) if body[:1] in ("{", "[") else False
        if found is True:
            return False
        if found is False or head is None:
            self._step, self._fresh = self._text, False
            self._say(head.end() if head else 3)
            return True
        self._held, self._opener, self.calling = body, "```", True
        self._take(*found)
        self._step = self._end_of_fence
        return True

    def _end_of_fence(self, final: bool) -> bool:
        text = self._held.lstrip()
        if not final and "```".startswith(text):
            return False
        self._held = text.removeprefix("```")
        self._step = self._text
        return True


def _shown(markup: str) -> str:
    return markup if len(markup) <= _SHOWN else markup[: _SHOWN - 1] + "…"
