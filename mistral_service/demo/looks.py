"""The image that a function asked for: its size as the camera gave it, and as it is sent."""

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, UnidentifiedImageError

from mistral_service.wire.trees import object_of, objects_of

THUMBNAIL_SIDE = 320
"""Pixels of the longer side on the page: a data channel takes no large messages."""
THUMBNAIL_QUALITY = 60


def sizes(size: tuple[int, int], length: int) -> dict[str, int]:
    """Width, height and bytes of an image, as the page shows them."""
    return {"width": size[0], "height": size[1], "bytes": length}


def look_message(before: dict[str, int], url: str) -> dict[str, Any]:
    """What the page shows: both sizes, and the image that is sent, small.

    Args:
        before: The `sizes` of the camera's frame, before it is encoded.
        url: The image as it is sent: a data URL.
    """
    message = {"type": "look", "before": before}
    try:
        data = base64.b64decode(url.partition(",")[2])
        with Image.open(io.BytesIO(data)) as image:
            after = sizes(image.size, len(data))
            small = image.convert("RGB")
            small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    except (ValueError, UnidentifiedImageError, OSError):
        return message
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG", quality=THUMBNAIL_QUALITY)
    shown = base64.b64encode(jpeg.getvalue()).decode()
    return {**message, "after": after, "image": f"data:image/jpeg;base64,{shown}"}


def sent_image(messages: Sequence[Any]) -> str | None:
    """The image in the last messages of a conversation, as a data URL; None where there is none."""
    for message in reversed(messages[-4:]):
        for part in objects_of(object_of(message).get("content")):
            url: Any = object_of(part.get("image_url")).get("url")
            if isinstance(url, str) and url.startswith("data:image/"):
                return url
    return None
