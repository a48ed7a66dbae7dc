"""Reads the parts of other APIs: Anthropic's, Google's, OpenAI's Responses', and Bedrock's.

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
    text_part,
    text_parts,
    unavailable,
    url_parts,
)
from mistral_service.conversation.parts import Part
from mistral_service.conversation.plain import as_json


@dataclass(frozen=True, slots=True)
class ForeignCall:
    """A call in another API's part; its id may be empty, its arguments are text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ForeignResult:
    """A result in another API's part; the id of its call and the function's name may be empty.

    Parameters:
        content: What the function returned, in any form.
        failed: Whether it is marked as an error.
    """

    id: str
    name: str
    content: Any
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Nested:
    """Parts within a part, in the form of another API."""

    content: Any


Piece = Part | ForeignCall | ForeignResult | Nested
"""What a part is converted to: a part in Mistral's form, a call, a result, or nested parts."""

Pieces = Sequence[Piece]

_ITEM_FIELDS = frozenset(
    {"type", "id", "call_id", "name", "status", "output", "outputs", "result", "results"}
)
_DOCUMENTS = {
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "html": "text/html",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


def call(call_id: Any, name: Any, arguments: Any) -> ForeignCall:
    """A call from fields of any type."""
    if not isinstance(arguments, str):
        arguments = "" if arguments is None else as_json(arguments)
    return ForeignCall(_name(call_id), _name(name), arguments)


def _result(call_id: Any, name: Any, content: Any, failed: Any = False) -> ForeignResult:
    return ForeignResult(_name(call_id), _name(name), content, bool(failed))


def _name(value: Any) -> str:
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else ""


def nothing(_: Any) -> Pieces:
    """A part that only concerns an API and its own model."""
    return ()


# --- Anthropic's Messages ---


def tool_use(part: Any) -> Pieces:
    """A call of the user's functions or of built-in tools; also Google's and Bedrock's."""
    arguments = first(part, "input", "args")
    return [call(first(part, "id", "toolUseId"), get(part, "name"), arguments)]


def tool_result(part: Any) -> Pieces:
    """A result of the user's functions or of built-in tools; also Bedrock's."""
    content = get(part, "content")
    failed = get(part, "is_error") or get(part, "status") == "error"
    failed = failed or str(get(content, "type")).endswith("_error")
    return [_result(first(part, "tool_use_id", "toolUseId"), "", content, failed)]


def anthropic_image(part: Any) -> Pieces:
    """`image`."""
    return _source(part, "image/png")


def anthropic_document(part: Any) -> Pieces:
    """`document`, also Cohere's in results of functions."""
    own = get(part, "document")
    if get(part, "source") is None and own is not None:
        data = own if isinstance(own, str) else first(own, "data", "text")
        return text_parts(data if isinstance(data, str) else as_json(data or own))
    return [*_source(part, "application/pdf"), *text_parts(get(part, "context"))]


def search_result(part: Any) -> Pieces:
    """`search_result`."""
    head = " ".join(str(get(part, name) or "") for name in ("title", "source")).strip()
    return [*text_parts(head), Nested(get(part, "content"))]


def _source(part: Any, media_type: str) -> Pieces:
    """The `source` of an image or a document."""
    source, name = get(part, "source"), get(part, "title")
    data = get(source, "data")
    match get(source, "type"):
        case "base64":
            return data_parts(get(source, "media_type") or media_type, data, name)
        case "text" if isinstance(data, str):
            return file_text(data, name)
        case "content":
            return _nested_file(source, name)
        case "url":
            return url_parts(get(source, "url"), media_type, name)
        case _:
            what = "image" if media_type.startswith("image/") else "file"
            return unavailable(what, get(source, "file_id") or name)


def _nested_file(source: Any, name: Any) -> Pieces:
    return [*text_parts(f"[File {name}]" if name else ""), Nested(get(source, "content"))]


# --- Bedrock's Converse ---


def bedrock_media(family: str, media: Any) -> Pieces:
    """`image`, `document` or `video`."""
    source, name = get(media, "source"), get(media, "name")
    data, form = get(source, "bytes"), str(get(media, "format") or "")
    if data is not None and family == "document":
        return data_parts(_DOCUMENTS.get(form, f"application/{form or 'pdf'}"), data, name)
    if data is not None:
        return data_parts(f"{family}/{form or 'png'}", data, name)
    if isinstance(get(source, "text"), str):
        return file_text(get(source, "text"), name)
    if get(source, "content") is not None:
        return _nested_file(source, name)
    return unavailable(family, get(get(source, "s3Location"), "uri") or name)


# --- Google's ---


def google_result(returned: Any) -> Pieces:
    """`function_response`, with its images and files."""
    response = get(returned, "response")
    if isinstance(response, Mapping) and set(cast("Mapping[Any, Any]", response)) == {"value"}:
        # Pipecat wraps a result that is no object in this.
        response = cast("Mapping[str, Any]", response)["value"]
    content: Any = response if isinstance(response, str) else as_json(response)
    parts = get(returned, "parts")
    if isinstance(parts, list) and parts:
        content = [text_part(content), *cast("list[Any]", parts)]
    return [_result(get(returned, "id"), get(returned, "name"), content)]


def google_data(data: Any) -> Pieces:
    """`inline_data`."""
    name = first(data, "display_name", "displayName")
    return data_parts(first(data, "mime_type", "mimeType"), get(data, "data"), name)


def google_file(file: Any) -> Pieces:
    """`file_data`: a file on the web, or one that Google stores."""
    uri, media_type = first(file, "file_uri", "fileUri"), first(file, "mime_type", "mimeType")
    if isinstance(uri, str) and "googleapis.com/" in uri:
        return unavailable("image" if str(media_type).startswith("image/") else "file", uri)
    return url_parts(uri, media_type)


def google_code(code: Any) -> Pieces:
    """`executable_code`, and the `output` of `code_execution_result`."""
    return text_parts(f"```\n{first(code, 'code', 'output') or ''}\n```")


# --- OpenAI's Responses, and Pipecat's files ---


def input_image(part: Any) -> Pieces:
    """`input_image`, whose URL is a string, and `computer_screenshot`."""
    url = get(part, "image_url")
    url = url if isinstance(url, str) or url is None else get(url, "url")
    if not isinstance(url, str):
        return unavailable("image", get(part, "file_id"))
    detail = get(part, "detail")
    image = {"url": url, "detail": detail} if detail and detail != "auto" else {"url": url}
    return [{"type": "image_url", "image_url": image}]


def input_file(part: Any) -> Pieces:
    """`input_file`: its data, its URL, or its id."""
    name, data, url = (get(part, field) for field in ("filename", "file_data", "file_url"))
    if not isinstance(data, str) or not data:
        missing = get(part, "file_id") or name
        return url_parts(url, "", name) if url else unavailable("file", missing)
    head, comma, encoded = data[:100].partition(",")
    if not head.startswith("data:") or not comma:
        return data_parts("application/pdf", data, name)
    if head.startswith("data:text/"):
        return data_parts(head[5:].partition(";")[0], encoded + data[100:], name)
    return url_parts(data, "", name)


def pipecats_file(part: Any) -> Pieces:
    """`file_base64` and `file_url`."""
    file = get(part, "file")
    return url_parts(first(file, "file_data", "url"), get(file, "mime_type"), get(file, "filename"))


def called_item(part: Any) -> Pieces:
    """A call; that of a built-in tool contains its result."""
    kind = str(get(part, "type"))
    call_id = first(part, "call_id", "id")
    arguments = first(part, "arguments", "args", "input", "action")
    if arguments is None and isinstance(part, Mapping):
        given = cast("Mapping[str, Any]", part)
        arguments = {key: given[key] for key in given if key not in _ITEM_FIELDS} or None
    made = call(call_id, get(part, "name") or kind.removesuffix("_call"), arguments)
    output, error = first(part, "output", "outputs", "results", "result"), get(part, "error")
    if kind == "image_generation_call" and isinstance(output, str):
        output = {"type": "image", "source": {"type": "base64", "data": output}}
    if error or output is not None:
        return [made, _result(call_id, "", error or output, error)]
    return [made]


def returned_item(part: Any) -> Pieces:
    """The output of a call."""
    return [_result(first(part, "call_id", "id"), "", get(part, "output"))]


def reference(part: Any) -> Pieces:
    """An item that OpenAI stores."""
    return unavailable("message", get(part, "id"))
