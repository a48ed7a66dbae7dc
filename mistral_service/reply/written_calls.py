"""Function calls as models write them: as JSON, with variants of the function's name."""

import json
import re
from collections.abc import Collection
from typing import Any, cast

from mistral_service.reply.events import ToolCall

HEAD = re.compile(
    r'"?(?P<name>[\w.\-/:]{1,128})"?(?:\(\))?\s*'
    r"(?P<form>(?:\[CALL_ID\]\s*(?P<id>[\w\-]{0,64})\s*)?(?:\[ARGS\])?)\s*"
)
"""What precedes the arguments of a call with tokenizers v11 and later."""

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
    """The offered function to which a name refers.

    Args:
        name: The name as the model wrote it.
        offered: The names of the functions that the request offers.

    Returns:
        The name of the function, if it is unambiguous; otherwise the name as it was written,
        stripped.
    """
    stripped = name.strip()
    if name in offered:
        return name
    for spelling in (stripped, stripped.removesuffix("()").strip()):
        for candidate in (spelling, _PREFIX.sub("", spelling, count=1)):
            if candidate in offered:
                return candidate
    return stripped


def calls_in(text: str) -> list[ToolCall]:
    """The calls in a JSON text: an object, or a list of objects.

    Args:
        text: The text. One that is no JSON, but names a function, is a call with that text as its
            arguments, so that the model reads what is wrong with it.

    Returns:
        The calls; none if the text is something else.
    """
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        named = _NAMED.search(text)
        return [ToolCall(None, named[1], text)] if named and not is_answer(text) else []
    return _calls_of(value)


def is_answer(text: str) -> bool:
    """Whether broken JSON has a name, but other keys than those of a call next to it.

    Args:
        text: The text from its first bracket on.
    """
    named = _NAMED.search(text)
    if named is None or _ARGUMENTS_KEY.search(text):
        return False
    beside = _NEXT_KEY.match(text, named.end())
    return beside is not None and beside[1] not in _OF_A_CALL


def may_be_call(text: str, offered: Collection[str]) -> bool:
    """Whether a text that begins like JSON may become a call.

    Args:
        text: The text from its first bracket on.
        offered: The names of the functions that the request offers.
    """
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
