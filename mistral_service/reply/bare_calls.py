"""Detects calls whose marker the server has removed, where functions are offered."""

from collections.abc import Collection
from typing import Literal

from mistral_service.reply.json_extent import JsonExtent
from mistral_service.reply.markers import MAX_MARKUP
from mistral_service.reply.written_calls import calls_in, is_answer, may_be_call, offered_name

Found = Literal["", "pending", "calls", "cut"]
"""Nothing; what may become a call; calls; or a call that was cut before its function's name."""

_ARGUMENTS_FOLLOW = ("[CALL_ID]", "[ARGS]")


class BareCalls:
    """Distinguishes a call from text by its form and by its function's name.

    Attributes:
        pending: Whether the text of the last look is JSON that may become a call.
    """

    def __init__(self, offered: Collection[str]) -> None:
        """Prepare for one reply.

        Args:
            offered: The names of the functions that the request offers.
        """
        self.pending = False
        self._offered = offered
        self._extent = JsonExtent()

    def look(self, text: str, *, final: bool) -> Found:
        """Look at the beginning of a reply, or of what follows markup.

        Args:
            text: The text from its first non-blank character on; while it is pending, it only
                grows.
            final: Whether this is the end of the reply.
        """
        self.pending = False
        if text[0] in "{[":
            return self.look_at_json(text, final=final)
        for name in self._offered:
            if name.startswith(text):
                if not final:
                    return "pending"
            elif text.startswith(name):
                rest = text[len(name) :].lstrip(" ")
                if rest.startswith(("{", *_ARGUMENTS_FOLLOW)):
                    return "calls"
                if any(marker.startswith(rest) for marker in _ARGUMENTS_FOLLOW):
                    if not final:
                        return "pending"
                    if len(rest) > 2:
                        return "calls"  # without arguments, which were cut
        return ""

    def look_at_json(self, text: str, *, final: bool) -> Found:
        """Look at JSON, as `look` does: an object, or a list, whose first object decides."""
        may_be = may_be_call(text, self._offered)
        begin = text.find("{")
        value = text[begin:] if begin >= 0 else ""
        end = self._extent.end(value) if may_be and value else None
        if may_be and end is None and not final and len(text) <= MAX_MARKUP:
            self.pending = True
            return "pending"
        self.pending, self._extent = False, JsonExtent()
        if not may_be or not value:
            return ""
        names = [offered_name(call.name, self._offered) for call in calls_in(value[:end])]
        if names and all(name in self._offered for name in names):
            return "calls"
        cut = end is None and final and '"' in value and not is_answer(value)
        return "cut" if cut else ""
