"""Converts any Python value to JSON values: the form in which a function's schema is checked."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, cast, get_origin
from uuid import UUID

from pydantic import BaseModel

MAX_DEPTH = 100
"""Levels of objects and lists; no hand-written schema comes near."""

MAX_VALUES = 10_000
"""Values in one schema, each counted as often as it occurs."""

# JSON readers differ on longer integers; a schema's limits are those of 64 bits.
_MAX_INTEGER_BITS = 1_000  # bits


class BadSchema(ValueError):
    """A schema that cannot be sent; the message has the path, the value and what is allowed."""


@dataclass(frozen=True)
class NotJson:
    """Marks a value that JSON cannot represent, such as NaN or an object of some `kind`."""

    kind: str

    def __repr__(self) -> str:
        return self.kind


def to_json_value(value: Any) -> Any:
    """Convert a value to JSON values, with `NotJson` where JSON cannot represent it.

    Enums become their values, sets and tuples lists, dates their ISO form, pydantic models their
    schema, Python's types their name. Dicts and lists are new ones.

    Raises:
        BadSchema: If it contains itself, is nested deeper than `MAX_DEPTH`, has more than
            `MAX_VALUES` values, or a key that is no string.
    """
    return _Reader().read(value, 0)


def is_json(value: Any) -> bool:
    """Whether JSON can represent all of a value that `to_json_value` returned."""
    if isinstance(value, dict):
        return all(is_json(each) for each in cast("dict[str, Any]", value).values())
    if isinstance(value, list):
        return all(is_json(each) for each in cast("list[Any]", value))
    return not isinstance(value, NotJson)


def as_json(value: Any) -> str:
    """Any Python value as JSON text; what JSON cannot represent is written as its type's name."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return json.dumps(to_json_value(value), ensure_ascii=False, default=repr)
    except BadSchema as e:
        return json.dumps(f"<{type(value).__name__}: {e}>", ensure_ascii=False)


class _Reader:
    def __init__(self) -> None:
        self._values = 0
        self._inside: set[int] = set()

    def read(self, value: Any, depth: int) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise BadSchema(f"it has more than {MAX_VALUES} values, the maximum")
        if depth > MAX_DEPTH:
            raise BadSchema(f"it is nested deeper than {MAX_DEPTH} levels, the maximum")
        value = _as_json_type(value)
        here = id(value)
        if not isinstance(value, Mapping | list):
            return value
        if here in self._inside:
            raise BadSchema("it contains itself")
        self._inside.add(here)
        try:
            if isinstance(value, list):
                return [self.read(each, depth + 1) for each in cast("list[Any]", value)]
            given = cast("Mapping[Any, Any]", value)
            return {_name(key): self.read(given[key], depth + 1) for key in given}
        finally:
            self._inside.discard(here)


def _as_json_type(value: Any) -> Any:
    """A value as a mapping, a list, or a JSON scalar."""
    match value:
        case None | bool():
            return value
        case Enum():
            return _as_json_type(value.value)
        case str():
            return str.__str__(value)
        case int():
            is_long = value.bit_length() > _MAX_INTEGER_BITS
            return NotJson("<an integer too long>") if is_long else int(value)
        case float():
            return float(value) if math.isfinite(value) else NotJson(str(float(value)))
        case Mapping() | list():
            return cast("object", value)
        case tuple():
            return list(cast("tuple[Any, ...]", value))
        case set() | frozenset():
            # In the same order in every process, for the prompt cache.
            return sorted(cast("set[Any]", value), key=repr)
        case datetime() | date() | time():
            return value.isoformat()
        case UUID() | PurePath():
            return str(value)
        case Decimal():
            return _as_json_type(float(value))
        case bytes() | bytearray():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return NotJson("<bytes>")
        case BaseModel():
            return value.model_dump(mode="json", by_alias=True, exclude_none=True)
        case type() if issubclass(value, BaseModel):
            return value.model_json_schema()
        case type() if issubclass(value, Enum):
            return [member.value for member in value]
        case _ if get_origin(value) is not None:
            return repr(value)  # a type with arguments: `list[str]` or `Optional[int]`
        case type():
            return cast("type[Any]", value).__name__
        case _:
            return NotJson(f"<{type(value).__name__}>")


def _name(key: Any) -> str:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, int | float) and not isinstance(key, bool):
        return str(key)
    raise BadSchema(f"it has the key {key!r}, and only strings are allowed")
