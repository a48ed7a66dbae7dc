"""Converts histories in the forms of other APIs: their calls, results and images become Mistral's.

They occur where several providers share a context, and where another framework has stored them.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, cast

from mistral_service.conversation.conversion import Conversion, Message, Messages, without
from mistral_service.conversation.foreign_media import get, mapping_of, text_part
from mistral_service.conversation.foreign_parts import OWN_KINDS, content_of, kind_of, pieces_of
from mistral_service.conversation.foreign_readers import ForeignCall, ForeignResult, call
from mistral_service.conversation.parts import is_text
from mistral_service.wire.trees import object_of

# Roles that need no conversion; the last is that of a stored thought.
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "thought"})
_ROLES_OF_OTHERS = {"model": "assistant", "function": "tool"}
_READABLE = frozenset({"user", "assistant", "tool", *_ROLES_OF_OTHERS})

_THOUGHTS = frozenset(
    {"reasoning", "thinking", "redacted_thinking", "thought", "thought_signature"}
)
_FIELDS = ("role", "type", "content", "parts", "tool_calls", "tool_call_id")
_MAX_NAMED = 5
_MAX_NAME = 40


def in_mistrals_form(messages: Messages, conversion: Conversion) -> Messages:
    """R16: parts and items of other APIs become Mistral's calls, results, images and text.

    Anthropic's `tool_use` and `tool_result`, the Responses API's items and `input_…` parts,
    Google's `parts`, the blocks of Bedrock's Converse. One message may become several. Ids are
    kept; the result of a failed call begins with "[Error]"; thoughts of other models are left out.
    Prevents 422 for the form, and a model that reads "[tool_result]" instead of the result.
    """
    if conversion.in_mistrals_form:
        return messages
    conversion.in_mistrals_form = True
    if not any(map(is_foreign, messages)):
        return messages  # The common case, decided without an allocation.
    converter = _Converter(conversion)
    return [new for message in messages for new in converter.convert(message)]


def readable(message: Any) -> Message | None:
    """The part of another provider's own message that other models can read; None without any.

    Thoughts, signatures and the like only concern that provider and its model, and so do its
    instructions. The message is a mapping, or an object with attributes of the same names; the
    result is one that `in_mistrals_form` takes.
    """
    if _is_thought(message):
        return None
    if isinstance(message, Mapping) or get(message, "role") is None:
        plain = mapping_of(message)
    else:
        fields = {name: get(message, name) for name in _FIELDS}
        plain = {name: value for name, value in fields.items() if value is not None}
    if "role" not in plain:
        return plain if isinstance(plain.get("type"), str) and kind_of(plain) else None
    for name in ("content", "parts"):
        parts = plain.get(name)
        if isinstance(parts, list | tuple):
            plain[name] = [p for p in cast("Sequence[Any]", parts) if not _is_thought(p)]
    content = any(plain.get(name) for name in ("content", "parts", "tool_calls", "function_call"))
    return plain if content and plain["role"] in _READABLE else None


def _is_thought(value: Any) -> bool:
    kind = get(value, "type")
    return (isinstance(kind, str) and kind in _THOUGHTS) or get(value, "thought") is True


def is_foreign(message: Any) -> bool:
    """Whether a message may be in another API's form; checked for all messages of a request."""
    if message.__class__ is not dict or message.get("role") not in _ROLES:
        return True
    content = message.get("content")
    if content.__class__ is str and len(message) == 2:
        return False
    if "parts" in message or "function_call" in message or "tool_plan" in message:
        return True
    if content.__class__ is str or content is None:
        return False
    if content.__class__ is not list:
        return True
    for part in content:
        if part.__class__ is dict:
            kind = part.get("type")
            if kind.__class__ is not str or kind not in OWN_KINDS:
                return True
        elif part.__class__ is not str:
            return True
    return False


class _Converter:
    """Converts messages in the forms of other APIs, in their order."""

    def __init__(self, conversion: Conversion) -> None:
        self._conversion = conversion
        self._ids = _Ids()

    def convert(self, message: Any) -> Messages:
        """A message as one or several in Mistral's form: the same object, if it is that already."""
        if not is_foreign(message):
            self._ids.end_group()
            return [message]
        pieces, kinds = _pieces(message)
        role = _role(message, pieces)
        given = cast("Message", message)
        own = given if isinstance(message, dict) else mapping_of(message)
        if not any(isinstance(piece, ForeignCall | ForeignResult) for piece in pieces):
            self._ids.end_group()
            return self._in_one(given, {**own, "role": role}, pieces, kinds)
        made = self._in_several("user" if role == "tool" else role, pieces)
        if calls := own.get("tool_calls"):
            made.append({"role": "assistant", "tool_calls": calls})
        if own.get("prefix") and made[-1]["role"] == "assistant":
            made[-1]["prefix"] = own["prefix"]
        head = self._conversion.record_change("R16", given, _reason(kinds), made[0])
        return [head, *(self._conversion.inherit_index(given, each) for each in made[1:])]

    def _in_one(
        self, message: Message, new: Message, parts: list[Any], kinds: Sequence[str]
    ) -> Messages:
        """A message without calls and results."""
        if not kinds and type(message) is dict and new["role"] == message.get("role"):
            return [message]
        if kinds:
            new = without(new, "parts", "type", "tool_plan", "content")
            text = object_of(parts[0]).get("text") if len(parts) == 1 else None
            new["content"] = text if isinstance(text, str) and is_text(parts[0]) else parts
            has_more = any(new.get(name) for name in ("tool_calls", "refusal", "audio"))
            if not parts and new["role"] in ("user", "assistant") and not has_more:
                reason = f"left out {_named(kinds)}: nothing that another model can read"
                self._conversion.record("R16", message, reason)
                return []
        return [self._conversion.record_change("R16", message, _reason(kinds), new)]

    def _in_several(self, role: str, pieces: list[Any]) -> Messages:
        """A message with calls or results; text stays in front of the calls that follow it."""
        made: Messages = []
        last: Message | None = None  # The message that the next piece may join.
        for piece in pieces:
            if isinstance(piece, ForeignResult):
                call_id = self._ids.of_result(piece)
                last = {"role": "tool", "tool_call_id": call_id, "content": piece.content}
                made.append(last)
            elif isinstance(piece, ForeignCall):
                if last is None or last["role"] != "assistant":
                    last = {"role": "assistant"}
                    made.append(last)
                last.setdefault("tool_calls", []).append(self._ids.of_call(piece))
            else:
                self._ids.end_group()
                if last is None or last["role"] != role or "tool_calls" in last:
                    last = {"role": role, "content": []}
                    made.append(last)
                last["content"].append(piece)
        return made


