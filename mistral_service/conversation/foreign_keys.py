"""Parts that are identified by their one key: Google's, and those of Bedrock's Converse."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from mistral_service.conversation.foreign_blocks import Nested, Pieces, call, result
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
    """`text`; with `thought: true`, a thought, which is left out."""
    return () if get(part, "thought") is True else text_parts(text)


def google_call(made: Any, _: Any) -> Pieces:
    """`function_call`."""
    return [call(get(made, "id"), get(made, "name"), get(made, "args"))]


def google_result(returned: Any, _: Any) -> Pieces:
    """`function_response`, with its images and files."""
    response = get(returned, "response")
    if isinstance(response, Mapping) and set(cast("Mapping[Any, Any]", response)) == {"value"}:
        # Pipecat wraps a result that is no object in this.
        response = cast("Mapping[str, Any]", response)["value"]
    content: Any = response if isinstance(response, str) else as_json(response)
    parts = get(returned, "parts")
    if isinstance(parts, list) and parts:
        content = [text_part(content), *cast("list[Any]", parts)]
    return [result(get(returned, "id"), get(returned, "name"), content)]


def google_data(data: Any, _: Any) -> Pieces:
    """`inline_data`."""
    name = first(data, "display_name", "displayName")
    return data_parts(first(data, "mime_type", "mimeType"), get(data, "data"), name)


def google_file(file: Any, _: Any) -> Pieces:
    """`file_data`: a file on the web, or one that Google stores."""
    uri, media_type = first(file, "file_uri", "fileUri"), first(file, "mime_type", "mimeType")
    if isinstance(uri, str) and "googleapis.com/" in uri:
        return unavailable("image" if str(media_type).startswith("image/") else "file", uri)
    return url_parts(uri, media_type)


def google_code(code: Any, _: Any) -> Pieces:
    """`executable_code`."""
    return text_parts(f"```\n{get(code, 'code') or ''}\n```")


def google_outcome(outcome: Any, _: Any) -> Pieces:
    """`code_execution_result`."""
    return text_parts(f"```\n{get(outcome, 'output') or ''}\n```")


def bedrock_call(made: Any, _: Any) -> Pieces:
    """`toolUse`."""
    return [call(get(made, "toolUseId"), get(made, "name"), get(made, "input"))]


def bedrock_result(returned: Any, _: Any) -> Pieces:
    """`toolResult`."""
    failed = get(returned, "status") == "error"
    return [result(get(returned, "toolUseId"), "", get(returned, "content"), failed)]


def bedrock_json(value: Any, _: Any) -> Pieces:
    """`json`, in a result."""
    return text_parts(as_json(value))


def bedrock_guarded(value: Any, _: Any) -> Pieces:
    """`guardContent`."""
    return text_parts(get(get(value, "text"), "text"))


def bedrock_media(family: str) -> Callable[[Any, Any], Pieces]:
    """The reader of `image`, `document` or `video`."""

    def read(media: Any, _: Any) -> Pieces:
        source, name = get(media, "source"), get(media, "name")
        data, form = get(source, "bytes"), str(get(media, "format") or "")
        if data is not None and family == "document":
            return data_parts(_DOCUMENTS.get(form, f"application/{form or 'pdf'}"), data, name)
        if data is not None:
            return data_parts(f"{family}/{form or 'png'}", data, name)
        if isinstance(get(source, "text"), str):
            return file_text(get(source, "text"), name)
        if get(source, "content") is not None:
            return [*text_parts(f"[File {name}]" if name else ""), Nested(get(source, "content"))]
        return unavailable(family, get(get(source, "s3Location"), "uri") or name)

    return read
