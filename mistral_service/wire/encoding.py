"""The JSON encoder and decoder of the wire.

Pydantic's are written in Rust: three to five times as fast as the standard library's, which is the
fallback where they are too strict.
"""

import json
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

MAX_VALUES = 250_000
"""Values that a reply may have, so that a small body takes neither much memory nor much CPU time.
Each comma counts, also within a string; a long reply has some thousand."""

MAX_EVENT_VALUES = 25_000
"""Values that one event of a stream may have, or the arguments of all calls of a reply, counted the
same way. Parsing them takes about ten milliseconds at most."""

MAX_VECTOR_VALUES = 2_000_000
"""Values that a reply of vectors may have: 512 vectors of 3,072 numbers are 1.6 million."""

_SMALL = 8 * 1024
"""Bytes up to which values are not counted."""


def encode(body: dict[str, Any]) -> bytes:
    """Encode a body as JSON in UTF-8.

    A lone surrogate, which UTF-8 cannot encode, becomes "?": a broken transcript may contain one,
    which would fail its turn and, since it is in the history, every later one.

    Raises:
        TypeError: If JSON cannot represent something in it.
    """
    try:
        return to_json(body)
    except PydanticSerializationError:
        return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def decode(payload: bytes | str, most: int = MAX_VALUES) -> Any:
    """Decode JSON text, UTF-8 if bytes.

    Raises:
        ValueError: If it is no JSON, is nested too deeply, or has more than `most` values.
    """
    if len(payload) > _SMALL and values_in(payload) > most:
        raise ValueError(f"the JSON has more than {most} values")
    try:
        return from_json(payload)
    except (ValueError, TypeError):  # the latter for a lone surrogate
        pass
    try:
        # It accepts what some servers send: one half of a surrogate pair, split across chunks.
        return json.loads(payload)
    except (RecursionError, MemoryError) as e:
        raise ValueError(f"the JSON is too deep or too large: {type(e).__name__}") from None


def join_surrogates(text: str) -> str:
    """Join the surrogate pairs of a text, and replace lone ones, which UTF-8 cannot encode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def values_in(payload: bytes | str) -> int:
    """An upper bound of the values in a JSON text: its commas and brackets, also within strings."""
    if isinstance(payload, str):
        return sum(map(payload.count, ",[{"))
    return sum(map(payload.count, (b",", b"[", b"{")))
