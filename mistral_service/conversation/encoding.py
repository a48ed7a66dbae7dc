"""Encodes an image for a request: one pure function."""

import io
import time
from dataclasses import dataclass
from typing import Any, cast

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from mistral_service.conversation.headers import size_before_opening
from mistral_service.conversation.parts import ImageError
from mistral_service.conversation.pixels import Size, image_of

DEFAULT_QUALITY = 75
"""The JPEG quality: the lowest at which even the worst line of small text keeps an SSIM of 0.95
(`benchmarks/images.py`)."""

MODEL_IMAGE_SIDE = 1540
"""Pixels of the longer side that Mistral's models see; they scale larger images down."""

PIXTRAL_IMAGE_SIDE = 1024
"""The same for Pixtral."""

MAX_PIXELS = 16_777_216
"""Pixels that an image may have, by default: 4096 × 4096."""

MAX_IMAGE_BYTES = 16 * 1024 * 1024
"""Bytes that an encoded image may have; Mistral's own limit is 10 MB."""

JPEG_FACTOR = 4
"""A JPEG may have this many times the pixels, since it is decoded at a half, a quarter or an eighth
of its size. The camera of a phone takes images of 50 megapixels."""

# Up to this size, an image that needs no change is sent as it is; beyond, a JPEG may be smaller.
_SMALL_BYTES = 256 * 1024

_READ = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "ICO", "PPM")
# What Mistral's API takes, and how a complete file of each type ends (WebP has a length field).
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";", "WEBP": b""}
# Fields that are needed to decode a file; all other fields that Pillow finds are metadata.
_DECODING_FIELDS = frozenset(
    {"jfif", "jfif_version", "jfif_unit", "jfif_density", "adobe", "adobe_transform", "dpi"}
    | {"gamma", "srgb", "chromaticity", "transparency", "interlace"}
    | {"version", "background", "extension", "loop", "duration", "timestamp"}
)
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def model_image_side(model: str) -> int:
    """Pixels of an image's longer side in a model's vision encoder."""
    return PIXTRAL_IMAGE_SIDE if "pixtral" in model.lower() else MODEL_IMAGE_SIDE


@dataclass(frozen=True, slots=True)
class Form:
    """The form in which an image is sent.

    Parameters:
        side: The maximum of pixels of its longer side.
        quality: The quality of the JPEG, 1 to 95.
        pixels: The maximum of pixels before it is scaled down. A JPEG may have four times as many,
            if it can be decoded at a reduced size within the maximum.
    """

    side: int = MODEL_IMAGE_SIDE
    quality: int = DEFAULT_QUALITY
    pixels: int = MAX_PIXELS


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded image; `unchanged` if it is the file that was given."""

    data: bytes
    mime_type: str
    size: Size
    unchanged: bool = False


def encode(
    data: bytes | bytearray, size: Size, name: str | None, form: Form
) -> Encoded | ImageError:
    """Encode an image for a request.

    It is scaled down to the form's side, never up, rotated by its EXIF orientation, and stripped of
    its metadata; transparency is put on white, and of an animation the first frame is taken. It
    becomes a JPEG, unless it is small, needs no change, and has a type that Mistral takes.

    Args:
        data: Raw pixels, or an encoded file.
        size: Width and height of raw pixels; not used for an encoded file.
        name: The pixel format, as `image_of` takes it, or the MIME type of an encoded file.
        form: The form in which the image is sent.

    Returns:
        The image, or an error: returned and not raised, since a traceback would keep the bytes
        alive for as long as the error is cached.
    """
    try:
        data = bytes(data)  # a numpy array as its bytes
        is_file = name is not None and name.startswith("image/")
        return _encoded(data, form) if is_file else _raw(data, size, name, form)
    except ImageError as e:
        why = str(e)
    except Exception as e:
        # For malformed files Pillow raises errors of a dozen types.
        why = printable(f"{e}") or type(e).__name__
    return ImageError(why)


def printable(text: str) -> str:
    """The beginning of a text that may quote a file, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def _raw(data: bytes, size: Size, name: str | None, form: Form) -> Encoded:
    if min(size) < 1:
        raise ImageError(f"a size of {size[0]}×{size[1]} pixels is empty")
    _check_pixels(size, form.pixels)
    return _jpeg(_scaled(_opaque(image_of(data, size, name)), form.side), form)


