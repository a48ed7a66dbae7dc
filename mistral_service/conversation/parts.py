"""The parts of a message's content, in the forms that Mistral takes."""

from collections.abc import Mapping
from typing import Any, cast

Part = dict[str, Any]

PICTURE_FROM_EARLIER = "[image from earlier]"
"""What stands where an image stood that the request has no room for (R10)."""

UNREADABLE_PICTURE = "[image that could not be read]"
"""What stands where an image stood that is broken, or too large to be one."""

UNSEEN_PICTURE = "[image that you cannot see]"
"""What stands where an image stood in a request to a model without vision."""

_MOST_SHOWN = 100

_LONGEST_NAME = 200

_DETAILS = ("low", "auto", "high")
_CITED = ("tool", "title", "url", "favicon", "description")


class ImageError(ValueError):
    """An image cannot be sent; the message says why, in words to stand behind a colon.

    Attributes:
        told: Whether it has been told, which is done once for each image.
    """

    told = False


def text_of(content: Any) -> str:
    """The words in a content, whichever form it has; parts are joined by line feeds."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (_mapping(part).get("text") for part in cast("list[Any]", content))
    return "\n".join(text for text in texts if isinstance(text, str) and text)


def has_content(content: Any) -> bool:
    """Whether a content says anything."""
    return bool(content.strip()) if isinstance(content, str) else bool(content)


def said_elsewhere(message: Mapping[str, Any]) -> str:
    """Words of the assistant that stand beside an empty content."""
    if message["role"] != "assistant" or has_content(message.get("content")):
        return ""
    audio = message.get("audio")
    heard = cast("dict[str, Any]", audio).get("transcript") if isinstance(audio, dict) else None
    words = message.get("refusal") or heard
    return words if isinstance(words, str) else ""


def mistrals_part(part: Any) -> Part | None:
    """One part of a content in Mistral's form.

    Args:
        part: A part in OpenAI's or Mistral's form.

    Returns:
        The part, the same object if it is as it should be; None if it says nothing. What has no
        form of its own is restated as text.
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
            return _kept(part, reference_ids=ids) if isinstance(ids, list) else None
        case "resource":
            return _resource(part)
        case "resource_link":
            return _link(part)
        case "thinking":
            return _thinking(part)
        case kind:
            words = next((part[k] for k in ("text", "refusal") if isinstance(part.get(k), str)), "")
            return {"type": "text", "text": words or f"[{kind}]"}


def is_text(part: Part) -> bool:
    """Whether a part is words."""
    return part.get("type") == "text"


def is_image(part: Part) -> bool:
    """Whether a part is an image."""
    return part.get("type") == "image_url"


def image_in(part: Part) -> Part | None:
    """The part that is an image: the part itself, or what a resource holds; None without one."""
    inner: Any = part.get("content") if part.get("type") == "resource" else part
    return cast("Part", inner) if _mapping(inner).get("type") == "image_url" else None


def in_words(part: Part) -> Part:
    """A part as text, where it is a resource of words or a link; others as they are.

    Args:
        part: A part in Mistral's form.
    """
    if part.get("type") == "resource" and is_text(part["content"]):
        return part["content"]
    if part.get("type") == "resource_link":
        return {"type": "text", "text": part["uri"]}
    return part


def for_server(part: Part, kinds: frozenset[str] | None) -> Part | None:
    """A part as a server takes it that does not know all of Mistral's kinds.

    Args:
        part: A part in Mistral's form.
        kinds: The kinds that it knows; None for all.

    Returns:
        The part, the image or the words in it, or a word on what cannot be sent; None for what is
        nothing to the model.
    """
    if kinds is None or part["type"] in kinds:
        return part
    image = image_in(part)
    words = in_words(part)
    if image is not None or is_text(words):
        return image or words
    if part["type"] in ("thinking", "reference"):
        return None
    name = part.get("document_name") or part.get("document_url") or part.get("file_id") or ""
    shown = f" {str(name)[:_LONGEST_NAME]}" if name and not str(name).startswith("data:") else ""
    what = {"input_audio": "sound", "document_url": "document"}.get(part["type"], part["type"])
    return {"type": "text", "text": f"[{what}{shown} that you cannot read]"}


