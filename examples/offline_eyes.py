"""The engine of `vision_bot.py --offline`, which names the colours of images."""

import base64
import colorsys
import io
import re
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image

from mistral_service.local import Reply

HUES = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"]
ASKS = re.compile(r"\b(see|sea|look|camera|show|colou?r)", re.IGNORECASE)


class Eyes:
    """An engine that asks for an image, and names its colours."""

    def __init__(self) -> None:
        self._serial = 0

    async def answer(self, request: dict[str, Any]) -> AsyncIterator[Any]:
        """Answer the last message."""
        self._serial += 1
        for piece in reply_to(request["messages"][-1]).pieces(self._serial):
            yield piece

    async def close(self) -> None:
        """Nothing to release."""


def reply_to(message: dict[str, Any]) -> Reply:
    """Colours for an image, a call of `look` for a question about one, or a greeting."""
    content = message["content"]
    if message["role"] == "tool":
        return Reply("I cannot see you. Is the camera on?")
    if not isinstance(content, str):
        images = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        left, right = colours(images[-1])
        return Reply(f"I see {left} on the left and {right} on the right.")
    if "Instruction" not in content and ASKS.search(content):
        return Reply(tool_calls=[{"name": "look", "arguments": {"question": content}}])
    return Reply("Hello. Ask me what I see.")


def colours(url: str) -> tuple[str, str]:
    """The colours of the left and the right half of an image."""
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    left, right = (image.resize((2, 1), Image.Resampling.BOX).getpixel((x, 0)) for x in (0, 1))
    return name(left), name(right)


def name(rgb: tuple[int, int, int]) -> str:
    """The name of a colour."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in rgb))
    if value < 0.2:
        return "black"
    if saturation < 0.2:
        return "white" if value > 0.8 else "grey"
    bounds = (15, 40, 70, 160, 200, 260, 300, 345)  # degrees at which the next hue begins
    return next((n for n, top in zip(HUES, bounds, strict=True) if hue * 360 < top), "red")
