"""The image that a function asked for: its size as the camera gave it, and as it is sent."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from mistral_service.wire.trees import object_of, objects_of

THUMBNAIL_SIDE = 320
"""Pixels of the longer side on the page: a data channel takes no large messages."""
THUMBNAIL_QUALITY = 60


@dataclass(frozen=True, slots=True)
class Look:
    """A frame of the camera on its way into the conversation.

    Parameters:
        size: Width and height of the frame.
        length: Its bytes, before it is encoded.
    """

    size: tuple[int, int]
    length: int

    def message(self, url: str) -> dict[str, Any]:
        """What the page shows: both sizes, and the image that is sent, small.

        Args:
            url: The image as it is sent: a data URL.
        """
        message: dict[str, Any] = {
            "type": "look",
            "before": {"width": self.size[0], "height": self.size[1], "bytes": self.length},
        }
        try:
            data = base64.b64decode(url.partition(",")[2])
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                small = image.convert("RGB")
                small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        except (ValueError, UnidentifiedImageError, OSError):
            return message
        jpeg = io.BytesIO()
        small.save(jpeg, "JPEG", quality=THUMBNAIL_QUALITY)
        shown = base64.b64encode(jpeg.getvalue()).decode()
        return {
            **message,
            "after": {"width": width, "height": height, "bytes": len(data)},
            "image": f"data:image/jpeg;base64,{shown}",
        }


def sent_image(messages: Sequence[Any]) -> str | None:
    """The image in the last messages of a conversation, as a data URL; None where there is none."""
    for message in reversed(messages[-4:]):
        for part in objects_of(object_of(message).get("content")):
            url: Any = object_of(part.get("image_url")).get("url")
            if isinstance(url, str) and url.startswith("data:image/"):
                return url
    return None