def as_parts(content: Any) -> list[Part]:
    """A content as a list of parts."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(cast("list[Part]", content or []))


def without_bytes(message: dict[str, Any]) -> dict[str, Any]:
    """A message for a log: the same, or a copy without the bytes of what it shows."""
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
    if not isinstance(text, str) or len(text) <= _MOST_SHOWN or text.startswith("http"):
        return part
    short = f"{text.partition(',')[0][:_MOST_SHOWN]}..."
    return {**fields, kind: {**_mapping(value), inner: short} if inner else short}


def _text(part: Part) -> Part | None:
    text = part.get("text")
    if not isinstance(text, str) or not text.strip():
        return None
    return part if len(part) == 2 else {"type": "text", "text": text}


def _image(part: Part) -> Part | None:
    """Mistral takes the bare URL as well; vLLM takes the object only."""
    image = part.get("image_url")
    if isinstance(image, str):
        return {"type": "image_url", "image_url": {"url": image}}
    fields = _mapping(image)
    if not isinstance(fields.get("url"), str):
        return None
    kept = {"url": fields["url"]}
    if fields.get("detail") in _DETAILS:
        kept["detail"] = fields["detail"]
    same = kept == fields and len(part) == 2
    return part if same else {"type": "image_url", "image_url": kept}


def _audio(part: Part) -> Part | None:
    """OpenAI wraps the base64 text in an object, Mistral does not."""
    audio = part.get("input_audio")
    if isinstance(audio, Mapping):
        audio = _mapping(audio).get("data")
    if not isinstance(audio, str) or not audio:
        return None
    same = part.get("input_audio") == audio and len(part) == 2
    return part if same else {"type": "input_audio", "input_audio": audio}


def _document(part: Part) -> Part | None:
    url = part.get("document_url")
    if isinstance(url, Mapping):
        url = _mapping(url).get("url")
    if not isinstance(url, str):
        return None
    name = part.get("document_name")
    named = {"document_name": name} if isinstance(name, str) else {}
    return _kept(part, document_url=url, **named)


def _resource(part: Part) -> Part | None:
    """Mistral's resource holds a part; MCP's holds text, or base64 that is not for a model."""
    embedded = _mapping(part.get("resource"))
    uri = part.get("uri", embedded.get("uri"))
    content: Any = part.get("content", embedded.get("text"))
    inner = mistrals_part(content)
    if inner is None or not (is_text(inner) or is_image(inner)):
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
    return _kept(part, uri=uri, **({"metadata": kept} if kept else {}))


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
    return _kept(part, thinking=thinking if kept == thinking else kept, **more)


def _thought(item: Any) -> Part | None:
    """What a thought may hold: a text, a source, what a tool found."""
    if _mapping(item).get("type") != "tool_reference":
        made = mistrals_part(item)
        return made if made is not None and made["type"] in ("text", "reference") else None
    found = {name: item[name] for name in _CITED if isinstance(item.get(name), str)}
    return _kept(item, **found) if {"tool", "title"} <= found.keys() else None


def _kept(part: Part, **fields: Any) -> Part:
    """A part with these fields and its type alone; the same object if it has no others."""
    made = {"type": part["type"], **fields}
    return part if part == made else made


def _file(part: Part) -> Part | None:
    """OpenAI's `file` is Mistral's `document_url`, or a `file` by its id."""
    if isinstance(part.get("file_id"), str):
        return part if len(part) == 2 else {"type": "file", "file_id": part["file_id"]}
    file = _mapping(part.get("file"))
    if isinstance(file.get("file_data"), str):
        document: Part = {"type": "document_url", "document_url": file["file_data"]}
        if file.get("filename"):
            document["document_name"] = str(file["filename"])
        return document
    if isinstance(file.get("file_id"), str):
        return {"type": "file", "file_id": file["file_id"]}
    return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
