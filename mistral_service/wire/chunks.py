"""Parses a payload of the stream into a typed chunk.

Parsing is tolerant: unknown keys are ignored at every level, missing keys have a default, and a
value of the wrong type counts as missing. A payload that cannot be parsed at all is a
`MistralError`, and so is an error that the server sends in mid-stream.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from mistral_service.wire.encoding import MAX_EVENT_VALUES, decode
from mistral_service.wire.error_body import is_error, is_there
from mistral_service.wire.errors import MAX_NAME, MistralError, printable
from mistral_service.wire.messages import Place, joined, place_of
from mistral_service.wire.numbers import tokens
from mistral_service.wire.trees import list_of, object_of

_DONE = b"[DONE]"

_REASONING = ("reasoning_content", "reasoning", "thinking", "reasoning_text", "reasoning_details")
_WORDS = ("text", "content", "thinking", "summary", "reasoning")
_ENCRYPTED = ("data", "encrypted_content")

Part = Mapping[str, Any]
"""One part of a content list: `{"type": "text", "text": …}`, `{"type": "thinking", …}`, …."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a function call, or a whole one.

    Parameters:
        index: The index of the call in the reply; None if the server sends none.
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
    """The tokens that a reply cost; None where the server does not report a number.

    Those of the prompt may have come from the cache (`cached_tokens`), and those of the completion
    been spent on thinking (`reasoning_tokens`). `service_tier` is the tier that answered.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    prompt_audio_seconds: int | None = None
    service_tier: str | None = None

    @classmethod
    def total(cls, usages: Sequence["Usage"]) -> "Usage":
        """The sum of the tokens of several replies; a field that no reply has reported is None."""
        sums: dict[str, int] = {}
        for name in (each.name for each in fields(cls) if each.name != "service_tier"):
            known = [n for usage in usages if (n := getattr(usage, name)) is not None]
            if known:
                sums[name] = sum(known)
        return cls(**sums, service_tier=usages[-1].service_tier if usages else None)


@dataclass(slots=True)  # not frozen: one is made for every token, and that takes twice as long
class Chunk:
    """One chunk of a streamed reply.

    Parameters:
        model: The name of the model that answers; empty if not given.
        text: The content, if it is a string.
        parts: The content, if it is a list of parts.
        thought: Reasoning in a field next to the content, as servers other than Mistral's send it.
        hidden_thought: Whether there is encrypted reasoning next to the content.
        tool_calls: The pieces of function calls in it.
        finish_reason: Why the reply ends: `stop`, `length`, `error`, `tool_calls`, or another
            string; any other value as its JSON text. None while the reply continues.
        usage: The tokens, usually in the last chunk.
        place: The message of the reply to which this belongs; None if the chunk does not say.
    """

    model: str = ""
    text: str = ""
    parts: tuple[Part, ...] = ()
    thought: str = ""
    hidden_thought: bool = False
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    place: Place | None = None


def read_payloads(payloads: list[bytes]) -> tuple[list[Chunk], bool, MistralError | None]:
    """Parse the payloads of some events, up to the end of the reply or an error.

    Returns:
        The chunks; whether `[DONE]` came; and the error, if there was one before the reply had
        ended.
    """
    chunks: list[Chunk] = []
    for payload in payloads:
        if payload.startswith(_DONE):
            return chunks, True, None
        chunk, fault = read_payload(payload)
        if chunk is not None:
            chunks.append(chunk)
        elif end_of(chunks) not in (None, "error"):
            return chunks, False, None
        if fault is not None:
            return chunks, False, fault
    return chunks, False, None


def end_of(chunks: Iterable[Chunk]) -> str | None:
    """The `finish_reason` in some chunks; None while the reply continues."""
    return next((chunk.finish_reason for chunk in chunks if chunk.finish_reason), None)


def read_payload(payload: bytes | str) -> tuple[Chunk | None, MistralError | None]:
    """Parse the payload of one event: a chunk, an error, or a chunk that also contains an error."""
    try:
        data = decode(payload, MAX_EVENT_VALUES)
    except ValueError:
        return None, MistralError.from_stream(payload)
    if isinstance(data, dict):
        return read_mapping(cast("dict[str, Any]", data))
    is_list = bool(data) and isinstance(data, list)
    return None, MistralError.from_stream(cast("object", data) if is_list else payload)


def chunk_from_mapping(data: Mapping[str, Any]) -> Chunk:
    """Parse one chunk that is already decoded from JSON.

    Raises:
        MistralError: If the object is an error, or contains one.
    """
    chunk, error = read_mapping(data)
    if error is not None:
        raise error
    return chunk or Chunk()


def read_mapping(data: Mapping[str, Any]) -> tuple[Chunk | None, MistralError | None]:
    """As `read_payload`, for a payload that is already decoded from JSON."""
    choices = list_of(data.get("choices"))
    usage = _usage(data["usage"]) if data.get("usage") else None
    choice = object_of(choices[0]) if choices else {}
    # A reply that is not streamed has the same shape under another key.
    delta = object_of(choice.get("delta") or choice.get("message"))
    if not delta and choice.get("messages"):
        delta = joined(list_of(choice["messages"]))
    error, inner = data.get("error"), choice.get("error") or delta.get("error")
    failure: Mapping[str, Any] | None = None
    # An error counts whatever else is there, and whatever the `finish_reason` is.
    if (error and is_there(error)) or (not choices and usage is None and is_error(data)):
        failure = data
    elif inner and is_there(inner):
        failure = {"error": inner}
    if failure is None:
        return _chunk(data, choice, delta, usage), None
    chunk = _chunk(data, choice, delta, usage) if choices or usage else None
    return chunk, MistralError.from_stream(failure)


def _chunk(
    data: Mapping[str, Any],
    choice: Mapping[str, Any],
    delta: Mapping[str, Any],
    usage: Usage | None,
) -> Chunk:
    model = _str(data.get("model"))
    if not choice:
        return Chunk(model=model, usage=usage)
    content = delta.get("content")
    calls = delta.get("tool_calls")
    if not calls and delta.get("function_call"):
        # The legacy form of one call, with the finish reason `function_call`.
        calls = [{"index": 0, "function": delta["function_call"]}]
    finish_reason = choice.get("finish_reason")
    if finish_reason is not None and not isinstance(finish_reason, str):
        finish_reason = _as_json(finish_reason)[:80]
    thought, hidden, place = "", False, None
    if len(delta) > 1 or not content:
        thought, hidden = _thought(delta)
        place = place_of(delta)
    return Chunk(
        model=model,
        text=content if isinstance(content, str) else "",
        parts=() if isinstance(content, str) else tuple(_parts(content)),
        thought=thought,
        hidden_thought=hidden,
        tool_calls=tuple(_tool_call(object_of(call)) for call in list_of(calls) if call)
        if calls
        else (),
        finish_reason=finish_reason or None,
        usage=usage,
        place=place,
    )


def _parts(content: object) -> Iterable[Part]:
    for part in list_of(content):
        if isinstance(part, str):
            yield {"type": "text", "text": part}
        elif isinstance(part, dict):
            yield cast("Part", part)


def _thought(delta: Mapping[str, Any]) -> tuple[str, bool]:
    """Reasoning next to the content, under one of its names; and whether it is encrypted."""
    hidden = False
    for name in _REASONING:
        value = delta.get(name)
        if value:
            words = thought_of(value)
            if words:
                return words, False
            hidden = hidden or is_encrypted(value)
    return "", hidden


def thought_of(value: object, depth: int = 4) -> str:
    """The text of reasoning: a string, an object that contains it, or a list of such."""
    if isinstance(value, str):
        return value
    if not depth:
        return ""
    if isinstance(value, list):
        return "".join(thought_of(item, depth - 1) for item in cast("list[object]", value))
    held = object_of(value)
    found = (thought_of(held[key], depth - 1) for key in _WORDS if held.get(key))
    return next(filter(None, found), "")


def cites(part: Part) -> bool:
    """Whether a thought has references, to sources or to results of a tool."""
    held = map(object_of, list_of(part.get("thinking")))
    return any(item.get("type") in ("reference", "tool_reference") for item in held)


def is_encrypted(value: object) -> bool:
    """Whether reasoning, an object or a list of them, is encrypted."""
    if isinstance(value, list):
        return any(is_encrypted(item) for item in map(object_of, cast("list[object]", value)))
    held = object_of(value)
    return any(isinstance(held.get(key), str) and bool(held[key]) for key in _ENCRYPTED)


def _tool_call(call: Mapping[str, Any]) -> ToolCallDelta:
    function = object_of(call.get("function"))
    index = call.get("index")
    call_id = call.get("id")
    arguments = function.get("arguments")
    if arguments is None:
        arguments = ""
    elif not isinstance(arguments, str):
        # Some servers send the arguments as an object rather than as its JSON text.
        arguments = _as_json(arguments)
    return ToolCallDelta(
        index=index if isinstance(index, int) and not isinstance(index, bool) else None,
        id=call_id if isinstance(call_id, str) and call_id not in ("", "null") else None,
        name=_str(function.get("name")),
        arguments=arguments,
    )


def _usage(value: object) -> Usage | None:
    usage = object_of(value)
    if not usage:
        return None
    # Cached tokens have had three spellings.
    details = object_of(usage.get("prompt_tokens_details") or usage.get("prompt_token_details"))
    cached = details.get("cached_tokens", usage.get("num_cached_tokens"))
    reasoning = object_of(usage.get("completion_tokens_details")).get("reasoning_tokens")
    prompt = tokens(usage.get("prompt_tokens")) or 0
    completion = tokens(usage.get("completion_tokens")) or 0
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=tokens(usage.get("total_tokens")) or prompt + completion,
        cached_tokens=tokens(cached),
        reasoning_tokens=tokens(reasoning),
        prompt_audio_seconds=tokens(usage.get("prompt_audio_seconds")),
        service_tier=printable(_str(usage.get("service_tier")), MAX_NAME) or None,
    )


def _as_json(value: object) -> str:
    """A value's JSON text; empty for one that is nested too deeply to be written."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):
        return ""


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""
