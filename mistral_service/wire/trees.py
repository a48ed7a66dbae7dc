"""Tolerant access to decoded JSON of any shape."""

from typing import Any, cast

Json = dict[str, Any]
_NONE: Json = {}


def object_of(value: object) -> Json:
    """The value, if it is an object; otherwise an empty one."""
    # A check for Mapping would take ten times as long.
    return cast("Json", value) if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """The value, if it is a list; otherwise an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def objects_of(value: object) -> list[Json]:
    """The objects in a list; none for any other value."""
    return [cast("Json", each) for each in list_of(value) if isinstance(each, dict)]


def last_of(value: object) -> Json:
    """The last object in a list; an empty one if there is none."""
    return (objects_of(value) or [_NONE])[-1]


def first_of(value: object) -> Json:
    """The first object in a list; an empty one if there is none."""
    return (objects_of(value) or [_NONE])[0]
