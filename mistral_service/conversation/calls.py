"""The rules for function calls: each call is followed by exactly one result."""

import functools
import hashlib
import json
import re
import string
from collections import deque
from typing import Any, cast

from mistral_service.conversation.conversion import Conversion, Message, Messages, differ
from mistral_service.conversation.parts import text_of
from mistral_service.conversation.plain import as_json
from mistral_service.wire.encoding import MAX_EVENT_VALUES, decode, values_in

Call = dict[str, Any]

NO_RESULT = "No result: the call was interrupted."
STILL_RUNNING = "No result yet: the function is still running."
WAS_CANCELLED = "No result: the call was cancelled before the function returned one."

# What Pipecat writes in place of a result, and what the model reads.
_STATES = {"IN_PROGRESS": STILL_RUNNING, "CANCELLED": WAS_CANCELLED}

_ID = re.compile(r"[a-zA-Z0-9]{9}")
_CALL_ID_IN_TEXT = re.compile(r'("tool_call_id": ")([^"]*)"')
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_NAME_LENGTH = 64
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase


def calls_of(message: Message) -> list[Call]:
    """The calls of a message."""
    return cast("list[Call]", message.get("tool_calls") or [])


def calls_in_mistrals_form(messages: Messages, conversion: Conversion) -> Messages:
    """R9, R11: a call has an id, a name of letters, digits, `_` and `-`, and a JSON object.

    Names with other characters are respelled, arguments that are no JSON object are wrapped in
    one, other fields are left out. Prevents 422 for the fields, 400 "Function name was …", and
    self-hosted servers that fail to parse the arguments.
    """
    result: Messages = []
    for message in messages:
        calls = calls_of(message)
        formed = [_formed(call) for call in calls]
        if differ(formed, calls):
            respelled = any(
                new["function"] != old.get("function")
                for new, old in zip(formed, calls, strict=True)
            )
            reason = "converted its calls to Mistral's form"
            rule = "R11" if respelled else "R9"
            new = {**message, "tool_calls": formed}
            message = conversion.record_change(rule, message, reason, new)
        result.append(message)
    return result


def results_follow_their_calls(messages: Messages, conversion: Conversion) -> Messages:
    """R3, R4: a result follows its call, and every call has exactly one.

    Results are matched by id, however late they come, and moved to their call; consecutive messages
    of calls become one message. A call without a result gets one that says so; a result without a
    call, or a second, different one, becomes user text at its position; a repeated result is left
    out. Prevents "Unexpected role 'tool' after role 'user'", and "Not the same number of function
    calls and responses".
    """
    results = _Results(messages)
    result: Messages = []
    joined = 0  # Messages before this index were merged with the calls before them.
    for i, message in enumerate(messages):
        if message["role"] == "tool":
            if (text := results.as_text(i, message, conversion)) is not None:
                result.append(text)
        elif not message.get("tool_calls"):
            result.append(message)
        elif i >= joined:
            joined = i + 1
            while joined < len(messages) and messages[joined].get("tool_calls"):
                joined += 1
            result += results.group(range(i, joined), conversion)
    return result


# The index of a message, and the number of a call in it.
_Slot = tuple[int, int]


