"""A body as it was before it was packed: piece by piece, and up to a bound.

A decoder that unpacks a whole read at once makes 64 MB of 64 kB, and a second packing makes
gigabytes of that. So a step yields 64 kB at most, the unpacked bytes are counted as they come, and
a body is packed once or is not read.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable

ACCEPTED = "gzip, deflate"
"""What requests accept as an encoding: what is unpacked here."""

_STEP = 64 * 1024
"""Bytes that one step of unpacking yields at most."""

_READ = 32 * 1024
"""Bytes that are handed on at a time of a body that is not packed: what they say takes some ten
milliseconds to read at most, and others work before the next."""

_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's `wbits`


class TooLong(ValueError):
    """A body has more bytes than are read of it."""


class NotUnpackable(ValueError):
    """A body is packed in a way that is not read, or is not packed as it says."""


async def unpacked(
    read: Callable[[], Awaitable[bytes]], encoding: str, most: int, *, cut: bool = False
) -> AsyncGenerator[bytes]:
    """Unpack a body.

    Args:
        read: Reads what has come; returns `b""` at the end.
        encoding: The value of `Content-Encoding`; empty where there is none.
        most: Bytes that the body may have, packed and unpacked.
        cut: Whether the body ends at the bound, or where it cannot be unpacked, without an error.

    Yields:
        The bytes.

    Raises:
        TooLong: If there are more than `most`.
        NotUnpackable: If the encoding is unknown or stacked, or the body does not follow it.
    """
    try:
        decoder = _decoder(encoding)
    except NotUnpackable as e:
        if not cut:
            raise
        yield str(e).encode()
        return
    left = packed_left = most
    while data := await read():
        packed_left -= len(data)
        full = True
        while data or (full and decoder is not None):
            piece = data
            if decoder is not None:
                try:
                    piece = decoder.feed(data)
                except NotUnpackable:
                    if cut:
                        return
                    raise
                data, full = decoder.rest, len(piece) == _STEP
            else:
                piece, data = data[:_READ], data[_READ:]
            left -= len(piece)
            if min(left, packed_left) < 0 and not cut:
                raise TooLong(f"the reply has more than {most} bytes")
            if piece:
                yield piece
            if min(left, packed_left) < 0:
                return
            if data:
                await asyncio.sleep(0)  # what is packed well takes long to unpack


class _Decoder:
    """Unpacks one encoding; what follows its end is read over."""

    def __init__(self, window: int) -> None:
        self._zlib = zlib.decompressobj(window)
        # "deflate" is zlib's format, and some servers send the bare one. The first two bytes tell.
        self._may_be_raw = window == _ZLIB
        self._first = b""
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Unpack at most one step; `rest` has what is left to feed."""
        if self._zlib.eof:
            self.rest = b""
            return b""
        try:
            piece = self._zlib.decompress(data, _STEP)
        except zlib.error as e:
            if not self._may_be_raw:
                raise NotUnpackable(f"the reply cannot be unpacked: {e}") from None
            self._zlib, self._may_be_raw = zlib.decompressobj(_RAW), False
            return self.feed(self._first + data)
        if self._may_be_raw:
            self._first += data[:2]
            self._may_be_raw = len(self._first) < 2
        self.rest = self._zlib.unconsumed_tail
        return piece


def _decoder(encoding: str) -> _Decoder | None:
    names = [name for part in encoding.split(",") if (name := part.strip().lower())]
    names = [name for name in names if name != "identity"]
    if not names:
        return None
    if names in (["gzip"], ["x-gzip"]):
        return _Decoder(_GZIP)
    if names == ["deflate"]:
        return _Decoder(_ZLIB)
    shown = ", ".join(names)[:80]
    raise NotUnpackable(
        f"the reply is packed as {shown!r}: gzip and deflate are read, one of them and once"
    )
