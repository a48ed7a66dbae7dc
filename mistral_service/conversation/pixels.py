"""Raw pixels, in the formats of transports and cameras, to an image."""

from collections.abc import Callable
from typing import Any

from PIL import Image

from mistral_service.conversation.parts import ImageError

Size = tuple[int, int]


def image_of(data: bytes, size: Size, name: str | None) -> Image.Image:
    """Make an image of raw pixels, in one of the modes `RGB`, `L` and `YCbCr`, or Pillow's `name`.

    Args:
        data: The pixels, row by row without gaps, planes one after the other.
        size: Width and height.
        name: The pixel format in any spelling: `RGB`, `bgr24`, `RGBA`, `I420`, `NV12`, `gray`,
            `GRAY16LE`, …, or one of Pillow's modes. The letters have the order of the bytes. None
            infers it from the number of bytes. An alpha channel is ignored: cameras have none.

    Raises:
        ImageError: If there is no such format, or too few or too many bytes for the size.
    """
    width, height = size
    spelled = name or _GUESSED.get(len(data) // (width * height), "RGB")
    key = "".join(c for c in spelled.upper() if c.isalnum())
    if key in _PACKED:
        mode, raw, depth = _PACKED[key]
        _check(data, width * height * depth, size, spelled)
        return Image.frombytes(mode, size, data, "raw", raw)
    if key in _YUV:
        return _YUV[key](data, size, spelled)
    if spelled in _PILLOWS:
        try:
            return Image.frombytes(spelled, size, data)
        except ValueError:
            raise ImageError(_mismatch(len(data), size, spelled)) from None
    raise ImageError(f"there is no pixel format {spelled!r}")


def _check(data: bytes, needed: int, size: Size, name: str) -> None:
    if len(data) != needed:
        raise ImageError(f"{_mismatch(len(data), size, name)} (it needs {needed:,})")


def _mismatch(count: int, size: Size, name: str) -> str:
    return f"{count:,} bytes do not make {size[0]}×{size[1]} pixels of {name}"


# How a pixel's bytes lie: Pillow's mode, its name for that order, bytes per pixel.
_ORDERS: dict[str, tuple[str, str, int]] = {
    "RGB RGB24 RGB888": ("RGB", "RGB", 3),
    "BGR BGR24 BGR888": ("RGB", "BGR", 3),
    "RGBA RGBX RGB0 RGBA32 RGBA8888": ("RGB", "RGBX", 4),
    "BGRA BGRX BGR0 BGRA32 BGRA8888": ("RGB", "BGRX", 4),
    "ARGB XRGB 0RGB ARGB32 ARGB8888": ("RGB", "XRGB", 4),
    "ABGR XBGR 0BGR ABGR32 ABGR8888": ("RGB", "XBGR", 4),
    "RGB565 RGB565LE RGB16": ("RGB", "BGR;16", 2),
    "L Y Y8 Y800 GRAY GREY GRAY8 GREY8 MONO8": ("L", "L", 1),
    "LA GRAYA YA8": ("LA", "LA", 2),
    "I16 Y16 GRAY16 GREY16 GRAY16LE GREY16LE": ("I;16", "I;16", 2),
}
_PACKED = {name: order for names, order in _ORDERS.items() for name in names.split()}
_PILLOWS = frozenset(("1", "P", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "La", "RGBa"))
_GUESSED = {1: "L", 3: "RGB", 4: "RGBA"}


# --- YUV ----------------------------------------------------------------------------------------

# Video has black at 16 and white at 235 (ITU-R BT.601), images have them at 0 and 255.
_LUMA = [min(255, max(0, round((y - 16) * 255 / 219))) for y in range(256)]
_CHROMA = [min(255, max(0, round((c - 128) * 255 / 224 + 128))) for c in range(256)]

_Reader = Callable[[bytes, Size, str], Image.Image]


def _planar(
    across: int, down: int, *, interleaved: bool = False, swapped: bool = False, full: bool = False
) -> _Reader:
    """A reader of a luma plane, followed by chroma subsampled by `across` and `down`."""

    def read(data: bytes, size: Size, name: str) -> Image.Image:
        width, height = size
        coarse = (-(-width // across), -(-height // down))
        area, few = width * height, coarse[0] * coarse[1]
        _check(data, area + 2 * few, size, name)
        luma = Image.frombytes("L", size, data[:area])
        if interleaved:
            one, two = Image.frombytes("LA", coarse, data[area:]).split()
        else:
            one = Image.frombytes("L", coarse, data[area : area + few])
            two = Image.frombytes("L", coarse, data[area + few :])
        return _joined(luma, two if swapped else one, one if swapped else two, full)

    return read


def _interleaved(luma_first: bool) -> _Reader:
    """A reader of pairs of pixels in four bytes, which share their chroma."""

    def read(data: bytes, size: Size, name: str) -> Image.Image:
        width, height = size
        if width % 2:
            raise ImageError(f"{name} has an even width, not {width}")
        _check(data, 2 * width * height, size, name)
        luma = Image.frombytes("LA", size, data).getchannel(0 if luma_first else 1)
        bands = Image.frombytes("CMYK", (width // 2, height), data).split()
        return _joined(luma, *(bands[1::2] if luma_first else bands[0::2]), full=False)

    return read


def _joined(luma: Image.Image, one: Image.Image, two: Image.Image, full: bool) -> Image.Image:
    chroma: list[Any] = [one, two]
    if not full:
        luma, chroma = luma.point(_LUMA), [plane.point(_CHROMA) for plane in chroma]
    fine = [plane.resize(luma.size, Image.Resampling.BILINEAR) for plane in chroma]
    return Image.merge("YCbCr", [luma, *fine])


_YUV: dict[str, _Reader] = {
    **dict.fromkeys(("I420", "IYUV", "YUV420", "YUV420P"), _planar(2, 2)),
    "YV12": _planar(2, 2, swapped=True),
    "NV12": _planar(2, 2, interleaved=True),
    "NV21": _planar(2, 2, interleaved=True, swapped=True),
    **dict.fromkeys(("I422", "YUV422P"), _planar(2, 1)),
    **dict.fromkeys(("I444", "YUV444P"), _planar(1, 1)),
    "YUVJ420P": _planar(2, 2, full=True),
    "YUVJ422P": _planar(2, 1, full=True),
    "YUVJ444P": _planar(1, 1, full=True),
    **dict.fromkeys(("YUY2", "YUYV", "YUYV422"), _interleaved(luma_first=True)),
    **dict.fromkeys(("UYVY", "UYVY422"), _interleaved(luma_first=False)),
}
