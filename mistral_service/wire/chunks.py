"""A payload of the stream to a typed chunk.

A chunk is read as what it is on the wire, not as what the schema says: keys that are unknown are
ignored at every level, keys that are missing have a default, and a value of the wrong type counts
as missing. What cannot be read at all is a `MistralError`, as is an error that the server sends in
mid-stream.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from mistral_service.wire.encoding import decode
from mistral_service.wire.errors import MistralError

Part = Mapping[str, Any]
"""One part of a content list: `{"type": "text", "text": …}`, `{"type": "thinking", …}`, …."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a function call, or a whole one.

    Parameters:
        index: Which call of the reply this belongs to; None where the server does not say.
        id: The call's id; None where it is missing, empty or the string "null".
        name: The function's name, or a piece of it; empty in later pieces.
        arguments: A piece of the arguments' JSON text.
    """

    index: int | None = None
    id: str | None = None
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens that a reply cost.

    Parameters:
        prompt_tokens: Tokens of the request.
        completion_tokens: Tokens of the reply, thinking included.
        total_tokens: Both together.
        cached_tokens: Those of the request that came from the cache; None if not reported.
        reasoning_tokens: Those of the reply spent on thinking; None if not reported.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(slots=True)  # not frozen: one is made for every token, and that takes twice as long
class Chunk:
    """One chunk of a streamed reply.

    Parameters:
        model: The name of the model that answers; empty if not given.
        text: What the chunk says, where its content is a string.
        parts: What the chunk says, where its content is a list of parts.
        tool_calls: The pieces of function calls in it.
        finish_reason: Why the reply ends: `stop`, `length`, `error`, `tool_calls`, or another
            word; None while it goes on.
        usage: The tokens, usually in the last chunk.
    """

    model: str = ""
    text: str = ""
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None


def parse_chunk(payload: bytes | str) -> Chunk:
    """Read the payload of one event.

    Args:
        payload: JSON text, UTF-8 if bytes.

    Returns:
        The chunk.

    Raises:
        MistralError: If the payload is not a JSON object, or is an error object.
    """
    try:
        data = decode(payload)
    except ValueError as e:
        raise MistralError.from_stream(_shown(payload)) from e
    if not isinstance(data, dict):
        raise MistralError.from_stream(_shown(payload))
    return chunk_from_mapping(cast("dict[str, Any]", data))


def chunk_from_mapping(data: Mapping[str, Any]) -> Chunk:
    """Read one chunk that is already decoded from JSON.

    Args:
        data: The chunk's JSON object.

    Returns:
        The chunk.

    Raises:
        MistralError: If the object is an error.
    """
    choices = _list(data.get("choices"))
    usage = _usage(data["usage"]) if data.get("usage") else None
    if not choices and usage is None and _is_error(data):
        raise MistralError.from_stream(data)

    model = _str(data.get("model"))
    if not choices:
        return Chunk(model=model, usage=usage)

    choice = _mapping(choices[0])
    # A whole (not streamed) reply has the same shape under another key.
    delta = _mapping(choice.get("delta") or choice.get("message"))
    content = delta.get("content")
    calls = delta.get("tool_calls")
    finish_reason = choice.get("finish_reason")
    return Chunk(
        model=model,
        text=content if isinstance(content, str) else "",
        parts=() if isinstance(content, str) else tuple(_parts(content)),
        tool_calls=tuple(_tool_call(_mapping(call)) for call in _list(calls) if call)
        if calls
        else (),
        finish_reason=(finish_reason or None) if isinstance(finish_reason, str) else None,
        usage=usage,
    )


def _is_error(data: Mapping[str, Any]) -> bool:
    return (
        data.get("object") == "error"
        or bool(data.get("error"))
        or "detail" in data
        or ("message" in data and "choices" not in data)
    )


def _parts(content: object) -> Iterable[Part]:
    for part in _list(content):
        if isinstance(part, str):
            yield {"type": "text", "text": part}
        elif isinstance(part, dict):
            yield cast("Part", part)


def _tool_call(call: Mapping[str, Any]) -> ToolCallDelta:
    function = _mapping(call.get("function"))
    index = call.get("index")
    call_id = call.get("id")
    arguments = function.get("arguments")
    if arguments is None:
        arguments = ""
    elif not isinstance(arguments, str):
        # Some servers send the arguments as an object rather than as its JSON text.
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCallDelta(
        index=index if isinstance(index, int) and not isinstance(index, bool) else None,
        id=call_id if isinstance(call_id, str) and call_id not in ("", "null") else None,
        name=_str(function.get("name")),
        arguments=arguments,
    )


def _usage(value: object) -> Usage | None:
    usage = _mapping(value)
    if not usage:
        return None
    # Cached tokens have had three spellings.
    details = _mapping(usage.get("prompt_tokens_details") or usage.get("prompt_token_details"))
    cached = details.get("cached_tokens", usage.get("num_cached_tokens"))
    reasoning = _mapping(usage.get("completion_tokens_details")).get("reasoning_tokens")
    prompt, completion = _int(usage.get("prompt_tokens")), _int(usage.get("completion_tokens"))
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=_int(usage.get("total_tokens")) or prompt + completion,
        cached_tokens=cached if isinstance(cached, int) else None,
        reasoning_tokens=reasoning if isinstance(reasoning, int) else None,
    )


def _shown(payload: bytes | str) -> str:
    text = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else payload
    return text if len(text) <= 200 else text[:200] + "…"


def _mapping(value: object) -> dict[str, Any]:
    # What JSON makes of an object is a dict: asking for a Mapping would take ten times as long.
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
