"""Calls that arrive as text: from the first behind its marker to the text behind the last."""

import re
from collections.abc import Callable, Collection
from typing import Literal

from mistral_service.reply.events import ToolCall, Unreadable
from mistral_service.reply.json_extent import JsonExtent
from mistral_service.reply.markers import CALLS, MAX_MARKUP, marker_at, shown
from mistral_service.reply.written_calls import HEAD, calls_in, offered_name

Then = Literal["waits", "text", "words", "skip"]

_LIST = re.compile(r"\[\s*[\[{\]]")
_A_WORD = re.compile(r'[^\s,;\[\]{}"]+')
_ARGS = "[ARGS]"
_PARTS = ("[CALL_ID]", _ARGS, "()")
_BLANKS = " \t\r\n"
_BETWEEN = _BLANKS + ",;"
_SCRAPS = _BETWEEN + "]}"
_MOST_SCRAPS = 200


class CallMarkup:
    """Reads calls: objects, lists of them, or the newer `name[CALL_ID]id[ARGS]{…}`.

    Attributes:
        found: The calls, and what was unreadable. The reader of the reply empties it.
        opener: The marker.
        then: `waits` for more text, as long as the calls go on. Then what comes is read as `text`;
            as `words`, behind a marker that no call follows; or it is to `skip`.
        skip_to: Where a `skip` ends; empty for the end of the reply.
        inside: Whether what waits belongs to a call.
    """

    def __init__(self, opener: str, offered: Collection[str]) -> None:
        """Prepare for what one marker begins.

        Args:
            opener: The marker; empty where the server has swallowed it.
            offered: The names of the functions that there are.
        """
        self.found: list[ToolCall | Unreadable] = []
        self.then: Then = "waits"
        self.skip_to = ""
        self.opener = opener
        self._offered = offered
        self._held: str = ""
        self._step: Callable[[bool], bool] = self._first
        self._extent = JsonExtent()
        self._depth = 0  # of lists
        self._call: tuple[str | None, str] = (None, "")
        self._any = False  # call was found, or what is unreadable
        self._told = False  # of what is unreadable

    @property
    def inside(self) -> bool:
        """Whether what waits belongs to a call."""
        return self._step != self._more

    def read(self, text: str, *, final: bool) -> str:
        """Read on.

        Args:
            text: What the last reading has left, and what has come since.
            final: Whether this is the end of the reply.

        Returns:
            What is left to read.
        """
        self._held = text
        # Each step takes something from what is held, and says whether there is more to do.
        while self.then == "waits" and self._step(final):
            pass
        if self.then == "waits" and len(self._held) > MAX_MARKUP:
            self._give_up()
        return self._held

    def _first(self, final: bool) -> bool:
        """What stands behind the marker."""
        text = self._held = self._held.lstrip(_BETWEEN)
        if text in ("", '"') or (text[0] == "[" and not text[1:].lstrip(_BLANKS)):
            return self._lacks(final)
        if text[0] == "{":
            self._begin(self._object)
        elif _LIST.match(text):
            self._held, self._depth = text[1:], 1
            self._step = self._list
        elif _ARGS.startswith(text[: len(_ARGS)]):
            # without a name before it
            if len(text) < len(_ARGS):
                return self._lacks(final)
            self._held = text[len(_ARGS) :]
        elif HEAD.match(text):
            self._step = self._head
        else:
            return self._no_call()
        return True

    # --- JSON -------------------------------------------------------------------------------------

    def _object(self, final: bool) -> bool:
        end = self._extent.end(self._held)
        if end is None and not final:
            return False
        markup = self._taken(end)
        calls = calls_in(markup)
        for call in calls:
            self._add(call.id, call.name, call.arguments)
        if not calls:
            self._unreadable(markup)
        self._step = self._list if self._depth else self._more
        return True

    def _list(self, final: bool) -> bool:
        """What follows in a list: its objects are calls as they come, not only when it ends."""
        text = self._held = self._held.lstrip(_BETWEEN + "}" * self._any)
        if not text:
            return self._lacks(final)
        match text[0]:
            case "{":
                self._begin(self._object)
            case "[":
                self._held, self._depth = text[1:], self._depth + 1
            case "]":
                self._held, self._depth = text[1:], self._depth - 1
                if not self._depth:
                    self._step = self._more
                    if not self._any:
                        self._unreadable("[]")
            case _ if self._any:
                self.then = "text"  # a list that was never closed
            case _:
                word = _A_WORD.match(text)
                self._held = text[word.end() if word else 1 :]
                self._unreadable(f"[{text}")
        return True

    # --- the newer form ---------------------------------------------------------------------------

    def _head(self, final: bool) -> bool:
        """A function's name, and what stands before its arguments."""
        text = self._held
        head = HEAD.match(text)
        if head is None:
            return self._no_call()
        name, rest = offered_name(head["name"], self._offered), text[head.end() :]
        meant = name in self._offered or bool(head["form"].strip())
        if rest[:1] == "{" or (rest[:1] == '"' and meant):
            self._call, self._held = (head["id"] or None, name), rest
            self._begin(self._arguments)
            return True
        marker, grows = marker_at(rest) if rest else (None, True)
        # What may still become a marker of this form waits.
        if grows or any(part.startswith(rest) and part != rest for part in _PARTS):
            if not final:
                return False
            rest = rest if marker else ""
        elif marker is None:
            if meant:
                # It was meant for the machine: nothing of what follows is speech.
                self._unreadable(name)
                self._held, self.then = rest, "skip"
                return False
            return self._no_call()
        if not meant and "_" not in name:
            return self._no_call()
        tag = self.opener.startswith("<") and rest.startswith(f"</{self.opener[1:]}")
        self._add(head["id"] or None, name, "{}" if tag else "")
        self._held, self._step = rest, self._more
        return True

    def _arguments(self, final: bool) -> bool:
        end = self._extent.end(self._held)
        if end is None and not final:
            return False
        self._add(*self._call, self._taken(end))
        self._step = self._more
        return True

    # --- behind a call ----------------------------------------------------------------------------

    def _more(self, final: bool) -> bool:
        """Behind a call: another without a marker of its own, or anything else."""
        text = self._held.lstrip(_SCRAPS)
        if not text:
            if final or len(self._held) > _MOST_SCRAPS:
                self._held = ""
            self.then = "text" if final else "waits"
            return False
        if text[0] == "{":
            self._held = text
            self._begin(self._object)
            return True
        marker, grows = marker_at(text, fences=self.opener == "```")
        if grows and not final:
            return False
        if marker is not None and marker.what == "fence":
            text = text[len(marker.text) :]
        elif marker is None and not grows:
            text = self._held.lstrip("]}")  # brackets too many are no words, others may be
        self._held, self.then = text, "text"
        return False

    # --- what each of them does -------------------------------------------------------------------

    def _begin(self, step: Callable[[bool], bool]) -> None:
        self._extent = JsonExtent()
        self._step = step

    def _taken(self, end: int | None) -> str:
        """What is held up to an end; all of it, if the reply has no more."""
        end = len(self._held) if end is None else end
        taken, self._held = self._held[:end], self._held[end:]
        return taken

    def _add(self, call_id: str | None, name: str, arguments: str) -> None:
        self._any = True
        name = offered_name(name, self._offered)
        self.found.append(ToolCall(call_id, name, arguments, written=True))

    def _unreadable(self, markup: str) -> None:
        """Report some markup, once for one marker."""
        if not self._told:
            self._any = self._told = True
            self.found.append(Unreadable(shown(self.opener + markup)))

    def _lacks(self, final: bool) -> bool:
        """Nothing that could be read yet; at the end of the reply, nothing at all."""
        if final:
            if self._held or not self._any:
                self._unreadable(self._held)
            self._held, self.then = "", "text"
        return False

    def _no_call(self) -> bool:
        """A marker that no call follows."""
        if self.opener.startswith("<"):
            self._unreadable("")
            self.then, self.skip_to = "skip", f"</{self.opener[1:]}"
        else:
            self.then = "words" if self.opener == CALLS else "text"
        return False

    def _give_up(self) -> None:
        """Leave out a call that never ends, and what follows it."""
        if self.inside:
            self.found.append(Unreadable(shown(self.opener + self._call[1] + self._held)))
        self._held, self.then = "", "skip"
