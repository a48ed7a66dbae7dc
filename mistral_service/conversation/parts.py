"""The parts of a message's content, in the forms that Mistral takes."""

from collections.abc import Mapping
from typing import Any, cast

from mistral_service.wire.trees import object_of

Part = dict[str, Any]

EARLIER_IMAGE = "[image from earlier]"
"""Replaces an image that exceeds the limits of the request (R10)."""

UNREADABLE_IMAGE = "[image that could not be read]"
"""Replaces an image that is broken or too large."""

UNSEEN_IMAGE = "[image that you cannot see]"
"""Replaces an image in a request to a model without vision."""

_MAX_LOGGED = 100
_MAX_NAME = 200
_DETAILS = ("low", "auto", "high")
_CITED = ("tool", "title", "url", "favicon", "description")


class ImageError(ValueError):
    """An image cannot be sent; the message says why, worded to follow a colon.

    Attributes:
        reported: Whether the error has been reported, which happens once for each image.
    """

    reported = False


def text_of(content: Any) -> str:
    """The text of a content in any form; parts are joined by line feeds."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (_mapping(part).get("text") for part in cast("list[Any]", content))
    return "\n".join(text for text in texts if isinstance(text, str) and text)


def has_content(content: Any) -> bool:
    """Whether a content is not empty or blank."""
    return bool(content.strip()) if isinstance(content, str) else bool(content)


def refusal_or_transcript(message: Mapping[str, Any]) -> str:
    """The text of an assistant message with empty content: its refusal or audio transcript."""
    if message["role"] != "assistant" or has_content(message.get("content")):
        return ""
    text = message.get("refusal") or _mapping(message.get("audio")).get("transcript")
    return text if isinstance(text, str) else ""


def convert_part(part: Any) -> Part | None:
    """A part in OpenAI's or Mistral's form as Mistral takes it; None if it is empty.

    It is the same object if nothing needs to change. A part of an unknown type becomes text.
    """
    if isinstance(part, str):
        return {"type": "text", "text": part} if part.strip() else None
    if not isinstance(part, Mapping):
        return None
    part = cast("Part", part)
    match part.get("type"):
        case "text":
            return _text(part)
        case "image_url":
            return _image(part)
        case "input_audio":
            return _audio(part)
        case "file":
            return _file(part)
        case "document_url":
            return _document(part)
        case "reference":
            ids = part.get("reference_ids")
            return _with_only(part, reference_ids=ids) if isinstance(ids, list) else None
        case "resource":
            return _resource(part)
        case "resource_link":
            return _link(part)
        case "thinking":
            return _thinking(part)
        case kind:
            text = next((part[k] for k in ("text", "refusal") if isinstance(part.get(k), str)), "")
            return {"type": "text", "text": text or f"[{kind}]"}


def is_text(part: Part) -> bool:
    """Whether a part is text."""
    return part.get("type") == "text"


def image_in(part: Part) -> Part | None:
    """The image of a part: the part itself, or the content of a resource; None without one."""
    inner = object_of(part.get("content")) if part.get("type") == "resource" else part
    return inner if inner.get("type") == "image_url" else None


def link_or_resource_as_text(part: Part) -> Part:
    """A resource of text, or a link, as a text part; other parts of Mistral's as they are."""
    if part.get("type") == "resource" and is_text(part["content"]):
        return part["content"]
    if part.get("type") == "resource_link":
        return {"type": "text", "text": part["uri"]}
    return part


def for_server(part: Part, kinds: frozenset[str] | None) -> Part | None:
    """A part of Mistral's in a form that a server takes which knows only some `kinds`.

    It is the part, the image or text in it, or a text that names what cannot be sent; None for
    thoughts and references.
    """
    if kinds is None or part["type"] in kinds:
        return part
    image = image_in(part)
    text = link_or_resource_as_text(part)
    if image is not None or is_text(text):
        return image or text
    if part["type"] in ("thinking", "reference"):
        return None
    name = part.get("document_name") or part.get("document_url") or part.get("file_id") or ""
    shown = f" {str(name)[:_MAX_NAME]}" if name and not str(name).startswith("data:") else ""
    what = {"input_audio": "sound", "document_url": "document"}.get(part["type"], part["type"])
    return {"type": "text", "text": f"[{what}{shown} that you cannot read]"}


def as_parts(content: Any) -> list[Part]:
    """A content as a list of parts."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(cast("list[Part]", content or []))


def without_bytes(message: dict[str, Any]) -> dict[str, Any]:
    """A message for a log: the same, or a copy without the bytes of images, files and sound."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = [_without_bytes(part) for part in cast("list[Any]", content)]
    return {**message, "content": parts}


