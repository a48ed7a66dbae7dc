"""Which bodies break a rule or have a field, so that a recorded refusal applies to them.

The strict endpoint has Mistral's own validators for this. These predicates are for `serve --as`,
which refuses only what another server refused.
"""

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from itertools import dropwhile, pairwise
from typing import Any

from mistral_service.wire.trees import Json, last_of, object_of, objects_of

MOST_IMAGES = 8
MOST_TOOLS = 128

_ID = re.compile(r"[a-zA-Z0-9]{9}")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MESSAGE_FIELDS = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls", "prefix"},
    "tool": {"role", "content", "tool_call_id", "name"},
}
_LONGEST_SIDE = 10_000
_PNG_SIZE = slice(16, 24)


def messages_of(body: Json) -> list[Json]:
    """The messages of a body that are objects."""
    return objects_of(body.get("messages"))


def tools_of(body: Json) -> list[Json]:
    """The functions among the tools of a body."""
    return [
        object_of(tool["function"])
        for tool in objects_of(body.get("tools"))
        if isinstance(tool.get("function"), dict)
    ]


def arguments_of(call: Json) -> Any:
    """The arguments of a call, decoded; None where they are no JSON."""
    arguments = object_of(call.get("function")).get("arguments")
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return None


def later_system(body: Json) -> bool:
    """R1: a system message after the leading ones."""
    return "system" in dropwhile(lambda role: role == "system", _roles(body))


def user_after_tool(body: Json) -> bool:
    """R2: a user message right after a result."""
    return any(a == "tool" and b == "user" for a, b in pairwise(_roles(body)))


def stray_result(body: Json) -> bool:
    """R3: a result that follows neither a call nor another result."""
    return any(
        message.get("role") == "tool"
        and not (before.get("role") == "tool" or before.get("tool_calls"))
        for before, message in pairwise([{}, *messages_of(body)])
    )


def unequal_results(body: Json) -> bool:
    """R4: calls without results, or more results than calls."""
    calls = results = 0
    for message in [*messages_of(body), {"role": "end"}]:
        if message.get("role") == "tool":
            results += 1
            continue
        # A result without any call is R3's.
        if calls and calls != results:
            return True
        calls, results = len(_calls(message)), 0
    return False


def assistant_last(body: Json) -> bool:
    """R5: the last message is the assistant's, without a prefix."""
    last = last_of(body.get("messages"))
    continued = last.get("prefix") or body.get("continue_final_message")
    return last.get("role") == "assistant" and not continued


def prefix_last(body: Json) -> bool:
    """The last message is a prefix, and there are no functions."""
    return _has_prefix(body) and not body.get("tools")


def prefix_and_tools(body: Json) -> bool:
    """R13: a prefix together with functions."""
    return _has_prefix(body) and bool(body.get("tools"))


def invalid_ids(body: Json) -> bool:
    """R6: ids that are not nine letters and digits."""
    ids = [call.get("id") for message in messages_of(body) for call in _calls(message)]
    ids += [m.get("tool_call_id") for m in messages_of(body) if m.get("role") == "tool"]
    return any(not (isinstance(each, str) and _ID.fullmatch(each)) for each in ids)


def empty_assistant(body: Json) -> bool:
    """R7: a message of the assistant without text and calls."""
    return any(
        m.get("role") == "assistant" and not m.get("content") and not m.get("tool_calls")
        for m in messages_of(body)
    )


def text_and_calls(body: Json) -> bool:
    """R8: text and calls in one message."""
    return any(m.get("content") and _calls(m) for m in messages_of(body))


def message_field(body: Json) -> bool:
    """R9: a field that a message does not have."""
    return any(
        set(message) - _MESSAGE_FIELDS.get(str(message.get("role")), set(message))
        for message in messages_of(body)
    )


def many_images(body: Json) -> bool:
    """R10: more than eight images."""
    return len(list(_images(body))) > MOST_IMAGES


def one_image(body: Json) -> bool:
    """Images, and not too many."""
    return 0 < len(list(_images(body))) <= MOST_IMAGES and not long_image(body)


def long_image(body: Json) -> bool:
    """R10: a PNG with a side that is too long."""
    return any(_longest_side(url) > _LONGEST_SIDE for url in _images(body))


def invalid_name(body: Json) -> bool:
    """R11: a function's name that is too long or has invalid characters."""
    names = [tool.get("name") for tool in tools_of(body)]
    return any(not (isinstance(each, str) and _NAME.fullmatch(each)) for each in names)


def many_tools(body: Json) -> bool:
    """R11: more than 128 tools."""
    return len(tools_of(body)) > MOST_TOOLS


def broken_arguments(body: Json) -> bool:
    """R11: arguments that are not a JSON object."""
    return any(
        not isinstance(arguments_of(call), dict)
        for message in messages_of(body)
        for call in _calls(message)
    )


def schema_id(body: Json) -> bool:
    """R11: a schema with `$schema` or `$id`."""
    schemas = [tool.get("parameters") for tool in tools_of(body)]
    return any(object_of(each).keys() & {"$schema", "$id"} for each in schemas)


def repeated_role(body: Json) -> bool:
    """R12: two turns of the same role in a row."""
    return any(a == b and a in ("user", "assistant") for a, b in pairwise(_spoken(body)))


def assistant_first(body: Json) -> bool:
    """R12: the assistant's turn is the first."""
    return _spoken(body)[:1] == ["assistant"]


def developer(body: Json) -> bool:
    """R14: the role `developer` of OpenAI's API."""
    return "developer" in _roles(body)


def image_in(role: str) -> Callable[[Json], bool]:
    """R15: content other than text in a message of a role."""
    return lambda body: any(m.get("role") == role and _has_media(m) for m in messages_of(body))


def has(name: str, *values: object) -> Callable[[Json], bool]:
    """Whether a body has a field, with one of some values if any are given."""

    def has_field(body: Json) -> bool:
        return body.get(name) is not None and (not values or body[name] in values)

    return has_field


def _roles(body: Json) -> list[str]:
    return [str(message.get("role")) for message in messages_of(body)]


def _spoken(body: Json) -> list[str]:
    """The roles of the turns, calls and results aside."""
    return [
        str(message["role"])
        for message in messages_of(body)
        if message.get("role") in ("user", "assistant") and not _calls(message)
    ]


def _has_prefix(body: Json) -> bool:
    last = last_of(body.get("messages"))
    return last.get("role") == "assistant" and bool(last.get("prefix"))


def _calls(message: Json) -> list[Json]:
    return objects_of(message.get("tool_calls"))


def _has_media(message: Json) -> bool:
    return any(part.get("type") != "text" for part in objects_of(message.get("content")))


def _images(body: Json) -> Iterator[str]:
    for message in messages_of(body):
        for part in objects_of(message.get("content")):
            if part.get("type") == "image_url" and message.get("role") == "user":
                url = part.get("image_url")
                yield str(object_of(url).get("url", url))


def _longest_side(url: str) -> int:
    """The longer side of a PNG in a data URL, in pixels; 0 of anything else."""
    try:
        head = b64decode(url.partition("base64,")[2][:64])
    except ValueError:
        return 0
    size = head[_PNG_SIZE]
    return max(int.from_bytes(size[:4], "big"), int.from_bytes(size[4:], "big")) if size else 0