class _Results:
    """Which result belongs to which call."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._results: dict[_Slot, list[int]] = {}  # the indices of each call's results
        self._call_of: dict[int, _Slot] = {}
        self._seen: dict[_Slot, set[str]] = {}  # contents of a call's results
        # How many messages before an index are neither calls nor results.
        self._others_before = [0]
        # The calls of an id: those of the last message that has it, since some servers count their
        # ids from 0 on every turn.
        by_id: dict[str, deque[_Slot]] = {}
        latest: deque[_Slot] = deque()
        for i, message in enumerate(messages):
            is_other = message["role"] != "tool" and not message.get("tool_calls")
            self._others_before.append(self._others_before[-1] + is_other)
            if message.get("tool_calls"):
                calls = calls_of(message)
                latest = deque((i, number) for number in range(len(calls)))
                self._results |= {slot: [] for slot in latest}
                by_id.update({call["id"]: deque() for call in calls if call["id"]})
                for slot, call in zip(latest, calls, strict=True):
                    if call["id"]:
                        by_id[call["id"]].append(slot)
            elif message["role"] == "tool":
                call_id = message.get("tool_call_id")
                slots = by_id.get(call_id, deque()) if call_id else latest
                # The first call that has no result yet. An id may have a second result.
                while len(slots) > 1 and self._results[slots[0]]:
                    slots.popleft()
                if slots and (call_id or not self._results[slots[0]]):
                    self._results[slots[0]].append(i)
                    self._call_of[i] = slots[0]

    def group(self, indices: range, conversion: Conversion) -> Messages:
        """The calls of consecutive messages as one message, followed by their results."""
        first = self._messages[indices[0]]
        calls = [call for i in indices for call in calls_of(self._messages[i])]
        if len(indices) > 1:
            reason = f"merged {len(indices)} consecutive messages of calls"
            first = conversion.record_change("R4", first, reason, {**first, "tool_calls": calls})
        result = [first]
        for i in indices:
            for number, call in enumerate(calls_of(self._messages[i])):
                result.append(self._result((i, number), call, conversion))
        return result

    def _result(self, slot: _Slot, call: Call, conversion: Conversion) -> Message:
        name = call["function"]["name"]
        if not self._results[slot]:
            made: Message = {"role": "tool", "tool_call_id": call["id"], "content": NO_RESULT}
            reason = f"added a result which says that {name} has none"
            return conversion.record_change("R4", self._messages[slot[0]], reason, made)
        index = self._results[slot][0]
        result = self._messages[index]
        if self._others_before[index] > self._others_before[slot[0] + 1]:
            conversion.record("R3", result, f"moved the result of {name} to its call")
        text = _STATES.get(result["content"])
        if text is not None:
            reason = f"wrote as text that {name} is {result['content'].lower().replace('_', ' ')}"
            result = conversion.record_change("R4", result, reason, {**result, "content": text})
        if result.get("tool_call_id") != call["id"]:
            result = conversion.inherit_index(result, {**result, "tool_call_id": call["id"]})
        return result

    def as_text(self, index: int, message: Message, conversion: Conversion) -> Message | None:
        """A result as user text at its position; None if it follows its call, or is a repeat."""
        slot = self._call_of.get(index)
        content = text_of(message["content"])
        if slot is None:
            reason = "kept a result without a call as text"
            made: Message = {"role": "user", "content": f"[Result of a function call] {content}"}
            return conversion.record_change("R4", message, reason, made)
        others = self._results[slot]
        if index == others[0]:
            return None
        seen = self._seen.setdefault(slot, {self._messages[others[0]]["content"]})
        if message["content"] in seen:
            conversion.record("R4", message, "left out a repeated result")
            return None
        seen.add(message["content"])
        name = calls_of(self._messages[slot[0]])[slot[1]]["function"]["name"]
        reason = f"kept a second result of {name} as text"
        made = {"role": "user", "content": f"[Later result of {name}] {content}"}
        return conversion.record_change("R4", message, reason, made)


def ids_of_nine_characters(messages: Messages, conversion: Conversion) -> Messages:
    """R6: the id of a call is nine letters and digits, and its result has the same.

    Other ids, OpenAI's and Anthropic's among them, are replaced by the beginning of their hash:
    the same on every turn, so that the prompt cache is hit, and different for different ids.
    Expects results after their calls, in order. Prevents 400 code 3280 `invalid_function_call`.
    """
    ids = _Ids()
    result: Messages = []
    expected: deque[str] = deque()
    for message in messages:
        if message.get("tool_calls"):
            calls = calls_of(message)
            given = ids.of(calls)
            expected = deque(given)
            if given != [call["id"] for call in calls]:
                renamed = [{**call, "id": new} for new, call in zip(given, calls, strict=True)]
                reason = "gave its calls ids of nine letters and digits"
                new = {**message, "tool_calls": renamed}
                message = conversion.record_change("R6", message, reason, new)
        elif expected and message["role"] == "tool":
            call_id = expected.popleft()
            if message.get("tool_call_id") != call_id:
                message = conversion.inherit_index(message, {**message, "tool_call_id": call_id})
        result.append(message)
    conversion.call_ids.update(ids.originals)
    sent = {original: sent for sent, original in ids.originals.items()}
    return [_with_sent_ids(message, sent, conversion) for message in result]


def _with_sent_ids(message: Message, sent: dict[str, str], conversion: Conversion) -> Message:
    """Pipecat's messages about asynchronous calls have the id of a call in their text."""
    content = message.get("content")
    if not sent or not isinstance(content, str) or '"async_tool"' not in content:
        return message
    named = _CALL_ID_IN_TEXT.sub(
        lambda found: f'{found[1]}{sent.get(found[2], found[2])}"', content
    )
    return conversion.inherit_index(message, {**message, "content": named})


