"""Parses calls that arrive as text: from the marker to the text after the last call."""

import re
from collections.abc import Callable, Collection
from typing import Literal

from mistral_service.reply.events import ToolCall, Unreadable
from mistral_service.reply.json_extent import JsonExtent
from mistral_service.reply.markers import CALLS, MAX_MARKUP, marker_at, shortened
from mistral_service.reply.written_calls import HEAD, calls_in, offered_name

Outcome = Literal["pending", "text", "no_call", "skip"]

_LIST = re.compile(r"\[\s*[\[{\]]")
_A_WORD = re.compile(r'[^\s,;\[\]{}"]+')
_ARGS = "[ARGS]"
_PARTS = ("[CALL_ID]", _ARGS, "()")
_BLANKS = " \t\r\n"
_BETWEEN = _BLANKS + ",;"
_SCRAPS = _BETWEEN + "]}"
_MAX_SCRAPS = 200


class CallMarkup:
    """Reads calls: objects, lists of them, or the newer `name[CALL_ID]id[ARGS]{…}`.

    Attributes:
        found: The calls, and unreadable markup. The caller takes them out.
        opener: The marker; empty where the server has removed it.
        outcome: `pending` while more calls may follow. Then: `text` follows; or the marker was
            `no_call`, and text follows; or what follows has to be `skip`ped.
        skip_to: Where a `skip` ends; empty for the end of the reply.
    """

    def __init__(self, opener: str, offered: Collection[str]) -> None:
        self.found: list[ToolCall | Unreadable] = []
        self.outcome: Outcome = "pending"
        self.skip_to = ""
        self.opener = opener
        self._offered = offered
        self._buffer: str = ""
        self._step: Callable[[bool], bool] = self._first
        self._extent = JsonExtent()
        self._depth = 0  # of lists
        self._call: tuple[str | None, str] = (None, "")
        self._any = False  # a call or unreadable markup was found
        self._reported = False  # unreadable markup

    @property
    def inside(self) -> bool:
        """Whether the pending text belongs to a call."""
        return self._step != self._more

    def read(self, text: str, *, final: bool) -> str:
        """Parse what the last call returned and the text that has arrived since.

        Returns:
            The text that is not parsed yet.
        """
        self._buffer = text
        # Each step takes text from the buffer, and returns whether there is more to do.
        while self.outcome == "pending" and self._step(final):
            pass
        if self.outcome == "pending" and len(self._buffer) > MAX_MARKUP:
            self._give_up()
        return self._buffer

    def _first(self, final: bool) -> bool:
        """The text after the marker."""
        text = self._buffer = self._buffer.lstrip(_BETWEEN)
        if text in ("", '"') or (text[0] == "[" and not text[1:].lstrip(_BLANKS)):
            return self._incomplete(final)
        if text[0] == "{":
            self._begin(self._object)
        elif _LIST.match(text):
            self._buffer, self._depth = text[1:], 1
            self._step = self._list
        elif _ARGS.startswith(text[: len(_ARGS)]):
            # without a name in front
            if len(text) < len(_ARGS):
                return self._incomplete(final)
            self._buffer = text[len(_ARGS) :]
        elif HEAD.match(text):
            self._step = self._head
        else:
            return self._no_call()
        return True

    # --- JSON -------------------------------------------------------------------------------------

    def _object(self, final: bool) -> bool:
        end = self._extent.end(self._buffer)
        if end is None and not final:
            return False
        markup = self._take(end)
        calls = calls_in(markup)
        for call in calls:
            self._add(call.id, call.name, call.arguments)
        if not calls:
            self._unreadable(markup)
        self._step = self._list if self._depth else self._more
        return True

    def _list(self, final: bool) -> bool:
        """The next item of a list: each object is a call as soon as it is complete."""
        text = self._buffer = self._buffer.lstrip(_BETWEEN + "}" * self._any)
        if not text:
            return self._incomplete(final)
        match text[0]:
            case "{":
                self._begin(self._object)
            case "[":
                self._buffer, self._depth = text[1:], self._depth + 1
            case "]":
                self._buffer, self._depth = text[1:], self._depth - 1
                if not self._depth:
                    self._step = self._more
                    if not self._any:
                        self._unreadable("[]")
            case _ if self._any:
                self.outcome = "text"  # the list was never closed
            case _:
                word = _A_WORD.match(text)
                self._buffer = text[word.end() if word else 1 :]
                self._unreadable(f"[{text}")
        return True

    # --- the newer form ---------------------------------------------------------------------------

    def _head(self, final: bool) -> bool:
        """A function's name, and what follows up to its arguments."""
        text = self._buffer
        head = HEAD.match(text)
        if head is None:
            return self._no_call()
        name, rest = offered_name(head["name"], self._offered), text[head.end() :]
        meant = name in self._offered or bool(head["form"].strip())
        if rest[:1] == "{" or (rest[:1] == '"' and meant):
            self._call, self._buffer = (head["id"] or None, name), rest
            self._begin(self._arguments)
            return True
        marker, grows = marker_at(rest) if rest else (None, True)
        # Wait for what may still become a marker of this form.
        if grows or any(part.startswith(rest) and part != rest for part in _PARTS):
            if not final:
                return False
            rest = rest if marker else ""
        elif marker is None:
            if meant:
                # It was meant as a call: nothing of what follows is speech.
                self._unreadable(name)
                self._buffer, self.outcome = rest, "skip"
                return False
            return self._no_call()
        if not meant and "_" not in name:
            return self._no_call()
        tag = self.opener.startswith("<") and rest.startswith(f"</{self.opener[1:]}")
        self._add(head["id"] or None, name, "{}" if tag else "")
        self._buffer, self._step = rest, self._more
        return True

    def _arguments(self, final: bool) -> bool:
        end = self._extent.end(self._buffer)
        if end is None and not final:
            return False
        self._add(*self._call, self._take(end))
        self._step = self._more
        return True

    # --- after a call -----------------------------------------------------------------------------

    def _more(self, final: bool) -> bool:
        """After a call: another one without a marker, or anything else."""
        text = self._buffer.lstrip(_SCRAPS)
        if not text:
            if final or len(self._buffer) > _MAX_SCRAPS:
                self._buffer = ""
            self.outcome = "text" if final else "pending"
            return False
        if text[0] == "{":
            self._buffer = text
            self._begin(self._object)
            return True
        marker, grows = marker_at(text, fences=self.opener == "```")
        if grows and not final:
            return False
        if marker is not None and marker.what == "fence":
            text = text[len(marker.text) :]
        elif marker is None and not grows:
            # Surplus closing brackets are no text, other characters may be.
            text = self._buffer.lstrip("]}")
        self._buffer, self.outcome = text, "text"
        return False

    # --- helpers ----------------------------------------------------------------------------------

    def _begin(self, step: Callable[[bool], bool]) -> None:
        self._extent = JsonExtent()
        self._step = step

    def _take(self, end: int | None) -> str:
        """Take the buffer up to an end; all of it, if the reply has ended."""
        end = len(self._buffer) if end is None else end
        markup, self._buffer = self._buffer[:end], self._buffer[end:]
        return markup

    def _add(self, call_id: str | None, name: str, arguments: str) -> None:
        self._any = True
        name = offered_name(name, self._offered)
        self.found.append(ToolCall(call_id, name, arguments, written=True))

    def _unreadable(self, markup: str) -> None:
        """Report unreadable markup, once for each marker."""
        if not self._reported:
            self._any = self._reported = True
            self.found.append(Unreadable(shortened(self.opener + markup)))

    def _incomplete(self, final: bool) -> bool:
        """The buffer cannot be parsed yet; at the end of the reply, it is unreadable."""
        if final:
            if self._buffer or not self._any:
                self._unreadable(self._buffer)
            self._buffer, self.outcome = "", "text"
        return False

    def _no_call(self) -> bool:
        """A marker that no call follows."""
        if self.opener.startswith("<"):
            self._unreadable("")
            self.outcome, self.skip_to = "skip", f"</{self.opener[1:]}"
        else:
            self.outcome = "no_call" if self.opener == CALLS else "text"
        return False

    def _give_up(self) -> None:
        """Leave out a call that exceeds the limit, and what follows it."""
        if self.inside:
            self.found.append(Unreadable(shortened(self.opener + self._call[1] + self._buffer)))
        self._buffer, self.outcome = "", "skip"