def _encoded(data: bytes, form: Form) -> Encoded:
    if not data:
        raise ImageError("it is empty")
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError(f"it has {len(data):,} bytes, more than {MAX_IMAGE_BYTES:,}")
    if size := size_before_opening(data):
        _check_pixels(size, form.pixels)
    try:
        image = Image.open(io.BytesIO(data), formats=_READ)
    except Image.UnidentifiedImageError:
        raise ImageError("it is broken, or of a type that cannot be read") from None
    with image:
        is_jpeg = isinstance(image, JpegImageFile)
        _check_pixels(image.size, form.pixels * (JPEG_FACTOR if is_jpeg else 1))
        kind = cast(str, image.format)
        turn, clean = _metadata(image)
        fits = max(image.size) <= form.side
        may_stay = kind in _ENDS and fits and clean and not getattr(image, "is_animated", False)
        if not may_stay:
            # A JPEG can be decoded at a half or a quarter; twice the target size keeps it sharp.
            width, height = _fitted(image.size, form.side)
            image.draft(None, (2 * width, 2 * height))
        _check_pixels(image.size, form.pixels)  # a GIF's frame may be larger than its screen
        image.load()  # raises if the file is broken
        original: Encoded | None = None
        if may_stay and _is_complete(data, kind):
            original = Encoded(data, Image.MIME[kind], image.size, unchanged=True)
            if len(data) <= _SMALL_BYTES:
                return original
        flat = _scaled(_opaque(image), form.side)
        made = _jpeg(flat.transpose(turn) if turn is not None else flat, form)
        return original if original and len(original.data) <= len(made.data) else made


def _check_pixels(size: Size, most: int) -> None:
    if size[0] * size[1] > most:
        raise ImageError(f"{size[0]:,}×{size[1]:,} pixels are too many: the maximum is {most:,}")


def _metadata(image: Image.Image) -> tuple[Image.Transpose | None, bool]:
    """How the image has to be rotated, and whether it has no metadata to remove."""
    segments = {name for name, _ in cast("list[Any]", getattr(image, "applist", []))}
    clean = _DECODING_FIELDS.issuperset(map(str, image.info)) and segments <= {"APP0", "APP14"}
    if clean and image.format not in ("TIFF", "AVIF"):
        return None, True
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1)), False
    except Exception:  # broken metadata does not break an image
        return None, False


def _is_complete(data: bytes, kind: str) -> bool:
    """Whether a file ends where its type says: not truncated, and with no trailing data."""
    if kind == "WEBP":
        return len(data) == int.from_bytes(data[4:8], "little") + 8
    return data.endswith(_ENDS[kind])


def _opaque(image: Image.Image) -> Image.Image:
    """The image in a mode that JPEG has, with transparency put on white."""
    if image.mode in ("RGB", "L", "YCbCr") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        # More than eight bits are scaled to eight; Pillow's own conversion would clip them.
        low, high = (0, 65535) if ";16" in image.mode else cast("Any", image.getextrema())
        scale = 255 / ((high - low) or 1)
        image = image.convert("F")
        return image.point(lambda value: value * scale - low * scale).convert("L")
    if not image.has_transparency_data:
        return image.convert("L" if image.mode == "1" else "RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _scaled(image: Image.Image, side: int) -> Image.Image:
    size = _fitted(image.size, side)
    if size == image.size:
        return image
    # For small text this filter has an SSIM of 0.92, a bilinear one 0.88.
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _fitted(size: Size, side: int) -> Size:
    longer = max(size)
    if longer <= side:
        return size
    width, height = (max(1, round(length * side / longer)) for length in size)
    return width, height


class _YieldingBuffer(io.BytesIO):
    """A buffer that releases the GIL between the chunks that are written to it.

    Pillow holds the GIL while it encodes a JPEG, in chunks of 64 kB: without this, the event loop
    would be blocked for all of it (measured: 1 ms instead of 4).
    """

    def write(self, data: Any) -> int:
        time.sleep(0)
        return super().write(data)


def _jpeg(image: Image.Image, form: Form) -> Encoded:
    image.info = {}  # a comment in it would be written to the JPEG
    data = _YieldingBuffer()
    image.save(data, "JPEG", quality=form.quality)
    return Encoded(data.getvalue(), "image/jpeg", image.size)
