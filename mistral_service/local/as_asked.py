"""An engine without a model: it follows what a request asks for.

It calls functions where the request requires a call, or where the user's words name them. JSON
follows its schema, thoughts come on request, a prefix is repeated, and `max_tokens` cuts. Otherwise
it echoes the user's words. So every form of reply can be tested, at once and deterministically.
"""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from mistral_service.local.pieces import Delta, End, Json, Piece, usage_of
from mistral_service.wire.trees import last_of, list_of, object_of, objects_of

_DEEPEST = 20
_CALL_TOKENS = 8
_BLOCK = 64  # tokens; Mistral's cache works in such blocks


class AsAsked:
    """Answers without a model, as a request asks."""

    def __init__(self) -> None:
        self._cached: dict[str, str] = {}
        self._serial = 0

    async def answer(self, request: Json) -> AsyncIterator[Piece]:
        """Answer, word by word."""
        most = request.get("max_tokens")
        left = most if isinstance(most, int) and most > 0 else 10_000
        effort = request.get("reasoning_effort")
        thinks = effort not in (None, "none") or request.get("prompt_mode") == "reasoning"
        calls = self._calls(request)
        words = [] if calls else re.findall(r"\S+\s*|\s+", _text(request))
        written = 3 * thinks + min(len(words), left) + _CALL_TOKENS * len(calls)
        usage = self._usage(request, written)
        if thinks:
            thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Let me think."}]}
            yield Delta({"content": [thought]})
            yield Delta({"content": [{"type": "thinking", "thinking": []}]})
        for word in words[:left]:
            yield Delta({"content": word})
        if calls and left >= _CALL_TOKENS:
            yield End("tool_calls", usage, {"content": "", "tool_calls": calls})
        else:
            cut = calls or (most and len(words) >= left)
            yield End("length" if cut else "stop", usage)

    async def close(self) -> None:
        """Nothing to release."""

    def _usage(self, request: Json, written: int) -> Json:
        """An estimate, four characters a token, and how much of the prompt was cached."""
        said = json.dumps(request.get("messages") or request.get("prompt"), ensure_ascii=False)
        tokens = len(said) // 4 + 1
        usage = usage_of(tokens, written)
        key = request.get("prompt_cache_key")
        if isinstance(key, str):
            cached = tokens // _BLOCK * _BLOCK if self._cached.get(key) == said else 0
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
            self._cached = {**dict(list(self._cached.items())[-99:]), key: said}
        return usage

    def _calls(self, request: Json) -> list[Json]:
        """The calls that are asked for; for an enum, one call for each value that is named."""
        tools = objects_of(request.get("tools"))
        functions = [f for tool in tools if (f := object_of(tool.get("function")))]
        choice: Any = request.get("tool_choice")
        words = _last_user_text(request)
        if chosen := object_of(choice):
            named = object_of(chosen.get("function")).get("name")
            functions = [f for f in functions if f.get("name") == named]
        elif choice == "none" or last_of(request.get("messages")).get("role") == "tool":
            return []
        elif choice not in ("any", "required"):
            functions = [f for f in functions if str(f.get("name")).lower() in words.lower()]
        if not functions:
            return []
        function = functions[0]
        given = _arguments(object_of(function.get("parameters")), words)
        if request.get("parallel_tool_calls") is False:
            given = given[:1]
        self._serial += 1
        return [
            {
                "id": f"call{self._serial % 1000:03}{index % 100:02}",
                "function": {"name": function.get("name"), "arguments": json.dumps(arguments)},
                "index": index,
            }
            for index, arguments in enumerate(given)
        ]


def _arguments(schema: Json, words: str) -> list[Any]:
    """Arguments for each value of an enum that is in the words; one set where none is."""
    value = value_of(schema)
    for name, inner in object_of(schema.get("properties")).items():
        named = [each for each in list_of(object_of(inner).get("enum")) if str(each) in words]
        if named:
            return [{**value, name: each} for each in named]
    return [value]


def value_of(schema: Any, depth: int = 0) -> Any:
    """A value that follows a simple schema: the first of an enum, or the simplest of the type.

    `depth` is how deeply the schema is nested; beyond a bound the value is None.
    """
    data = object_of(schema)
    if data != schema or depth > _DEEPEST:
        return None
    if "const" in data:
        return data["const"]
    if isinstance(data.get("enum"), list) and data["enum"]:
        return data["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if isinstance(data.get(several), list) and data[several]:
            return value_of(data[several][0], depth + 1)
    kind: Any = data.get("type")
    kind = next(iter(list_of(kind)), kind)
    if kind == "object" or "properties" in data or kind is None:
        properties = object_of(data.get("properties"))
        return {name: value_of(inner, depth + 1) for name, inner in properties.items()}
    if kind == "array":
        return [value_of(data.get("items"), depth + 1)] if data.get("minItems") else []
    plain: dict[Any, Any] = {"string": "yes", "number": 1.0, "integer": 1, "boolean": True}
    return plain.get(kind)


def _text(request: Json) -> str:
    form = object_of(request.get("response_format"))
    if form.get("type") == "json_object":
        return json.dumps({"answer": "yes"})
    if form.get("type") == "json_schema":
        return json.dumps(value_of(object_of(form.get("json_schema")).get("schema")))
    last = last_of(request.get("messages"))
    if last.get("role") == "assistant":
        return f"{_text_of(last.get('content'))} and so it goes on."
    return _last_user_text(request) or "Yes."


def _last_user_text(request: Json) -> str:
    """The last message of the user; for a request without messages, its prompt."""
    for message in reversed(objects_of(request.get("messages"))):
        if message.get("role") == "user":
            return _text_of(message.get("content"))
    return str(request.get("prompt") or "")


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts = [part.get("text") for part in objects_of(content)]
    return " ".join(text for text in texts if isinstance(text, str))
