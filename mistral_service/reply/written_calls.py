"""Function calls as models write them: as JSON, with variants of the function's name.

`BareCalls` detects those whose marker the server has removed, where functions are offered.
"""

import json
import re
from collections.abc import Collection
from typing import Any, Literal, cast

from mistral_service.reply.events import ToolCall
from mistral_service.reply.json_extent import JsonExtent
from mistral_service.reply.markers import MAX_MARKUP

Found = Literal["", "pending", "calls", "cut"]
"""Nothing; what may become a call; calls; or a call that was cut before its function's name."""

HEAD = re.compile(
    r'"?(?P<name>[\w.\-/:]{1,128})"?(?:\(\))?\s*'
    r"(?P<form>(?:\[CALL_ID\]\s*(?P<id>[\w\-]{0,64})\s*)?(?:\[ARGS\])?)\s*"
)
"""What precedes the arguments of a call with tokenizers v11 and later."""

_ARGUMENTS_FOLLOW = ("[CALL_ID]", "[ARGS]")
_NAMES = ("name", "function_name", "tool_name", "tool")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_FIRST_KEYS = frozenset({*_NAMES, *_ARGUMENTS, "function", "type", "id", "tool_calls", "index"})
_FIRST_KEY = re.compile(r'\[?\s*\{\s*"([^"\\]*)("?)')
_FIRST_NAME = re.compile(r'\[?\s*\{\s*"(?:' + "|".join(_NAMES) + r')"\s*:\s*"([^"\\]*)("?)')
_NAMED = re.compile(r'"(?:' + "|".join(_NAMES) + r')"\s*:\s*"([^"\\]{1,128})"')
_OF_A_CALL = frozenset({*_NAMES, "id", "type", "function", "index"})
_NEXT_KEY = re.compile(r'\s*,\s*"([^"\\]*)"\s*:')
_ARGUMENTS_KEY = re.compile(r'"(?:' + "|".join(_ARGUMENTS) + r')"\s*:')
_PREFIX = re.compile(r"(?:functions?|tools?|default_api)[.:/]\s*")


def offered_name(name: str, offered: Collection[str]) -> str:
    """The offered function to which a name refers; if none, the name as written, stripped."""
    stripped = name.strip()
    if name in offered:
        return name
    for spelling in (stripped, stripped.removesuffix("()").strip()):
        for candidate in (spelling, _PREFIX.sub("", spelling, count=1)):
            if candidate in offered:
                return candidate
    return stripped


def calls_in(text: str) -> list[ToolCall]:
    """The calls in a JSON text: an object, or a list of objects; none in any other.

    A text that is no JSON, but names a function, is a call with that text as its arguments, so that
    the model reads what is wrong with it.
    """
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        named = _NAMED.search(text)
        return [ToolCall(None, named[1], text)] if named and not _is_answer(text) else []
    return _calls_of(value)


def _is_answer(text: str) -> bool:
    """Whether broken JSON has a name, but other keys than those of a call next to it."""
    named = _NAMED.search(text)
    if named is None or _ARGUMENTS_KEY.search(text):
        return False
    beside = _NEXT_KEY.match(text, named.end())
    return beside is not None and beside[1] not in _OF_A_CALL


def _may_be_call(text: str, offered: Collection[str]) -> bool:
    """Whether a text that begins with a bracket may become a call."""
    first = _FIRST_NAME.match(text)
    if first is not None:
        name, complete = first[1], first[2]
        if complete:
            return offered_name(name, offered) in offered
        return any(each.startswith(name.strip()) for each in offered) or bool(
            _PREFIX.match(name) or "functions.".startswith(name.strip())
        )
    key = _FIRST_KEY.match(text)
    if key is None:
        # Only brackets and blanks so far, or no key follows them.
        return re.fullmatch(r"\[?\s*(\{\s*)?", text) is not None
    if key[2]:
        return key[1] in _FIRST_KEYS
    return any(each.startswith(key[1]) for each in _FIRST_KEYS)


def _calls_of(value: object) -> list[ToolCall]:
    if isinstance(value, list):
        found = [_calls_of(item) for item in cast("list[object]", value)]
        return [call for calls in found for call in calls] if all(found) else []
    if not isinstance(value, dict):
        return []
    written = cast("dict[str, Any]", value)
    if isinstance(written.get("tool_calls"), list):
        return _calls_of(written["tool_calls"])
    call_id = written.get("id")
    inner: object = written.get("function")
    function = cast("dict[str, Any]", inner) if isinstance(inner, dict) else written
    names: list[object] = [function[key] for key in _NAMES if key in function]
    name = names[0] if names else written.get("function")
    if not isinstance(name, str) or not name.strip():
        return []
    given = [each[key] for each in (function, written) for key in _ARGUMENTS if key in each]
    if not given and not _OF_A_CALL.issuperset(function):
        return []  # an object that has a name, but is no call
    arguments: object = given[0] if given else None
    if arguments is None:
        text = "{}"
    elif isinstance(arguments, str):
        text = arguments
    else:
        text = json.dumps(arguments, ensure_ascii=False)
    return [ToolCall(call_id if isinstance(call_id, str) and call_id else None, name, text)]


class BareCalls:
    """Distinguishes a call from text by its form and by its function's name."""

    def __init__(self, offered: Collection[str]) -> None:
        self.pending = False  # the text of the last look is JSON that may become a call
        self._offered = offered
        self._extent = JsonExtent()

    def look(self, text: str, *, final: bool) -> Found:
        """Look at the beginning of a reply, or of what follows markup, from its first character.

        While the text is pending, it only grows; `final` is the end of the reply.
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
        may_be = _may_be_call(text, self._offered)
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
        cut = end is None and final and '"' in value and not _is_answer(value)
        return "cut" if cut else ""
