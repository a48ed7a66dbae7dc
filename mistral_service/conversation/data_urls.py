"""Decodes and hashes long image URLs in short steps, so that no other thread waits for the GIL."""

import binascii
import string
from collections.abc import Hashable
from urllib.parse import unquote_to_bytes

from mistral_service.conversation.encoding import MAX_IMAGE_BYTES

MAX_URL_LENGTH = MAX_IMAGE_BYTES // 3 * 4 + 1000
"""Characters that an image's URL may have: the largest image in base64."""

# One call holds the GIL as long as it takes: 0.2 ms for a chunk, 60 ms for 25 MB.
_CHUNK = 1 << 16
_BASE64 = (string.ascii_letters + string.digits + "+/=").encode()
_NOT_BASE64 = bytes(set(range(256)) - set(_BASE64))

# Python hashes 2 MB of a string in a millisecond, and then caches the hash in the string.
_LONG = 1_000_000
_SAMPLES = 64
_SAMPLE = 64


class _Long:
    """A long URL as a key: hashed by a sample of its characters, compared in full."""

    __slots__ = ("_hash", "_url")

    def __init__(self, url: str) -> None:
        step = len(url) // _SAMPLES
        samples = (url[place : place + _SAMPLE] for place in range(0, len(url), step))
        self._url = url
        self._hash = hash((len(url), url[-4 * _SAMPLE :], *samples))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Long) and self._url == other._url


def url_key(url: str) -> Hashable:
    """The key of a URL in a mapping: the URL itself, if it is short."""
    return url if len(url) <= _LONG else _Long(url)


def read_data_url(url: str) -> tuple[str, bytearray, bool]:
    """The MIME type of a data URL, its bytes, and whether they were in base64.

    Raises:
        ValueError: If its base64 is invalid.
    """
    # A head of more than 1,000 characters is none.
    head, comma, _ = url[len("data:") : 1000].partition(",")
    start = len(f"data:{head},") if comma else len(url)
    mime_type, *parameters = head.split(";")
    if "base64" in parameters:
        return mime_type, _from_base64(url, start), True
    data = bytearray()
    while start < len(url):
        stop = start + _CHUNK
        if (cut := url.rfind("%", stop - 2, stop)) >= 0:
            stop = cut  # an escape sequence is not split
        data += unquote_to_bytes(url[start:stop])
        start = stop
    return mime_type, data, False


def _from_base64(url: str, start: int) -> bytearray:
    """Decode as `base64.b64decode` does: characters outside the alphabet are skipped."""
    data, rest = bytearray(), b""
    for place in range(start, len(url), _CHUNK):
        chunk = rest + url[place : place + _CHUNK].encode("ascii", "ignore").translate(
            None, _NOT_BASE64
        )
        if (padding := chunk.find(b"=")) >= 0:
            # The end, whatever follows; its second character may be in the next chunk.
            rest = chunk
            if padding + 2 < len(chunk):
                break
            continue
        whole = len(chunk) // 4 * 4
        data += binascii.a2b_base64(chunk[:whole])
        rest = chunk[whole:]
    data += binascii.a2b_base64(rest)
    return data
