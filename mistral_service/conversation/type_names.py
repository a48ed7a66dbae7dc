"""Converts the name of a type, in any programming language, to a JSON schema."""

import re
from collections.abc import Sequence
from typing import Any, cast

Schema = dict[str, Any]

# What other languages and frameworks call the types of JSON schema.
_SPELLINGS = {
    "string": "string str text char varchar unicode binary bytes base64",
    "integer": "integer int long short byte int8 int16 int32 int64 uint uint8 uint16 uint32 uint64 "
    "bigint",
    "number": "number float double decimal num numeric real float32 float64",
    "boolean": "boolean bool",
    "object": "object dict map mapping struct record dictionary typeddict",
    "array": "array list tuple set frozenset sequence vector iterable",
    "null": "null none nil nonetype void undefined",
}
_NAMES = {name: kind for kind, names in _SPELLINGS.items() for name in names.split()}
_FORMATS = {"datetime": "date-time", "url": "uri"} | {
    name: name for name in ("date", "date-time", "time", "uuid", "email", "uri")
}
_ANY = frozenset({"any", "unknown", "mixed", "*", "", "type_unspecified"})

_MAX_LENGTH = 200
_GENERIC = re.compile(r"(\w+)\s*[\[<](.*)[\]>]", re.DOTALL)
_PREFIXES = re.compile(r"\b(typing|builtins|collections\.abc|datetime|uuid|decimal)\.(?=\w)")


def schema_of(name: str) -> Schema | None:
    """The schema of a type's name, empty for any type; None if the name is unknown.

    It is `string`, or what others call it: `str`, `STRING`, `<class 'str'>`, `List[str]`,
    `str | None`, `string[]`.
    """
    text = name.strip()
    if len(text) > _MAX_LENGTH:
        return None
    if named := re.fullmatch(r"<(?:class|enum) '(.*)'>", text):
        text = named[1]
    return _schema_of(_PREFIXES.sub("", text))


def any_of(schemas: Sequence[Schema]) -> Schema:
    """The schema of a union of types."""
    if not all(schemas) or not schemas:
        return {}
    if all(schema.keys() == {"type"} for schema in schemas):
        kinds = list(dict.fromkeys(kind for schema in schemas for kind in kinds_of(schema)))
        return {"type": kinds[0] if len(kinds) == 1 else kinds}
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def _schema_of(text: str) -> Schema | None:
    text = text.strip().strip("'\"")
    known = text.lower()
    if known in _ANY:
        return {}
    if known in _NAMES:
        return {"type": _NAMES[known]}
    if known in _FORMATS:
        return {"type": "string", "format": _FORMATS[known]}
    alternatives = _split(text, "|")
    if len(alternatives) > 1:
        return _any_of(alternatives)
    if text.endswith("[]"):
        return _array(text[:-2])
    generic = _GENERIC.fullmatch(text)
    if generic is None:
        return None
    kind, arguments = generic[1].lower(), _split(generic[2], ",")
    if kind == "optional":
        return _any_of([*arguments, "null"])
    if kind == "union":
        return _any_of(arguments)
    if kind == "annotated":
        return _schema_of(arguments[0])
    if _NAMES.get(kind) == "array":
        inner = [argument for argument in arguments if argument != "..."]
        return _array(inner[0]) if len(inner) == 1 else {"type": "array"}
    if _NAMES.get(kind) == "object":
        values = _schema_of(arguments[-1])
        return {"type": "object", **({"additionalProperties": values} if values else {})}
    return None


def _array(items: str) -> Schema | None:
    inner = _schema_of(items)
    return None if inner is None else {"type": "array", "items": inner}


def _any_of(names: Sequence[str]) -> Schema | None:
    schemas = [_schema_of(name) for name in names]
    known = [schema for schema in schemas if schema is not None]
    return any_of(known) if len(known) == len(schemas) else None


def _split(text: str, mark: str) -> list[str]:
    """Split a text at a mark, but not within brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[<(") - (character in "]>)")
        if character == mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def kinds_of(schema: Schema) -> list[str]:
    """The types of a repaired schema."""
    kinds: Any = schema.get("type", [])
    return cast("list[str]", kinds) if isinstance(kinds, list) else [kinds]