def _without_bytes(part: Any) -> Any:
    fields = _mapping(part)
    kind = fields.get("type")
    if kind not in ("image_url", "document_url", "input_audio"):
        return part
    value = fields.get(kind)
    inner = next((name for name in ("url", "data") if name in _mapping(value)), None)
    text = _mapping(value)[inner] if inner else value
    if not isinstance(text, str) or len(text) <= _MAX_LOGGED or text.startswith("http"):
        return part
    short = f"{text.partition(',')[0][:_MAX_LOGGED]}..."
    return {**fields, kind: {**_mapping(value), inner: short} if inner else short}


def _text(part: Part) -> Part | None:
    text = part.get("text")
    if not isinstance(text, str) or not text.strip():
        return None
    return part if len(part) == 2 else {"type": "text", "text": text}


def _image(part: Part) -> Part | None:
    """Mistral takes the bare URL as well; vLLM takes the object only."""
    image = part.get("image_url")
    fields = {"url": image} if isinstance(image, str) else _mapping(image)
    if not isinstance(fields.get("url"), str):
        return None
    kept = {"url": fields["url"]}
    if fields.get("detail") in _DETAILS:
        kept["detail"] = fields["detail"]
    return _with_only(part, image_url=kept)


def _audio(part: Part) -> Part | None:
    """OpenAI wraps the base64 text in an object, Mistral does not."""
    audio = part.get("input_audio")
    audio = _mapping(audio).get("data", audio)
    return _with_only(part, input_audio=audio) if isinstance(audio, str) and audio else None


def _document(part: Part) -> Part | None:
    url = part.get("document_url")
    url = _mapping(url).get("url", url)
    if not isinstance(url, str):
        return None
    name = part.get("document_name")
    named = {"document_name": name} if isinstance(name, str) else {}
    return _with_only(part, document_url=url, **named)


def _resource(part: Part) -> Part | None:
    """Mistral's resource contains a part; MCP's contains text, or base64 that no model reads."""
    embedded = _mapping(part.get("resource"))
    uri = part.get("uri", embedded.get("uri"))
    content: Any = part.get("content", embedded.get("text"))
    inner = convert_part(content)
    if inner is None or inner["type"] not in ("text", "image_url"):
        return _link({"type": "resource_link", "uri": uri})
    if not isinstance(uri, str):
        return inner
    made: Part = {"type": "resource", "uri": uri, "content": inner}
    return part if part == made and content is inner else made


def _link(part: Part) -> Part | None:
    uri, metadata = part.get("uri"), part.get("metadata")
    if not isinstance(uri, str) or not uri.strip():
        return None
    kept = {
        str(name): value
        for name, value in _mapping(metadata).items()
        if isinstance(value, str | int | float)
    }
    return _with_only(part, uri=uri, **({"metadata": kept} if kept else {}))


def _thinking(part: Part) -> Part | None:
    """Mistral's thinking is a list of texts and sources, Anthropic's a string."""
    thinking = part.get("thinking")
    if isinstance(thinking, str):
        thinking = [{"type": "text", "text": thinking}] if thinking else []
    if not isinstance(thinking, list):
        return None
    items = [_thought(item) for item in cast("list[Any]", thinking)]
    kept = [item for item in items if item is not None]
    if not any(map(is_text, kept)):
        return None
    fields = {"closed": bool, "signature": str}
    more = {name: part[name] for name, kind in fields.items() if isinstance(part.get(name), kind)}
    return _with_only(part, thinking=thinking if kept == thinking else kept, **more)


def _thought(item: Any) -> Part | None:
    """An item of a thought: a text, a reference, or a tool's reference."""
    if _mapping(item).get("type") != "tool_reference":
        made = convert_part(item)
        return made if made is not None and made["type"] in ("text", "reference") else None
    found = {name: item[name] for name in _CITED if isinstance(item.get(name), str)}
    return _with_only(item, **found) if {"tool", "title"} <= found.keys() else None


def _with_only(part: Part, **fields: Any) -> Part:
    """A part with its type and these fields only; the same object if it has no others."""
    made = {"type": part["type"], **fields}
    return part if part == made else made


def _file(part: Part) -> Part | None:
    """OpenAI's `file` is Mistral's `document_url`, or a `file` by its id."""
    file = _mapping(part.get("file"))
    file_id = part.get("file_id")
    if not isinstance(file_id, str) and isinstance(file.get("file_data"), str):
        name = file.get("filename")
        named = {"document_name": str(name)} if name else {}
        return {"type": "document_url", "document_url": file["file_data"], **named}
    file_id = file_id if isinstance(file_id, str) else file.get("file_id")
    return _with_only(part, file_id=file_id) if isinstance(file_id, str) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
