"""Building blocks of the probes' requests."""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from mistral_service.conformance.answer import Json, Request

USER: Json = {"role": "user", "content": "Say yes."}
"""The user's message where only acceptance of the request matters."""

CITY: Json = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def tool(name: str = "weather", parameters: Json = CITY) -> Json:
    """A tool definition."""
    function = {"name": name, "description": "The weather.", "parameters": parameters}
    return {"type": "function", "function": function}


WEATHER = tool()


def said(role: str, content: object, **more: object) -> Json:
    """A message."""
    return {"role": role, "content": content, **more}


def called(*ids: str, arguments: object = '{"city": "Paris"}', name: str = "weather") -> Json:
    """A message of the assistant that calls functions."""
    calls = [
        {"id": each, "type": "function", "function": {"name": name, "arguments": arguments}}
        for each in ids
    ]
    return {"role": "assistant", "tool_calls": calls}


def result(of: str, content: object = "sunny") -> Json:
    """A function's result."""
    return {"role": "tool", "tool_call_id": of, "name": "weather", "content": content}


def chat(*messages: Json, max_tokens: int = 1, **fields: object) -> Request:
    """A request for the shortest reply."""
    return Request({"messages": list(messages), "max_tokens": max_tokens, **fields})


def stream(
    *messages: Json, max_tokens: int = 16, leave_after: int | None = None, **fields: object
) -> Request:
    """A request for a streamed reply."""
    body = {"messages": list(messages), "max_tokens": max_tokens, "stream": True, **fields}
    return Request(body, leave_after=leave_after)


def png(width: int, height: int) -> str:
    """A black image, as a data URL; one bit a pixel."""
    file = BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()


def images(sizes: Sequence[tuple[int, int]]) -> Json:
    """A user's message with images."""
    parts: list[Json] = [{"type": "image_url", "image_url": {"url": png(*size)}} for size in sizes]
    return said("user", [*parts, {"type": "text", "text": "Say yes."}])