class _Ids:
    """The ids as they are sent, one for every id in the context."""

    def __init__(self) -> None:
        self.originals: dict[str, str] = {}
        self._sent: dict[str, str] = {}
        self._taken: set[str] = set()
        self._unnamed = 0

    def of(self, calls: list[Call]) -> list[str]:
        """The ids of the calls of one message, no two alike."""
        found: dict[str, None] = {}
        repeats: dict[str, int] = {}
        for call in calls:
            key = original = call["id"]
            if not original:
                self._unnamed += 1
                key = f"{self._unnamed} {call['function']['name']}"
            while (sent := self._for(key, original)) in found:
                repeats[original] = repeats.get(original, 1) + 1
                key = f"{original} {repeats[original]}"
            found[sent] = None
        return list(found)

    def _for(self, key: str, original: str) -> str:
        if key in self._sent:
            return self._sent[key]
        attempt = 0
        sent = key if _ID.fullmatch(key) else _digest(key)
        while sent in self._taken:
            attempt += 1
            sent = _digest(f"{key} {attempt}")
        self._sent[key] = sent
        self._taken.add(sent)
        if original and sent != original:
            self.originals[sent] = original
        return sent


def safe_name(name: str) -> str:
    """A function's name in the characters that Mistral takes: `^[a-zA-Z0-9_-]{1,64}$` (R11).

    An invalid one is respelled, always alike, and different names stay different.
    """
    respelled = _NOT_IN_NAMES.sub("_", name)
    if respelled == name and 0 < len(name) <= _NAME_LENGTH:
        return name
    suffix = _digest(name)[:4]
    return f"{respelled[: _NAME_LENGTH - 5] or 'f'}_{suffix}"


def _formed(call: Call) -> Call:
    given = cast("dict[str, Any]", call.get("function") or {})
    name = safe_name(str(given.get("name") or ""))
    function = {"name": name, "arguments": _arguments(given.get("arguments"))}
    call_id = call.get("id")
    call_id = call_id if isinstance(call_id, str) and call_id != "null" else ""
    formed = {"id": call_id, "type": "function", "function": function}
    return call if call == formed else formed


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        return _object_text(value)
    text = as_json(value)
    return text if isinstance(value, dict) and text.startswith("{") else _object_text(text)


@functools.lru_cache(maxsize=4096)  # every request has the calls of the last one again
def _object_text(text: str) -> str:
    if not text.strip() or text == "null":
        return "{}"
    try:
        if values_in(text) > MAX_EVENT_VALUES:
            # No reply has as many, and to parse them takes long: its first and last bracket decide.
            whole = text.lstrip().startswith("{") and text.rstrip().endswith("}")
        else:
            whole = isinstance(decode(text), dict)
    except ValueError:
        whole = False
    return text if whole else json.dumps({"arguments": text}, ensure_ascii=False)


@functools.lru_cache(maxsize=4096)
def _digest(text: str) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])
    return "".join(_DIGITS[number // 62**place % 62] for place in range(9))
