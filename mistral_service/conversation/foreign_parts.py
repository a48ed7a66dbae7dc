"""Content parts in the forms of other APIs: which are known, and what they are converted to.

A part may be a mapping, or an object of a client library.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from mistral_service.conversation import foreign_blocks as blocks
from mistral_service.conversation import foreign_keys as keys
from mistral_service.conversation.foreign_blocks import (
    ForeignCall,
    ForeignResult,
    Nested,
    Piece,
    Pieces,
)
from mistral_service.conversation.foreign_media import get, mapping_of, text_part, text_parts
from mistral_service.conversation.plain import as_json

FAILED = "[Error] "
"""The beginning of the result of a function that has failed (R16)."""

OWN_KINDS = frozenset(
    ["text", "image_url", "input_audio", "file", "document_url", "reference", "thinking", "refusal"]
)
"""Types of parts in Mistral's API, or in OpenAI's chat completions."""

_MAX_DEPTH = 4

_Reader = Callable[[Any, Any], Pieces]

_BY_KIND: Mapping[str, _Reader] = {
    # Anthropic's Messages
    "tool_use": blocks.tool_use,
    "server_tool_use": blocks.tool_use,
    "mcp_tool_use": blocks.tool_use,
    "tool_result": blocks.tool_result,
    "image": blocks.image,
    "document": blocks.document,
    "search_result": blocks.search_result,
    "redacted_thinking": blocks.nothing,
    # OpenAI's Responses
    "input_text": blocks.text,
    "output_text": blocks.text,
    "input_image": blocks.input_image,
    "computer_screenshot": blocks.input_image,
    "input_file": blocks.input_file,
    "reasoning": blocks.nothing,
    "item_reference": blocks.reference,
    # Pipecat's
    "file_base64": blocks.pipecats_file,
    "file_url": blocks.pipecats_file,
}

# Families of types: `web_search_tool_result`, `function_call`, `shell_call_output`.
_BY_ENDING: Mapping[str, _Reader] = {
    "_tool_result": blocks.tool_result,
    "_call": blocks.called_item,
    "_call_output": blocks.returned_item,
}

_BY_KEY: Mapping[str, _Reader] = {
    # Google's, in snake case and camel case
    "function_call": keys.google_call,
    "functionCall": keys.google_call,
    "function_response": keys.google_result,
    "functionResponse": keys.google_result,
    "inline_data": keys.google_data,
    "inlineData": keys.google_data,
    "file_data": keys.google_file,
    "fileData": keys.google_file,
    "executable_code": keys.google_code,
    "executableCode": keys.google_code,
    "code_execution_result": keys.google_outcome,
    "codeExecutionResult": keys.google_outcome,
    # Bedrock's Converse
    "toolUse": keys.bedrock_call,
    "toolResult": keys.bedrock_result,
    "image": keys.bedrock_media("image"),
    "document": keys.bedrock_media("document"),
    "video": keys.bedrock_media("video"),
    "json": keys.bedrock_json,
    "guardContent": keys.bedrock_guarded,
    "reasoningContent": blocks.nothing,
    "cachePoint": blocks.nothing,
    # Both
    "text": keys.google_text,
}


def kind_of(part: Any) -> str:
    """The name that another API has for a part or an item; empty if it is of no known API."""
    return _found(part)[0]


def pieces_of(part: Any) -> Sequence[Any] | None:
    """Convert a part to Mistral's form.

    Args:
        part: A part in any form.

    Returns:
        Parts that `convert_part` takes, calls, and results whose content is text or such parts,
        in their order: none if the part only concerns an API and its own model. None if it is of no
        known API.
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
        elif isinstance(piece, Nested):
            pieces += _parts_in(piece.content, ())
        else:
            pieces.append(piece)
    return pieces


def content_of(value: Any) -> str | list[Any]:
    """Convert what a function has returned.

    Args:
        value: Text, parts in any form, or any other value.

    Returns:
        Text, or parts that `convert_part` takes. Any other value becomes JSON text.
    """
    if value is None:
        return ""
    if isinstance(value, Mapping) and kind_of(value):
        value = [value]
    if isinstance(value, list | tuple) and any(map(_is_part, cast("Sequence[Any]", value))):
        return _parts_in(value, ())
    return value if isinstance(value, str) else as_json(value)


def _parts_in(value: Any, around: tuple[int, ...]) -> list[Any]:
    """The parts of a nested content; calls and results in it become JSON text."""
    if isinstance(value, str):
        return text_parts(value)
    if not isinstance(value, list | tuple):
        return [] if value is None else [text_part(as_json(value))]
    if id(cast("object", value)) in around or len(around) >= _MAX_DEPTH:
        return [text_part(as_json(value))]
    parts: list[Any] = []
    for part in cast("Sequence[Any]", value):
        read = _read(part)
        if read is None:
            parts.append(
                part
                if isinstance(part, str) or _is_own(part)
                else text_part(as_json(_without_encrypted(part)))
            )
        elif any(isinstance(piece, ForeignCall | ForeignResult) for piece in read):
            parts.append(text_part(as_json(part)))
        else:
            for piece in read:
                if isinstance(piece, Nested):
                    parts += _parts_in(piece.content, (*around, id(cast("object", value))))
                else:
                    parts.append(piece)
    return parts


def _read(part: Any) -> Sequence[Piece] | None:
    kind, reader = _found(part)
    if reader is not None:
        return reader(get(part, kind), part) if reader is _BY_KEY.get(kind) else reader(part, part)
    if isinstance(part, str | Mapping) or not _is_own(part):
        return None
    return [mapping_of(part)]  # an object of Anthropic's or OpenAI's client


def _found(part: Any) -> tuple[str, _Reader | None]:
    if isinstance(part, str) or part is None:
        return "", None
    kind = get(part, "type")
    if not isinstance(kind, str):
        # A mapping has few keys, an object has any.
        keys_of = cast("Mapping[str, Any]", part) if isinstance(part, Mapping) else _BY_KEY
        for key in keys_of:
            if key in _BY_KEY and get(part, key) is not None:
                return key, _BY_KEY[key]
        return "", None
    reader = _BY_KIND.get(kind)
    if reader is None:
        reader = next((read for end, read in _BY_ENDING.items() if kind.endswith(end)), None)
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
