"""Content parts in the forms of other APIs: which are known, and what they are converted to.

A part may be a mapping, or an object of a client library.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from mistral_service.conversation import foreign_readers as readers
from mistral_service.conversation.foreign_media import get, mapping_of, text_part, text_parts
from mistral_service.conversation.foreign_readers import (
    ForeignCall,
    ForeignResult,
    Nested,
    Piece,
    Pieces,
)
from mistral_service.conversation.plain import as_json

FAILED = "[Error] "
"""The beginning of the result of a function that has failed (R16)."""

OWN_KINDS = frozenset(
    ["text", "image_url", "input_audio", "file", "document_url", "reference", "thinking", "refusal"]
)
"""Types of parts in Mistral's API, or in OpenAI's chat completions."""

_MAX_DEPTH = 4

_Reader = Callable[[Any], Pieces]

_BY_KIND: Mapping[str, _Reader] = {
    # Anthropic's Messages
    **dict.fromkeys(("tool_use", "server_tool_use", "mcp_tool_use"), readers.tool_use),
    "tool_result": readers.tool_result,
    "image": readers.anthropic_image,
    "document": readers.anthropic_document,
    "search_result": readers.search_result,
    "redacted_thinking": readers.nothing,
    # OpenAI's Responses
    **dict.fromkeys(("input_text", "output_text"), lambda part: text_parts(get(part, "text"))),
    **dict.fromkeys(("input_image", "computer_screenshot"), readers.input_image),
    "input_file": readers.input_file,
    "reasoning": readers.nothing,
    "item_reference": readers.reference,
    # Pipecat's
    **dict.fromkeys(("file_base64", "file_url"), readers.pipecats_file),
}

# Families of types: `web_search_tool_result`, `function_call`, `shell_call_output`.
_BY_ENDING: Mapping[str, _Reader] = {
    "_tool_result": readers.tool_result,
    "_call": readers.called_item,
    "_call_output": readers.returned_item,
}

_BY_KEY: Mapping[str, _Reader] = {
    # Google's, in snake case and camel case
    **dict.fromkeys(("function_call", "functionCall"), readers.tool_use),
    **dict.fromkeys(("function_response", "functionResponse"), readers.google_result),
    **dict.fromkeys(("inline_data", "inlineData"), readers.google_data),
    **dict.fromkeys(("file_data", "fileData"), readers.google_file),
    **dict.fromkeys(("executable_code", "executableCode"), readers.google_code),
    **dict.fromkeys(("code_execution_result", "codeExecutionResult"), readers.google_code),
    # Bedrock's Converse
    "toolUse": readers.tool_use,
    "toolResult": readers.tool_result,
    **{kind: partial(readers.bedrock_media, kind) for kind in ("image", "document", "video")},
    "json": lambda value: text_parts(as_json(value)),
    "guardContent": lambda value: text_parts(get(get(value, "text"), "text")),
    **dict.fromkeys(("reasoningContent", "cachePoint"), readers.nothing),
    # Both
    "text": text_parts,
}


def kind_of(part: Any) -> str:
    """The name that another API has for a part or an item; empty if it is of no known API."""
    return _found(part)[0]


def pieces_of(part: Any) -> Sequence[Any] | None:
    """Convert a part to parts that `convert_part` takes, calls, and results.

    There are none if the part only concerns an API and its own model. The content of a result is
    text or such parts. None is returned for a part of no known API.
    """
    read = _read(part)
    if read is None:
        return None
    pieces: list[Any] = []
    for piece in read:
        if isinstance(piece, ForeignResult):
            content = content_of(piece.content)
            content = _as_failed(content) if piece.failed else content
            pieces.append(ForeignResult(piece.id, piece.name, content))
        else:
            pieces += _parts_in(piece.content) if isinstance(piece, Nested) else [piece]
    return pieces


def content_of(value: Any) -> str | list[Any]:
    """Convert what a function has returned to text, or to parts that `convert_part` takes.

    Any value that is neither becomes JSON text.
    """
    if value is None:
        return ""
    if isinstance(value, Mapping) and kind_of(value):
        value = [value]
    if isinstance(value, list | tuple) and any(map(_is_part, cast("Sequence[Any]", value))):
        return _parts_in(value)
    return value if isinstance(value, str) else as_json(value)


def _parts_in(value: Any, around: tuple[int, ...] = ()) -> list[Any]:
    """The parts of a nested content; calls and results in it become JSON text."""
    if isinstance(value, str):
        return text_parts(value)
    if value is None:
        return []
    here = id(value)
    if not isinstance(value, list | tuple) or here in around or len(around) >= _MAX_DEPTH:
        return [text_part(as_json(value))]
    parts: list[Any] = []
    for part in cast("Sequence[Any]", value):
        read = _read(part)
        if read is None and (isinstance(part, str) or _is_own(part)):
            parts.append(part)
        elif read is None:
            parts.append(text_part(as_json(_without_encrypted(part))))
        elif any(isinstance(piece, ForeignCall | ForeignResult) for piece in read):
            parts.append(text_part(as_json(part)))
        else:
            for piece in read:
                nested = isinstance(piece, Nested)
                parts += _parts_in(piece.content, (*around, here)) if nested else [piece]
    return parts


def _read(part: Any) -> Sequence[Piece] | None:
    kind, reader = _found(part)
    if reader is not None and reader is _BY_KEY.get(kind):
        # Google marks a thought next to its text.
        is_thought = kind == "text" and get(part, "thought") is True
        return () if is_thought else reader(get(part, kind))
    if reader is not None:
        return reader(part)
    if isinstance(part, str | Mapping) or not _is_own(part):
        return None
    return [mapping_of(part)]  # an object of Anthropic's or OpenAI's client


def _found(part: Any) -> tuple[str, _Reader | None]:
    if isinstance(part, str) or part is None:
        return "", None
    kind = get(part, "type")
    if not isinstance(kind, str):
        # A mapping has few keys, an object has any.
        keys = cast("Mapping[str, Any]", part) if isinstance(part, Mapping) else _BY_KEY
        kind = next((key for key in keys if key in _BY_KEY and get(part, key) is not None), "")
        return kind, _BY_KEY.get(kind)
    endings = (read for end, read in _BY_ENDING.items() if kind.endswith(end))
    reader = _BY_KIND.get(kind) or next(endings, None)
    return (kind if reader else ""), reader


def _is_own(part: Any) -> bool:
    kind = get(part, "type")
    return isinstance(kind, str) and kind in OWN_KINDS


def _is_part(value: Any) -> bool:
    return isinstance(value, str) or isinstance(get(value, "type"), str) or bool(kind_of(value))


def _without_encrypted(value: Any) -> Any:
    """A value without content that only its provider can decrypt."""
    if not isinstance(value, Mapping):
        return value
    given = cast("Mapping[str, Any]", value)
    return {key: given[key] for key in given if key != "encrypted_content"}


def _as_failed(content: str | list[Any]) -> str | list[Any]:
    """The result of a failed function, marked so that the model knows."""
    if isinstance(content, str):
        return FAILED + content
    head = content[0] if content else None
    text = head if isinstance(head, str) else get(head, "text")
    if not isinstance(text, str):
        return [text_part(FAILED.strip()), *content]
    return [text_part(FAILED + text), *content[1:]]
