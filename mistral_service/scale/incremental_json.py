"""JSON of any size without a pause: written and read in pieces, each of which takes a moment.

The standard library's encoder and decoder hold the interpreter's lock until they are done, 50 to
100 ms for 4 MB of small values, so that a thread alone does not free the event loop. Here one call
of them takes about a millisecond, and other threads run between the calls.
"""

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from typing import Any, cast

from mistral_service.wire.weight import weight

PIECE = 32_000
"""Characters that one call of the encoder gets, as `weight` counts them."""

MAX_DEPTH = 64
"""How deep large containers may be nested."""

_SHORT = 1_000

_SPACE = re.compile(r"[ \t\n\r]*")
_decoder = json.JSONDecoder()


def iterencode(value: Any, *, sort_keys: bool = False, ascii: bool = True) -> Iterator[str]:
    """Encode a value as `json.dumps(value, default=str)` does, in pieces.

    The value may change meanwhile: each part is then the old one or the new one.

    Raises:
        TypeError: If a key is of a type that JSON does not have.
        ValueError: If it contains itself, or a number of more than 4,300 digits.
        RecursionError: If it is nested too deep.
    """
    yield from _encode(value, _encoder(sort_keys, ascii), 0)


def dumps(value: Any, otherwise: str = "null") -> str:
    """Encode a value; a value that JSON cannot hold becomes `otherwise`."""
    try:
        return "".join(iterencode(value))
    except (TypeError, ValueError, RecursionError):
        return otherwise


def loads(text: str) -> Any:
    """Decode a value; large containers are decoded one member at a time.

    Raises:
        ValueError: If it is not JSON.
        RecursionError: If it is nested too deep.
    """
    value, at = _decode(text, _after_space(text, 0), 0)
    if _after_space(text, at) != len(text):
        raise ValueError("more than one value")
    return value


@functools.cache
def _encoder(sort_keys: bool, ascii: bool) -> json.JSONEncoder:
    return json.JSONEncoder(default=_to_text, sort_keys=sort_keys, ensure_ascii=ascii)


def _encode(value: Any, encoder: json.JSONEncoder, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise RecursionError("nested too deep")
    if isinstance(value, str) and len(value) > PIECE:
        yield '"'
        for start in range(0, len(value), PIECE):
            yield encoder.encode(value[start : start + PIECE])[1:-1]
        yield '"'
    elif isinstance(value, dict | list | tuple) and weight(value, PIECE) > PIECE:
        yield from _encode_members(cast("dict[Any, Any] | list[Any]", value), encoder, depth)
    else:
        yield encoder.encode(value)


def _encode_members(
    value: dict[Any, Any] | list[Any], encoder: json.JSONEncoder, depth: int
) -> Iterator[str]:
    """Encode a large container: small members together, each large one alone."""
    mapping = isinstance(value, dict)
    members: list[Any] = list(value.items()) if mapping else list(value)
    if mapping and encoder.sort_keys:
        members.sort()
    batch: list[Any] = []
    left = PIECE
    comma = ""
    yield "{" if mapping else "["
    for member in members:
        size = weight(member, PIECE)
        if batch and size > left:
            yield comma + encoder.encode(dict(batch) if mapping else batch)[1:-1]
            batch, left, comma = [], PIECE, ", "
        if size <= left:
            batch.append(member)
            left -= size
            continue
        yield comma + (encoder.encode({member[0]: 0})[1:-2] if mapping else "")
        yield from _encode(member[1] if mapping else member, encoder, depth + 1)
        comma = ", "
    if batch:
        yield comma + encoder.encode(dict(batch) if mapping else batch)[1:-1]
    yield "}" if mapping else "]"


def _to_text(value: object) -> str:
    """The text of a value that JSON does not know."""
    if isinstance(value, bytes | bytearray):
        return f"[{len(value)} bytes]" if len(value) > PIECE else str(value)
    return str(value)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _decode(text: str, at: int, depth: int) -> tuple[Any, int]:
    """Decode the value at an index; returns it and the index after it."""
    opening = text[at : at + 1]
    if opening not in ("{", "["):
        return _decoder.raw_decode(text, at)
    if depth > MAX_DEPTH:
        raise RecursionError("nested too deep")
    for reach in (_SHORT, PIECE):
        with contextlib.suppress(ValueError):
            value, end = _decoder.raw_decode(text[at : at + reach])
            return value, at + end
    # It is large or damaged; a damaged member raises.
    mapping, closing = opening == "{", "}" if opening == "{" else "]"
    members: list[Any] = []
    at = _after_space(text, at + 1)
    while text[at : at + 1] != closing:
        if members:
            at = _after_space(text, _expect(text, at, ","))
        key: Any = None
        if mapping:
            key, at = _decoder.raw_decode(text, at)
            if not isinstance(key, str):
                raise ValueError("a key that is not a string")
            at = _after_space(text, _expect(text, _after_space(text, at), ":"))
        value, at = _decode(text, at, depth + 1)
        members.append((key, value) if mapping else value)
        at = _after_space(text, at)
    return dict(members) if mapping else members, at + 1


def _expect(text: str, at: int, character: str) -> int:
    if text[at : at + 1] != character:
        raise ValueError(f"a {character!r} is missing")
    return at + 1
