"""JSON of any shape, looked into without a fault."""

from typing import Any, cast

Json = dict[str, Any]
_NONE: Json = {}


def object_of(value: object) -> Json:
    """The value where it is an object; else an empty one."""
    return cast("Json", value) if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """The value where it is a list; else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def objects_of(value: object) -> list[Json]:
    """The objects of a list; of anything else none."""
    return [cast("Json", each) for each in list_of(value) if isinstance(each, dict)]


def last_of(value: object) -> Json:
    """The last object of a list; an empty one where there is none."""
    return (objects_of(value) or [_NONE])[-1]


def first_of(value: object) -> Json:
    """The first object of a list; an empty one where there is none."""
    return (objects_of(value) or [_NONE])[0]
