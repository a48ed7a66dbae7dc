"""The keywords of a schema that hold no further schemas, each mended where its meaning is clear.

What a keyword says of the arguments has to be understood. A limit that cannot be read is left out:
the function gets what it would have refused, and its own checks stand.
"""

import json
import re
import warnings
from typing import Any, cast

from mistral_service.conversation.plain import BadSchema, is_json
from mistral_service.conversation.type_names import Schema, any_of, schema_of

GONE = object()
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
"""Keywords that allow and forbid nothing."""

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
"""What a schema may say in one draft or another, besides what begins with `$`."""

# What a grammar compiler does not take besides what is no regular expression at all: classes by
# Unicode property, groups that look around, have a name or set a flag, references back to a group.
_PIECE = re.compile(
    r"\\(?P<escaped>.)|(?P<set>\[(?:\\.|[^\]\\])*\])|(?P<group>\(\?(?!:))", re.DOTALL
)
_NOT_ESCAPED = "pPkbBZ123456789"
_IN_A_SET = re.compile(r"\\[pP]")
_LONGEST_MENTION = 200


def mended_keyword(key: str, value: Any) -> Any:
    """The value of a keyword as Mistral takes it, or `GONE`.

    Args:
        key: The keyword; one that JSON schema does not know is kept if JSON knows its value.
        value: Its value, as `plain` restates it.

    Raises:
        BadSchema: If it is an `enum` or a `const` of which nothing can be said in JSON.
    """
    if key in _TEXTS:
        return _text(value)
    if key in _COUNTS:
        count = _number(value)
        whole = count is not GONE and 0 <= count < 2**63 and count == int(count)
        return int(count) if whole else GONE
    if key in _BOUNDS:
        bound = _number(value)
        return GONE if key == "multipleOf" and bound is not GONE and bound <= 0 else bound
    if key in _FLAGS:
        said = flag(value)
        return GONE if said is None else said
    if key == "pattern":
        return value if is_usable(value) else GONE
    if key == "enum":
        return _enum(value)
    if key == "const" and not is_json(value):
        raise BadSchema(f"const is {_shown(value)}, and a value that JSON knows is allowed")
    if key == "examples" and not isinstance(value, list):
        return GONE
    # `nullable`, `discriminator`: OpenAPI's, said otherwise. `$id` and `$schema` broke the API's
    # grammar compiler (litellm#13389), and nothing here uses the others that begin so.
    if key in ("nullable", "discriminator") or key.startswith("$"):
        return GONE
    return cast("Any", value) if is_json(value) else GONE


def agreed(given: Schema, schema: Schema) -> Schema:
    """Bring the keywords of one schema into agreement with each other.

    Args:
        given: The schema as it was given.
        schema: The same, each keyword mended.

    Returns:
        The schema as it is sent.
    """
    for bound, strict in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if flag(given.get(strict)) and bound in schema:  # as in draft 4
            schema[strict] = schema.pop(bound)
    pattern = given.get("pattern")
    if isinstance(pattern, str) and "pattern" not in schema and len(pattern) <= _LONGEST_MENTION:
        said = f"It matches the regular expression {pattern}"
        schema["description"] = f"{schema.get('description', '')} {said}".strip()
    if flag(given.get("nullable")):
        schema = nullable(schema)
    _agree_on_type(schema)
    kinds = kinds_of(schema)
    if kinds and "null" not in kinds and schema.get("default", GONE) is None:
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
    said = {key: value for key, value in schema.items() if key in ANNOTATIONS}
    allowed = {key: value for key, value in schema.items() if key not in ANNOTATIONS}
    if not allowed:
        return said
    if allowed.keys() == {"anyOf"}:
        choices = cast("list[Any]", allowed["anyOf"])
        return {**said, "anyOf": choices if NULL in choices else [*choices, NULL]}
    return {**said, "anyOf": [allowed, NULL]}


def without_nulls(given: Schema) -> Schema:
    """A schema without the keywords that say nothing.

    Some frameworks write every keyword that they know, with null for those that are not set. A
    `default` of null says something. So does a `const` of null, unless the type forbids it, or
    other keywords are null as well. `properties` of null are none.
    """
    silent = {key for key, value in given.items() if value is None} - {"default", "properties"}
    if "const" in silent:
        kinds: Any = given.get("type")
        dumped = len(silent) > 1
        if kinds in ("null", ["null"]) or (not dumped and (kinds is None or "null" in kinds)):
            silent.remove("const")
    return {key: value for key, value in given.items() if key not in silent} if silent else given


def with_json_type(given: Schema) -> Schema:
    """A schema whose `type` is one of JSON schema's, where its name says which is meant.

    Raises:
        BadSchema: If the type is no name, or a name that says nothing.
    """
    if "type" not in given:
        return given
    kinds = given["type"]
    rest = {key: value for key, value in given.items() if key != "type"}
    if kinds is None:
        return rest
    meant: list[Schema] = []
    for kind in cast("list[Any]", kinds if isinstance(kinds, list) else [kinds]):
        schema = NULL if kind is None else schema_of(kind) if isinstance(kind, str) else None
        if schema is None:
            raise BadSchema(
                f"type is {_shown(kind)}, and string, number, integer, boolean, object, array and "
                "null are allowed"
            )
        meant.append(schema)
    said = any_of(meant)
    if "anyOf" in said and "anyOf" in rest:
        raise BadSchema(f"type is {_shown(kinds)} beside anyOf, and one of them is allowed")
    return {**said, **rest}


def kinds_of(schema: Schema) -> list[str]:
    """The types that a mended schema names."""
    kinds: Any = schema.get("type", [])
    return cast("list[str]", kinds) if isinstance(kinds, list) else [kinds]


def flag(value: Any) -> bool | None:
    """What a yes or no says, also in words; None if it is neither."""
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


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:60] + "…"


def _text(value: Any) -> Any:
    if isinstance(value, list) and value:
        lines = cast("list[Any]", value)
        return "\n".join(lines) if all(isinstance(line, str) for line in lines) else GONE
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else GONE


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return GONE
    if isinstance(value, bool) or not isinstance(value, int | float):
        return GONE
    return value if value - value == 0 else GONE


def _enum(value: Any) -> Any:
    if value is None or value == []:
        return GONE
    if not isinstance(value, list):
        raise BadSchema(f"enum is {_shown(value)}, and a list of values is allowed")
    # As JSON text 1 and true differ, which are equal in Python.
    known = {json.dumps(each): each for each in cast("list[Any]", value) if is_json(each)}
    if not known:
        raise BadSchema(f"enum is {_shown(value)}, and values that JSON knows are allowed")
    return list(known.values())


def _agree_on_type(schema: Schema) -> None:
    """Have `type` allow what `enum` or `const` names: a value says more than a type's name."""
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


def _types_of(value: Any) -> set[str]:
    """The types of JSON schema that a value has."""
    match value:
        case None:
            return {"null"}
        case bool():
            return {"boolean"}
        case int():
            return {"integer", "number"}
        case float():
            return {"integer", "number"} if value.is_integer() else {"number"}
        case str():
            return {"string"}
        case list():
            return {"array"}
        case _:
            return {"object"}
