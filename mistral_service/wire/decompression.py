"""Decompresses a body in chunks, up to a limit.

A decoder that decompresses a whole read at once makes 64 MB of 64 kB, and a second encoding makes
gigabytes of that. So a step yields 64 kB at most, the decompressed bytes are counted, and a body
with more than one encoding is not read.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable

ACCEPTED = "gzip, deflate"
"""The `Accept-Encoding` of requests: the encodings that are decompressed here."""

_STEP = 64 * 1024
"""The maximum of bytes that one step of decompression yields."""

_READ = 32 * 1024
"""The maximum of bytes that one step yields of an uncompressed body: parsing them takes about ten
milliseconds at most, and other tasks run before the next step."""

_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's `wbits`


class BodyTooLong(ValueError):
    """A body exceeds the limit."""


class DecompressionError(ValueError):
    """A body has an unsupported content encoding, or is not valid in its encoding."""


async def decompressed(
    read: Callable[[], Awaitable[bytes]], encoding: str, most: int, *, cut: bool = False
) -> AsyncGenerator[bytes]:
    """Decompress a body.

    Args:
        read: Reads the next bytes; returns `b""` at the end.
        encoding: The value of `Content-Encoding`; empty if there is none.
        most: The maximum of bytes of the body, compressed and decompressed.
        cut: Whether the body ends at the limit, or where it is invalid, without an error.

    Raises:
        BodyTooLong: If there are more than `most`.
        DecompressionError: If the encoding is unsupported, or there are several, or the body is
            invalid.
    """
    try:
        decoder = _decoder(encoding)
    except DecompressionError as e:
        if not cut:
            raise
        yield str(e).encode()
        return
    left = compressed_left = most
    while data := await read():
        compressed_left -= len(data)
        full = True
        while data or (full and decoder is not None):
            piece = data
            if decoder is not None:
                try:
                    piece = decoder.feed(data)
                except DecompressionError:
                    if cut:
                        return
                    raise
                data, full = decoder.rest, len(piece) == _STEP
            else:
                piece, data = data[:_READ], data[_READ:]
            left -= len(piece)
            if min(left, compressed_left) < 0 and not cut:
                raise BodyTooLong(f"the reply has more than {most} bytes")
            if piece:
                yield piece
            if min(left, compressed_left) < 0:
                return
            if data:
                await asyncio.sleep(0)  # a well compressed body takes long to decompress


class _Decoder:
    """Decompresses one encoding; trailing data is ignored."""

    def __init__(self, window: int) -> None:
        self._zlib = zlib.decompressobj(window)
        # "deflate" is the zlib format; some servers send raw deflate. The first two bytes decide.
        self._may_be_raw = window == _ZLIB
        self._first = b""
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Decompress at most one step; `rest` is the input that is left."""
        if self._zlib.eof:
            self.rest = b""
            return b""
        try:
            piece = self._zlib.decompress(data, _STEP)
        except zlib.error as e:
            if not self._may_be_raw:
                raise DecompressionError(f"the reply cannot be decompressed: {e}") from None
            self._zlib, self._may_be_raw = zlib.decompressobj(_RAW), False
            return self.feed(self._first + data)
        if self._may_be_raw:
            self._first += data[:2]
            self._may_be_raw = len(self._first) < 2
        self.rest = self._zlib.unconsumed_tail
        return piece


def _decoder(encoding: str) -> _Decoder | None:
    names = [part.strip().lower() for part in encoding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return None
    if names in (["gzip"], ["x-gzip"]):
        return _Decoder(_GZIP)
    if names == ["deflate"]:
        return _Decoder(_ZLIB)
    shown = ", ".join(names)[:80]
    raise DecompressionError(
        f"the reply has the content encoding {shown!r}: only one of gzip and deflate is supported"
    )
