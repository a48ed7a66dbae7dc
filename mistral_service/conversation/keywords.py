"""Repairs the keywords of a schema that contain no further schemas, where their meaning is clear.

A limit that cannot be parsed is left out: the function then gets values that the limit would have
excluded, and has to check them itself.
"""

import json
import re
import warnings
from typing import Any, cast

from mistral_service.conversation.conversion import without
from mistral_service.conversation.plain import BadSchema, is_json
from mistral_service.conversation.type_names import Schema, any_of, kinds_of, schema_of

OMITTED = object()
"""In place of a keyword's value: the keyword is left out."""

NULL: Schema = {"type": "null"}

_TEXTS = frozenset(
    {"title", "description", "format", "$comment", "contentMediaType", "contentEncoding"}
)
_COUNTS = frozenset(
    {
        *("minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains"),
        *("minProperties", "maxProperties"),
    }
)
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_FLAGS = frozenset({"uniqueItems", "readOnly", "writeOnly", "deprecated"})
ANNOTATIONS = frozenset(
    {
        *("title", "description", "default", "examples", "example", "$comment"),
        *("deprecated", "readOnly", "writeOnly"),
    }
)
"""Keywords that do not constrain the value."""

KEYWORDS = frozenset(
    {
        *(*_TEXTS, *_COUNTS, *_BOUNDS, *_FLAGS, *ANNOTATIONS),
        *("type", "enum", "const", "pattern", "nullable", "discriminator", "xml", "externalDocs"),
        *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
        *("items", "prefixItems", "additionalItems", "contains", "contentSchema"),
        *("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "definitions"),
        *("dependencies", "dependentSchemas", "dependentRequired"),
        *("unevaluatedProperties", "unevaluatedItems"),
    }
)
"""The keywords of all drafts, except those that begin with `$`."""

# Valid regular expressions that a grammar compiler does not take: Unicode property classes,
# lookaround, named groups, flags, and backreferences.
_PIECE = re.compile(
    r"\\(?P<escaped>.)|(?P<set>\[(?:\\.|[^\]\\])*\])|(?P<group>\(\?(?!:))", re.DOTALL
)
_NOT_ESCAPED = "pPkbBZ123456789"
_IN_A_SET = re.compile(r"\\[pP]")
_MAX_MENTION = 200


def repair_keyword(key: str, value: Any) -> Any:
    """The value of a keyword, from `to_json_value`, as Mistral takes it, or `OMITTED`.

    An unknown keyword is kept if its value is JSON.

    Raises:
        BadSchema: If it is an `enum` or a `const` that JSON cannot represent.
    """
    if key in _TEXTS:
        return _text(value)
    if key in _COUNTS:
        count = _number(value)
        whole = count is not OMITTED and 0 <= count < 2**63 and count == int(count)
        return int(count) if whole else OMITTED
    if key in _BOUNDS:
        bound = _number(value)
        return OMITTED if key == "multipleOf" and bound is not OMITTED and bound <= 0 else bound
    if key in _FLAGS:
        parsed = flag(value)
        return OMITTED if parsed is None else parsed
    if key == "pattern":
        return value if is_usable(value) else OMITTED
    if key == "enum":
        return _enum(value)
    if key == "const" and not is_json(value):
        raise BadSchema(f"const is {_quoted(value)}, and only JSON values are allowed")
    if key == "examples" and not isinstance(value, list):
        return OMITTED
    # `nullable` and `discriminator` are OpenAPI's, and converted elsewhere. `$id` and `$schema`
    # broke the API's grammar compiler (litellm#13389); the other `$` keywords are not needed.
    if key in ("nullable", "discriminator") or key.startswith("$"):
        return OMITTED
    return cast("Any", value) if is_json(value) else OMITTED


def reconcile(given: Schema, schema: Schema) -> Schema:
    """The repaired keywords of a schema, made to agree with each other and with those `given`."""
    for bound, strict in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if flag(given.get(strict)) and bound in schema:  # as in draft 4
            schema[strict] = schema.pop(bound)
    pattern = given.get("pattern")
    if isinstance(pattern, str) and "pattern" not in schema and len(pattern) <= _MAX_MENTION:
        hint = f"It matches the regular expression {pattern}"
        schema["description"] = f"{schema.get('description', '')} {hint}".strip()
    if flag(given.get("nullable")):
        schema = nullable(schema)
    _agree_on_type(schema)
    kinds = kinds_of(schema)
    if kinds and "null" not in kinds and schema.get("default", OMITTED) is None:
        del schema["default"]
    if "array" in kinds and not schema.keys() & {"items", "prefixItems"}:
        schema["items"] = {}
    return schema


def nullable(schema: Schema) -> Schema:
    """The schema of the same values and null."""
    if kinds := kinds_of(schema):
        if "null" not in kinds:
            schema["type"] = [*kinds, "null"]
        if "const" in schema:
            schema["enum"] = [schema.pop("const")]
        if "enum" in schema and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
        return schema
    notes, constraints = split_annotations(schema)
    if not constraints:
        return notes
    if constraints.keys() == {"anyOf"}:
        choices = cast("list[Any]", constraints["anyOf"])
        return {**notes, "anyOf": choices if NULL in choices else [*choices, NULL]}
    return {**notes, "anyOf": [constraints, NULL]}


def split_annotations(schema: Schema) -> tuple[Schema, Schema]:
    """The annotations of a schema, and the keywords that constrain the value."""
    notes = {key: value for key, value in schema.items() if key in ANNOTATIONS}
    return notes, {key: value for key, value in schema.items() if key not in notes}


def without_nulls(given: Schema) -> Schema:
    """A schema without the keywords whose null means "not set".

    Some frameworks write every keyword, with null for those that are not set. A `default` of null
    is a value. So is a `const` of null, unless the type forbids it, or other keywords are null as
    well. `properties` of null are none.
    """
    unset = {key for key, value in given.items() if value is None} - {"default", "properties"}
    if "const" in unset:
        kinds: Any = given.get("type")
        dumped = len(unset) > 1
        if kinds in ("null", ["null"]) or (not dumped and (kinds is None or "null" in kinds)):
            unset.remove("const")
    return {key: value for key, value in given.items() if key not in unset} if unset else given


def with_json_type(given: Schema) -> Schema:
    """A schema with a `type` of JSON schema for the name of a type in any language.

    Raises:
        BadSchema: If the type is no name, or an unknown one.
    """
    if "type" not in given:
        return given
    kinds = given["type"]
    rest = without(given, "type")
    if kinds is None:
        return rest
    meant: list[Schema] = []
    for kind in cast("list[Any]", kinds if isinstance(kinds, list) else [kinds]):
        schema = NULL if kind is None else schema_of(kind) if isinstance(kind, str) else None
        if schema is None:
            raise BadSchema(
                f"type is {_quoted(kind)}, and string, number, integer, boolean, object, array and "
                "null are allowed"
            )
        meant.append(schema)
    typed = any_of(meant)
    if "anyOf" in typed and "anyOf" in rest:
        raise BadSchema(f"type is {_quoted(kinds)} together with anyOf, and one of them is allowed")
    return {**typed, **rest}


def flag(value: Any) -> bool | None:
    """A boolean, also as text; None if it is neither."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


def is_usable(pattern: Any) -> bool:
    """Whether Mistral's validator and the grammar compilers take a regular expression."""
    if not isinstance(pattern, str):
        return False
    for piece in _PIECE.finditer(pattern):
        if piece["group"] or (piece["escaped"] or "-") in _NOT_ESCAPED:
            return False
        if piece["set"] and _IN_A_SET.search(piece["set"]):
            return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _quoted(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:60] + "…"


def _text(value: Any) -> Any:
    if isinstance(value, list) and value:
        lines = cast("list[Any]", value)
        return "\n".join(lines) if all(isinstance(line, str) for line in lines) else OMITTED
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else OMITTED


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return OMITTED
    if isinstance(value, bool) or not isinstance(value, int | float):
        return OMITTED
    return value if value - value == 0 else OMITTED


def _enum(value: Any) -> Any:
    if value is None or value == []:
        return OMITTED
    if not isinstance(value, list):
        raise BadSchema(f"enum is {_quoted(value)}, and a list of values is allowed")
    # As JSON text 1 and true differ, which are equal in Python.
    known = {json.dumps(each): each for each in cast("list[Any]", value) if is_json(each)}
    if not known:
        raise BadSchema(f"enum is {_quoted(value)}, and only JSON values are allowed")
    return list(known.values())


def _agree_on_type(schema: Schema) -> None:
    """Make `type` agree with `enum` or `const`, which are more specific."""
    kinds = kinds_of(schema)
    if not kinds:
        return
    if "enum" in schema:
        values = cast("list[Any]", schema["enum"])
        fitting = [value for value in values if not _types_of(value).isdisjoint(kinds)]
        schema["enum"] = fitting or values
        if fitting:
            return
    elif "const" in schema and _types_of(schema["const"]).isdisjoint(kinds):
        values = [schema["const"]]
    else:
        return
    schema["type"] = any_of([{"type": min(_types_of(value))} for value in values])["type"]


_TYPES: dict[type[Any], set[str]] = {
    type(None): {"null"},
    bool: {"boolean"},
    int: {"integer", "number"},
    float: {"number"},
    str: {"string"},
    list: {"array"},
    dict: {"object"},
}


def _types_of(value: Any) -> set[str]:
    """The types of JSON schema that a value has."""
    is_whole = isinstance(value, float) and value.is_integer()
    return _TYPES[int if is_whole else type(value)]
