"""Reads the fields of other APIs' parts, and the images, files and sound in them."""

import base64
from collections.abc import Mapping
from typing import Any, cast

from mistral_service.conversation.parts import Part

_MAX_NAME = 200
_ON_THE_WEB = ("http://", "https://", "data:")


def get(value: Any, name: str) -> Any:
    """A field of a mapping, or an attribute of an object; None if there is none."""
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value).get(name)
    found = getattr(value, name, None)
    return None if callable(found) else found  # pydantic's objects have a method `json`


def first(value: Any, *names: str) -> Any:
    """The first of several fields that a mapping or an object has; None if it has none."""
    return next((found for name in names if (found := get(value, name)) is not None), None)


def mapping_of(value: Any) -> dict[str, Any]:
    """The fields of a mapping, or of an object of a client library."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    dump = getattr(value, "model_dump", None)
    fields = dump(exclude_none=True) if callable(dump) else getattr(value, "__dict__", {})
    return dict(cast("dict[str, Any]", fields)) if isinstance(fields, dict) else {}


def text_part(text: str) -> Part:
    """A text as a part."""
    return {"type": "text", "text": text}


def text_parts(text: Any) -> list[Part]:
    """A text as parts: none for an empty one."""
    return [text_part(text)] if isinstance(text, str) and text else []


def file_text(text: str, name: Any) -> list[Part]:
    """The text of a file."""
    return [text_part(f"[File {name}]\n{text}" if isinstance(name, str) and name else text)]


def unavailable(what: str, name: Any) -> list[Part]:
    """A text for a file that another provider stores, and that Mistral cannot fetch."""
    if not isinstance(name, str) or not name:
        return [text_part(f"[{what} without a source]")]
    return [text_part(f"[{what} {name[:_MAX_NAME]}, kept by another provider]")]


def url_parts(url: Any, media_type: Any, name: Any = None) -> list[Part]:
    """An image or document by its URL, if Mistral can fetch it."""
    is_image = str(media_type).startswith("image/")
    if not isinstance(url, str) or not url.startswith(_ON_THE_WEB):
        return unavailable("image" if is_image else "file", url)
    if is_image:
        return [{"type": "image_url", "image_url": {"url": url}}]
    document: Part = {"type": "document_url", "document_url": url}
    if isinstance(name, str) and name:
        document["document_name"] = name
    return [document]


def data_parts(media_type: Any, data: Any, name: Any = None) -> list[Part]:
    """An image, sound, text or document from its bytes, or their base64 text."""
    kind = media_type if isinstance(media_type, str) and "/" in media_type else "application/pdf"
    encoded = _base64(data)
    if not encoded:
        return [text_part(f"[{kind} without data]")]
    if kind.startswith("audio/"):
        return [{"type": "input_audio", "input_audio": {"data": encoded}}]
    if kind.startswith("video/"):
        return [text_part(f"[{kind} that you cannot see]")]
    if kind.startswith("text/") or kind == "application/json":
        try:
            return file_text(base64.b64decode(encoded).decode("utf-8", "replace"), name)
        except ValueError:
            return [text_part(f"[{kind} that could not be read]")]
    return url_parts(f"data:{kind};base64,{encoded}", kind, name)


def _base64(data: Any) -> str:
    if isinstance(data, bytes | bytearray):
        return base64.b64encode(data).decode()
    text = data if isinstance(data, str) else ""
    # Google's client uses the URL-safe alphabet.
    return text.replace("-", "+").replace("_", "/") if "-" in text or "_" in text else text