class _Ids:
    """The ids of calls and results; an id is generated where there is none."""

    def __init__(self) -> None:
        # The ids by function, for results that only have the function's name: those of the last
        # group of consecutive calls, and those before it.
        self._last_group: dict[str, deque[str]] = {}
        self._earlier: dict[str, deque[str]] = {}
        self._answered: set[str] = set()
        self._generated: dict[str, int] = {}
        self._in_group = False

    def end_group(self) -> None:
        """Something else than a call has come: the next call begins a new group."""
        self._in_group = False

    def of_call(self, call: ForeignCall) -> Message:
        """A call with an id."""
        if not self._in_group:
            for name, ids in self._last_group.items():
                self._earlier.setdefault(name, deque()).extend(ids)
            self._last_group.clear()
            self._in_group = True
        call_id = "" if call.id == "null" else call.id
        if not call_id:
            number = self._generated[call.name] = self._generated.get(call.name, 0) + 1
            call_id = f"{call.name} {number}"
        self._answered.discard(call_id)
        self._last_group.setdefault(call.name, deque()).append(call_id)
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": call_id, "type": "function", "function": function}

    def of_result(self, result: ForeignResult) -> str:
        """The id of a result, or that of a call of its function which has no result yet."""
        self.end_group()
        call_id = "" if result.id == "null" else result.id
        for ids in (self._last_group.get(result.name), self._earlier.get(result.name)):
            while ids and result.name and not call_id:
                candidate = ids.popleft()
                call_id = "" if candidate in self._answered else candidate
        self._answered.add(call_id)
        return call_id


def _pieces(message: Any) -> tuple[list[Any], Sequence[str]]:
    """The pieces of a message, and the names that its API has for them."""
    kinds: dict[str, None] = {}
    pieces: list[Any] = []
    content = get(message, "content")
    if get(message, "role") is None and (kind := kind_of(message)):
        kinds[kind] = None
        return list(pieces_of(message) or ()), list(kinds)
    if (plan := get(message, "tool_plan")) and isinstance(plan, str):
        kinds["tool_plan"] = None
        pieces.append(text_part(plan))
    if content is None and (content := get(message, "parts")) is not None:
        kinds["parts"] = None
    if content is not None and not isinstance(content, str | list):
        kinds[f"content of the type {type(content).__name__}"] = None
        if not isinstance(content, tuple):
            content = content_of(content)
    if isinstance(content, str):
        pieces.append(text_part(content))
    elif isinstance(content, list | tuple):
        for part in cast("Sequence[Any]", content):
            if (read := pieces_of(part)) is None:
                pieces.append(part)
            else:
                kinds[kind_of(part) or "an object"] = None
                pieces += read
    # OpenAI's legacy form.
    if name := get(made := get(message, "function_call"), "name"):
        kinds["function_call"] = None
        pieces.append(call("", str(name), get(made, "arguments") or {}))
    if get(message, "role") == "function" and not any(isinstance(p, ForeignResult) for p in pieces):
        kinds["function"] = None
        returned = content if isinstance(content, str) else pieces
        pieces = [ForeignResult("", str(get(message, "name") or ""), returned)]
    return pieces, list(kinds)


def _role(message: Any, pieces: Sequence[Any]) -> Any:
    role = get(message, "role")
    if isinstance(role, str):
        return _ROLES_OF_OTHERS.get(role, role)
    if role is not None:
        return role
    kind = kind_of(message)
    if not kind:
        return "user" if get(message, "parts") is not None else None
    calls = any(isinstance(piece, ForeignCall | ForeignResult) for piece in pieces)
    return "assistant" if calls or kind.startswith("output_") else "user"


def _named(kinds: Sequence[str]) -> str:
    return ", ".join(kind[:_MAX_NAME] for kind in kinds[:_MAX_NAMED])


def _reason(kinds: Sequence[str]) -> str:
    return f"converted {_named(kinds) or 'its role'} to Mistral's form"
