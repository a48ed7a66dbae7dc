"""JSON of any size without a pause: written and read in pieces, none of which takes long.

The standard library's encoder and decoder hold the interpreter's lock until they are done, 50 to
100 ms for 4 MB of small values, so that a thread alone does not free the event loop. Here no single
call takes more than about a millisecond, and other threads run between the calls.
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

DEEPEST = 64
"""Levels that large containers may be nested."""

_SHORT = 1_000

_SPACE = re.compile(r"[ \t\n\r]*")
_decoder = json.JSONDecoder()


def pieces(value: Any, *, sort_keys: bool = False, ascii: bool = True) -> Iterator[str]:
    """Write a value as `json.dumps(value, default=str)` does, in pieces.

    Args:
        value: The value. It may change meanwhile: what was changed is written as it was or is.
        sort_keys: Whether keys are sorted.
        ascii: Whether all else than ASCII is escaped, as by `ensure_ascii`.

    Yields:
        The pieces.

    Raises:
        TypeError: If a key is nothing that JSON has.
        ValueError: If it contains itself, or a number of more than 4,300 digits.
        RecursionError: If it is nested too deep.
    """
    encoder = _encoder(sort_keys, ascii)
    yield from _written(value, encoder, 0)


def parse(text: str) -> Any:
    """Read a value; containers that are large are read one member at a time.

    Args:
        text: What `pieces` or another encoder wrote.

    Raises:
        ValueError: If it is not JSON.
        RecursionError: If it is nested too deep.
    """
    value, at = _read(text, _after_space(text, 0), 0)
    if _after_space(text, at) != len(text):
        raise ValueError("more than one value")
    return value


@functools.cache
def _encoder(sort_keys: bool, ascii: bool) -> json.JSONEncoder:
    return json.JSONEncoder(default=_text, sort_keys=sort_keys, ensure_ascii=ascii)


def _written(value: Any, encoder: json.JSONEncoder, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        raise RecursionError("nested too deep")
    if isinstance(value, str) and len(value) > PIECE:
        yield '"'
        for start in range(0, len(value), PIECE):
            yield encoder.encode(value[start : start + PIECE])[1:-1]
        yield '"'
    elif isinstance(value, dict | list | tuple) and weight(value, PIECE) > PIECE:
        yield from _members(cast("dict[Any, Any] | list[Any]", value), encoder, depth)
    else:
        yield encoder.encode(value)


def _members(
    value: dict[Any, Any] | list[Any], encoder: json.JSONEncoder, depth: int
) -> Iterator[str]:
    """A large container: small members together, each large one alone."""
    mapping = isinstance(value, dict)
    members: list[Any] = list(value.items()) if mapping else list(value)
    if mapping and encoder.sort_keys:
        members.sort()
    together: list[Any] = []
    room = PIECE
    comma = ""
    yield "{" if mapping else "["
    for member in members:
        size = weight(member, PIECE)
        if together and size > room:
            yield comma + encoder.encode(dict(together) if mapping else together)[1:-1]
            together, room, comma = [], PIECE, ", "
        if size <= room:
            together.append(member)
            room -= size
            continue
        yield comma + (encoder.encode({member[0]: 0})[1:-2] if mapping else "")
        yield from _written(member[1] if mapping else member, encoder, depth + 1)
        comma = ", "
    if together:
        yield comma + encoder.encode(dict(together) if mapping else together)[1:-1]
    yield "}" if mapping else "]"


def _text(value: object) -> str:
    """What JSON does not know is kept as its text rather than not at all."""
    if isinstance(value, bytes | bytearray):
        return f"[{len(value)} bytes]" if len(value) > PIECE else str(value)
    return str(value)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _read(text: str, at: int, depth: int) -> tuple[Any, int]:
    """A value that begins at a place, and the place behind it."""
    opened = text[at : at + 1]
    if opened not in ("{", "["):
        return _decoder.raw_decode(text, at)
    if depth > DEEPEST:
        raise RecursionError("nested too deep")
    for reach in (_SHORT, PIECE):
        with contextlib.suppress(ValueError):
            value, end = _decoder.raw_decode(text[at : at + reach])
            return value, at + end
    # It is large, or damaged: then the member that is says so.
    mapping, closing = opened == "{", "}" if opened == "{" else "]"
    members: list[Any] = []
    at = _after_space(text, at + 1)
    while text[at : at + 1] != closing:
        if members:
            at = _after_space(text, _expect(text, at, ","))
        key: Any = None
        if mapping:
            key, at = _decoder.raw_decode(text, at)
            if not isinstance(key, str):
                raise ValueError("a key that is no text")
            at = _after_space(text, _expect(text, _after_space(text, at), ":"))
        value, at = _read(text, at, depth + 1)
        members.append((key, value) if mapping else value)
        at = _after_space(text, at)
    return dict(members) if mapping else members, at + 1


def _expect(text: str, at: int, sign: str) -> int:
    if text[at : at + 1] != sign:
        raise ValueError(f"a {sign!r} is missing")
    return at + 1
