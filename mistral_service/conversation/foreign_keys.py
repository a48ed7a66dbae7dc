"""Parts that are named by the one key that they have: Google's, and Bedrock's Converse."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from mistral_service.conversation.foreign_blocks import Nested, Pieces, call, result
from mistral_service.conversation.foreign_media import (
    at,
    elsewhere,
    first,
    get,
    named,
    said,
    shown,
    text_part,
)
from mistral_service.conversation.plain import as_json

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


def google_text(text: Any, part: Any) -> Pieces:
    """Words; with a `thought` beside them, a thought."""
    return () if get(part, "thought") is True else said(text)


def google_call(made: Any, _: Any) -> Pieces:
    """`function_call`."""
    return [call(get(made, "id"), get(made, "name"), get(made, "args"))]


def google_result(returned: Any, _: Any) -> Pieces:
    """`function_response`, with what it shows."""
    response = get(returned, "response")
    if isinstance(response, Mapping) and set(cast("Mapping[Any, Any]", response)) == {"value"}:
        # Pipecat puts this around a result that is no object.
        response = cast("Mapping[str, Any]", response)["value"]
    content = response if isinstance(response, str) else as_json(response)
    parts = get(returned, "parts")
    if isinstance(parts, list) and parts:
        return [
            result(
                get(returned, "id"),
                get(returned, "name"),
                [text_part(content), *cast("list[Any]", parts)],
            )
        ]
    return [result(get(returned, "id"), get(returned, "name"), content)]


def google_data(data: Any, _: Any) -> Pieces:
    """`inline_data`."""
    name = first(data, "display_name", "displayName")
    return shown(first(data, "mime_type", "mimeType"), get(data, "data"), name)


def google_file(file: Any, _: Any) -> Pieces:
    """`file_data`: a file on the web, or one that Google keeps."""
    uri, media_type = first(file, "file_uri", "fileUri"), first(file, "mime_type", "mimeType")
    if isinstance(uri, str) and "googleapis.com/" in uri:
        return elsewhere("image" if str(media_type).startswith("image/") else "file", uri)
    return at(uri, media_type)


def google_code(code: Any, _: Any) -> Pieces:
    """`executable_code`."""
    return said(f"```\n{get(code, 'code') or ''}\n```")


def google_outcome(outcome: Any, _: Any) -> Pieces:
    """`code_execution_result`."""
    return said(f"```\n{get(outcome, 'output') or ''}\n```")


def bedrock_call(made: Any, _: Any) -> Pieces:
    """`toolUse`."""
    return [call(get(made, "toolUseId"), get(made, "name"), get(made, "input"))]


def bedrock_result(returned: Any, _: Any) -> Pieces:
    """`toolResult`."""
    failed = get(returned, "status") == "error"
    return [result(get(returned, "toolUseId"), "", get(returned, "content"), failed)]


def bedrock_json(value: Any, _: Any) -> Pieces:
    """`json`, in a result."""
    return said(as_json(value))


def bedrock_guarded(value: Any, _: Any) -> Pieces:
    """`guardContent`."""
    return said(get(get(value, "text"), "text"))


def bedrock_media(family: str) -> Callable[[Any, Any], Pieces]:
    """What reads `image`, `document`, `video`."""

    def read(media: Any, _: Any) -> Pieces:
        source, name = get(media, "source"), get(media, "name")
        data, form = get(source, "bytes"), str(get(media, "format") or "")
        if data is not None and family == "document":
            return shown(_DOCUMENTS.get(form, f"application/{form or 'pdf'}"), data, name)
        if data is not None:
            return shown(f"{family}/{form or 'png'}", data, name)
        if isinstance(get(source, "text"), str):
            return named(get(source, "text"), name)
        if get(source, "content") is not None:
            return [*said(f"[File {name}]" if name else ""), Nested(get(source, "content"))]
        return elsewhere(family, get(get(source, "s3Location"), "uri") or name)

    return read
