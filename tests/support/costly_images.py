"""Hostile images: small files that cost much to decode, each made from its format's own rules."""

import io
import struct
import zlib

from PIL import Image

SIDE = 8000


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"") -> bytes:
    """A PNG of RGBA pixels, whose first rows are black where none are given."""
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    body = rows or _packed_zeros(min(height * (1 + 4 * width), 1 << 24))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + b"".join(chunks)
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def webp(width: int, height: int) -> bytes:
    """A lossless WebP of one colour: 34 bytes, whatever its size.

    No transform, no colour cache, no meta codes; five prefix codes of one symbol each, which
    take no bits of the stream for a pixel.
    """
    bits = [(width - 1, 14), (height - 1, 14), (1, 1), (0, 3), (0, 3)]
    for symbol in (0, 0, 0, 255, 0):
        bits += [(1, 1), (0, 1), (1, 1), (symbol, 8)]  # simple, one symbol, of eight bits
    number, place = 0, 0
    for value, count in bits:
        number |= value << place
        place += count
    data = b"\x2f" + number.to_bytes(-(-place // 8), "little")
    data += b"\0" * (len(data) % 2)
    body = b"WEBPVP8L" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_extended(width: int, height: int) -> bytes:
    """A canvas of that size with an image of 1 × 1."""
    small = webp(1, 1)[12:]
    canvas = struct.pack("<I", 0)
    canvas += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + small
    return b"RIFF" + struct.pack("<I", len(body)) + body


def ico(inner: bytes, said: int = 16) -> bytes:
    """An icon whose directory says another size than what is in it."""
    head = struct.pack("<HHH", 0, 1, 1)
    return head + struct.pack("<BBBBHHII", said, said, 0, 0, 1, 32, len(inner), 22) + inner


def dib(width: int, height: int) -> bytes:
    """The header of a bitmap as an icon has it: twice as high, for the mask."""
    return struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, 32, 0, 0, 0, 0, 0, 0)


def bmp(width: int, height: int, compression: int = 0, bits: int = 24) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 2, 0)
    data = info + b"\0" * 8 + b"\0\1" * 8
    return b"BM" + struct.pack("<IHHI", 14 + len(data), 0, 0, 14 + 48) + data


def gif(width: int, height: int, frame: tuple[int, int] | None = None) -> bytes:
    """A GIF of one pixel's data, on a screen of that size, or with a frame larger than it."""
    across, down = frame or (width, height)
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + b"\0\0\0\xff\xff\xff"
        + b","
        + struct.pack("<HHHHB", 0, 0, across, down, 0)
        + b"\2\2\x44\1\0;"
    )


def tiff(width: int, height: int, tile: int = 0, compression: int = 8) -> bytes:
    """A TIFF of deflated zeros, in one strip or in tiles of that side."""
    data = _packed_zeros(min(width * height, 1 << 24)) if compression == 8 else b"\0" * 64
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1)]
    where = [(273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(data))]
    if tile:
        where = [(277, 3, 1), (322, 4, tile), (323, 4, tile), (324, 4, 8), (325, 4, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in tags + where)
    directory = struct.pack("<H", len(tags + where)) + entries + b"\0\0\0\0"
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def avif(width: int, height: int) -> bytes:
    """An AVIF of 16 × 16 pixels whose container says another size."""
    data = io.BytesIO()
    Image.new("RGB", (16, 16)).save(data, "AVIF")
    small = data.getvalue()
    place = small.index(b"ispe") + 8
    return small[:place] + struct.pack(">II", width, height) + small[place + 8 :]


def jpeg(width: int, height: int, **options: object) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(data, "JPEG", quality=1, **options)
    return data.getvalue()


def jpeg_that_says(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    small = jpeg(16, 16)
    place = small.index(b"\xff\xc0") + 5
    return small[:place] + struct.pack(">HH", height, width) + small[place + 4 :]


def jpeg_of_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes many times over."""
    whole = jpeg(width, height, progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + b"\xff\xd9"


def jpeg_of_exif(segments: int) -> bytes:
    """A JPEG with its metadata in many pieces, which Pillow joins one by one."""
    piece = b"\xff\xe1" + struct.pack(">H", 12) + b"Exif\0\0" + b"AAAA"
    whole = jpeg(16, 16)
    return whole[:2] + piece * segments + whole[2:]


def png_of_text(kind: bytes, megabytes: int) -> bytes:
    """A PNG with texts that unpack to so much each."""
    packed = _packed_zeros(megabytes << 20)
    head = b"a\0\0" if kind != b"iTXt" else b"a\0\1\0\0\0"
    return png(1, 1, *[chunk(kind, head + packed)] * 50)


def png_of_chunks(count: int) -> bytes:
    """A PNG of many chunks without anything in them."""
    return png(1, 1, chunk(b"tEXt", b"a\0") * count)


def ppm_of_comments(megabytes: int) -> bytes:
    """A plain PPM of comments, which Pillow cuts out of the text one by one."""
    return b"P2\n1 1\n255\n" + b"#\n" * (megabytes << 19) + b"7\n"


def gif_of_frames(frames: int) -> bytes:
    one = gif(4000, 4000)
    return one[:19] + one[19:-1] * frames + b";"


def _packed_zeros(size: int) -> bytes:
    packer, zeros = zlib.compressobj(9), bytes(1 << 20)
    parts = [packer.compress(zeros) for _ in range(size >> 20)]
    return b"".join([*parts, packer.compress(zeros[: size & ((1 << 20) - 1)]), packer.flush()])


TOO_LARGE = {
    "webp of 34 bytes": lambda: webp(SIDE, SIDE),
    "webp's canvas": lambda: webp_extended(16_000, 16_000),
    "ico with a png": lambda: ico(png(13_000, 13_000)),
    "ico with a bitmap": lambda: ico(dib(13_000, 13_000)),
    "png": lambda: png(SIDE, SIDE),
    "png of one row": lambda: png(100_000_000, 1, rows=b"x"),
    "bmp": lambda: bmp(SIDE, SIDE),
    "bmp of runs": lambda: bmp(30_000, 30_000, compression=1, bits=8),
    "gif": lambda: gif(SIDE, SIDE),
    "gif's frame": lambda: gif(1, 1, (65_535, 2_000)),
    "tiff": lambda: tiff(SIDE, SIDE),
    "tiff in a tile": lambda: tiff(SIDE, SIDE, tile=SIDE),
    "avif": lambda: avif(SIDE, SIDE),
    "ppm": lambda: b"P6 8000 8000 255\n",
    "ppm of floats": lambda: b"Pf\n8000 8000\n-1.0\n",
    "jpeg": lambda: jpeg_that_says(60_000, 60_000),
}
"""Files that say, somewhere, that they have more pixels than any may have."""

COSTLY = {
    "jpeg of scans": lambda: jpeg_of_scans(3_000, 3_000, 2_000),
    "jpeg of exif": lambda: jpeg_of_exif(1_000_000),
    "png of zTXt": lambda: png_of_text(b"zTXt", 200),
    "png of iTXt": lambda: png_of_text(b"iTXt", 200),
    "png of iCCP": lambda: png_of_text(b"iCCP", 200),
    "png of chunks": lambda: png_of_chunks(1_000_000),
    "ppm of comments": lambda: ppm_of_comments(8),
    "tiff of a huge tile": lambda: tiff(16, 16, tile=60_000),
    "gif of frames": lambda: gif_of_frames(300_000),
    "avif of contradictions": lambda: avif(4_000, 4_000),
}
"""Files of few pixels that cost much all the same."""
