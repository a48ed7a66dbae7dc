"""Parts and items with a `type`: Anthropic's, and those of OpenAI's Responses.

Each is converted to parts, calls and results. Nested parts are left to the caller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mistral_service.conversation.foreign_media import (
    data_parts,
    file_text,
    first,
    get,
    text_parts,
    unavailable,
    url_parts,
)
from mistral_service.conversation.parts import Part
from mistral_service.conversation.plain import as_json


@dataclass(frozen=True, slots=True)
class ForeignCall:
    """A call in another API's part.

    Parameters:
        id: Its id; empty if it has none.
        name: The function's name.
        arguments: Its arguments, as text.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ForeignResult:
    """A result in another API's part.

    Parameters:
        id: The id of its call; empty if it has none.
        name: The function's name; empty if it has none.
        content: What the function returned, in any form.
        failed: Whether it is marked as an error.
    """

    id: str
    name: str
    content: Any
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Nested:
    """Parts within a part, in the form of another API.

    Parameters:
        content: The parts.
    """

    content: Any


Piece = Part | ForeignCall | ForeignResult | Nested
"""What a part is converted to: a part in Mistral's form, a call, a result, or nested parts."""

Pieces = Sequence[Piece]

_ITEM_FIELDS = frozenset(
    {"type", "id", "call_id", "name", "status", "output", "outputs", "result", "results"}
)


def call(call_id: Any, name: Any, arguments: Any) -> ForeignCall:
    """A call from fields of any type."""
    if not isinstance(arguments, str):
        arguments = "" if arguments is None else as_json(arguments)
    return ForeignCall(_name(call_id), _name(name), arguments)


def result(call_id: Any, name: Any, content: Any, failed: Any = False) -> ForeignResult:
    """A result from fields of any type."""
    return ForeignResult(_name(call_id), _name(name), content, bool(failed))


def nothing(_: Any, __: Any) -> Pieces:
    """A part that only concerns an API and its own model."""
    return ()


def text(part: Any, _: Any) -> Pieces:
    """`input_text`, `output_text`."""
    return text_parts(get(part, "text"))


def image(part: Any, _: Any) -> Pieces:
    """Anthropic's `image`."""
    return _source(part, "image/png")


def document(part: Any, _: Any) -> Pieces:
    """Anthropic's `document`, and Cohere's in results of functions."""
    own = get(part, "document")
    if get(part, "source") is None and own is not None:
        data = own if isinstance(own, str) else first(own, "data", "text")
        return text_parts(data if isinstance(data, str) else as_json(data or own))
    return [*_source(part, "application/pdf"), *text_parts(get(part, "context"))]


def search_result(part: Any, _: Any) -> Pieces:
    """Anthropic's `search_result`."""
    head = " ".join(str(get(part, name) or "") for name in ("title", "source")).strip()
    return [*text_parts(head), Nested(get(part, "content"))]


def input_image(part: Any, _: Any) -> Pieces:
    """`input_image`, whose URL is a string, and `computer_screenshot`."""
    url = get(part, "image_url")
    url = url if isinstance(url, str) or url is None else get(url, "url")
    if not isinstance(url, str):
        return unavailable("image", get(part, "file_id"))
    detail = get(part, "detail") if get(part, "detail") != "auto" else None
    return [
        {
            "type": "image_url",
            "image_url": {"url": url, "detail": detail} if detail else {"url": url},
        }
    ]


def input_file(part: Any, _: Any) -> Pieces:
    """`input_file`: its data, its URL, or its id."""
    name, data = get(part, "filename"), get(part, "file_data")
    if not isinstance(data, str) or not data:
        url = get(part, "file_url")
        return (
            url_parts(url, "", name) if url else unavailable("file", get(part, "file_id") or name)
        )
    head, comma, encoded = data[:100].partition(",")
    if not head.startswith("data:") or not comma:
        return data_parts("application/pdf", data, name)
    if head.startswith("data:text/"):
        return data_parts(head[5:].partition(";")[0], encoded + data[100:], name)
    return url_parts(data, "", name)


def pipecats_file(part: Any, _: Any) -> Pieces:
    """`file_base64` and `file_url`."""
    file = get(part, "file")
    return url_parts(first(file, "file_data", "url"), get(file, "mime_type"), get(file, "filename"))


def tool_use(part: Any, _: Any) -> Pieces:
    """Anthropic's `tool_use`, of the user's functions and of built-in tools."""
    return [call(get(part, "id"), get(part, "name"), get(part, "input"))]


def tool_result(part: Any, _: Any) -> Pieces:
    """Anthropic's `tool_result`, of the user's functions and of built-in tools."""
    content = get(part, "content")
    failed = get(part, "is_error") or str(get(content, "type")).endswith("_error")
    return [result(get(part, "tool_use_id"), "", content, failed)]


def called_item(part: Any, _: Any) -> Pieces:
    """A call of the Responses API; the call of a built-in tool contains its result."""
    kind = str(get(part, "type"))
    call_id = first(part, "call_id", "id")
    arguments = first(part, "arguments", "args", "input", "action")
    if arguments is None and isinstance(part, Mapping):
        given = cast("Mapping[str, Any]", part)
        arguments = {key: given[key] for key in given if key not in _ITEM_FIELDS} or None
    pieces: list[Piece] = [
        call(call_id, get(part, "name") or kind.removesuffix("_call"), arguments)
    ]
    output, error = first(part, "output", "outputs", "results", "result"), get(part, "error")
    if kind == "image_generation_call" and isinstance(output, str):
        output = {"type": "image", "source": {"type": "base64", "data": output}}
    if error or output is not None:
        pieces.append(result(call_id, "", error or output, error))
    return pieces


def returned_item(part: Any, _: Any) -> Pieces:
    """The output of a call of the Responses API."""
    return [result(first(part, "call_id", "id"), "", get(part, "output"))]


def reference(part: Any, _: Any) -> Pieces:
    """An item that OpenAI stores."""
    return unavailable("message", get(part, "id"))


def _source(part: Any, media_type: str) -> Pieces:
    """The `source` of Anthropic's images and documents."""
    source, name = get(part, "source"), get(part, "title")
    data = get(source, "data")
    match get(source, "type"):
        case "base64":
            return data_parts(get(source, "media_type") or media_type, data, name)
        case "text" if isinstance(data, str):
            return file_text(data, name)
        case "content":
            return [*text_parts(f"[File {name}]" if name else ""), Nested(get(source, "content"))]
        case "url":
            return url_parts(get(source, "url"), media_type, name)
        case _:
            what = "image" if media_type.startswith("image/") else "file"
            return unavailable(what, get(source, "file_id") or name)


def _name(value: Any) -> str:
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else ""
