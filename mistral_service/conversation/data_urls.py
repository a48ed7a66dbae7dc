"""The bytes in a data URL, read so that no other thread waits for them."""

import binascii
import string
from urllib.parse import unquote_to_bytes

from mistral_service.conversation.encoding import MOST_BYTES

MOST_CHARACTERS = MOST_BYTES // 3 * 4 + 1000
"""Characters that an image's URL may have: the largest image in base64."""

# Python's lock is held for as long as one call takes: 0.2 ms for a piece, 60 for a megabyte's 25.
_PIECE = 1 << 16
_BASE64 = (string.ascii_letters + string.digits + "+/=").encode()
_JUNK = bytes(set(range(256)) - set(_BASE64))


def read_data_url(url: str) -> tuple[str, bytearray, bool]:
    """Take a data URL apart.

    Args:
        url: A URL that begins with `data:`.

    Returns:
        Its MIME type, its bytes, and whether they are in base64.

    Raises:
        ValueError: If its base64 is broken.
    """
    # A head is short; a longer one is no head.
    comma = url.find(",", 0, 1000)
    head = url[5 : comma if comma >= 0 else min(len(url), 1000)]
    start = comma + 1 if comma >= 0 else len(url)
    mime_type, *parameters = head.split(";")
    if "base64" in parameters:
        return mime_type, _from_base64(url, start), True
    data = bytearray()
    while start < len(url):
        stop = start + _PIECE
        if (cut := url.rfind("%", stop - 2, stop)) >= 0:
            stop = cut  # a character's code stays whole
        data += unquote_to_bytes(url[start:stop])
        start = stop
    return mime_type, data, False


def _from_base64(url: str, start: int) -> bytearray:
    """As `base64.b64decode` reads it: what is no base64 in it is skipped."""
    data, rest = bytearray(), b""
    for place in range(start, len(url), _PIECE):
        piece = rest + url[place : place + _PIECE].encode("ascii", "ignore").translate(None, _JUNK)
        if b"=" in piece:
            # The end, whatever comes behind it.
            rest = piece + url[place + _PIECE : place + _PIECE + 2].encode("ascii", "ignore")
            break
        whole = len(piece) // 4 * 4
        data += binascii.a2b_base64(piece[:whole])
        rest = piece[whole:]
    data += binascii.a2b_base64(rest)
    return data
