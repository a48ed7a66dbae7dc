"""Reads the size of an image from its header alone, where Pillow would decode the image."""

import io
from typing import Any

from PIL import BmpImagePlugin, IcoImagePlugin, PngImagePlugin

from mistral_service.conversation.pixels import Size

_PNG = b"\x89PNG\r\n\x1a\n"


def size_before_opening(data: bytes) -> Size | None:
    """The size of a WebP or an ICO; None for other types, and for a broken header.

    Pillow opens most files without decoding them. For a WebP it allocates two canvases of the full
    size; an ICO is decoded.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _size_of_webp(data[12:30])
    if data[:4] == b"\0\0\1\0":
        return _size_of_ico(data)
    return None


def _size_of_webp(head: bytes) -> Size | None:
    """The size in the first chunk (RFC 9649); libwebp refuses a file that contradicts it."""
    match head[:4]:
        case b"VP8 ":
            width, height = _little(head[14:16]) & 0x3FFF, _little(head[16:18]) & 0x3FFF
        case b"VP8L":
            bits = _little(head[9:13])
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            width, height = _little(head[12:15]) + 1, _little(head[15:18]) + 1
        case _:
            return None
    return width, height


def _size_of_ico(data: bytes) -> Size | None:
    """The size of the image that Pillow decodes; the size in the directory is no bound."""
    file = io.BytesIO(data)
    try:
        ico: Any = IcoImagePlugin.IcoFile(file)
        offset = int(ico.entry[0].offset)
        file.seek(offset)
        if data[offset : offset + 8] == _PNG:
            return PngImagePlugin.PngImageFile(file).size
        width, height = BmpImagePlugin.DibImageFile(file).size
    except Exception:  # Pillow will raise a better error
        return None
    return width, height // 2  # colours, then the mask


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
