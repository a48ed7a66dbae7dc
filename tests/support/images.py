"""Images for tests: files, URLs and frames."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from pipecat.frames.frames import UserImageRawFrame

MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
RED, BLUE = (250, 20, 20), (20, 20, 250)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image with soft shapes and some noise, as a camera takes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (max(1, height // 32), max(1, width // 32), 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = soft + rng.normal(0, 4, soft.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def halves(width: int = 64, height: int = 32) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def url_of(data: bytes, mime_type: str = "image/png") -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


def opened(url: str) -> Image.Image:
    """The image behind a data URL."""
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    image.load()
    return image


def part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def shown(*parts: Any) -> dict[str, Any]:
    """A message of the user: texts and URLs of images."""
    kinds = ("data:", "http")
    content = [part(p) if p.startswith(kinds) else {"type": "text", "text": p} for p in parts]
    return {"role": "user", "content": content}


def urls_in(request: dict[str, Any]) -> list[str]:
    """The URLs of the images that a request carries, in order."""
    return [
        part["image_url"]["url"]
        for message in request["messages"]
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]


def frame(image: Image.Image, **options: Any) -> UserImageRawFrame:
    """A frame for the context, as a transport gives it."""
    options = {"append_to_context": True, "text": "What is this?", **options}
    return UserImageRawFrame(
        image=options.pop("data", None) or image.tobytes(),
        size=options.pop("size", image.size),
        format=options.pop("format", "RGB"),
        user_id="caller",
        **options,
    )
