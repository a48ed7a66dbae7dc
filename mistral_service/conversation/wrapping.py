"""The object around a function's arguments: added where it is missing, removed where doubled."""

from typing import Any, cast

from mistral_service.conversation.conversion import without
from mistral_service.conversation.keywords import KEYWORDS
from mistral_service.conversation.type_names import Schema, schema_of

# A mapping with one of these keys is recognised as a schema.
_SCHEMA_KEYS = frozenset(
    {
        *("type", "description", "title", "format", "enum", "const", "default", "nullable"),
        *("items", "properties", "required", "anyOf", "oneOf", "allOf", "$ref", "minimum"),
    }
)
# Keywords of an object's schema whose value may be a mapping.
_MAPPINGS = frozenset(
    {
        *("properties", "patternProperties", "additionalProperties", "unevaluatedProperties"),
        *("propertyNames", "$defs", "definitions", "not", "if", "then", "else", "example"),
        *("dependentSchemas", "dependencies", "dependentRequired"),
        *("discriminator", "xml", "externalDocs"),
    }
)


def wrapped(given: Schema) -> Schema:
    """The schema of an object, added around a mapping of arguments to their schemas.

    Some frameworks leave it out. An argument may have the name of a keyword, `description` above
    all.
    """
    loose = {key: value for key, value in given.items() if _is_argument(key, value, given)}
    properties: Any = given.get("properties")
    if loose and "type" not in given and _is_schema(properties):
        loose["properties"] = properties
    elif properties is not None or not loose:
        return given
    rest = {key: value for key, value in given.items() if key not in loose}
    return {**rest, "type": rest.get("type", "object"), "properties": loose}


def is_bare(given: Schema) -> bool:
    """Whether a schema has nothing but arguments, none of them with the name of a keyword."""
    return bool(given) and all(
        isinstance(value, dict) and key not in KEYWORDS and _is_argument(key, value, given)
        for key, value in given.items()
    )


def wrapped_twice(given: Schema) -> Schema | None:
    """The inner of two objects, where a whole schema was given as `properties`; None without."""
    inner: Any = given.get("properties")
    if not _is_schema(inner) or not isinstance(inner.get("properties"), dict):
        return None
    rest = without(given, "properties", "required")
    required: Any = inner.get("required") or given.get("required")
    return {**rest, **inner, **({"required": required} if required else {})}


def _is_schema(value: Any) -> bool:
    """Whether a mapping has a `type`, as a schema does."""
    return isinstance(value, dict) and isinstance(cast("Schema", value).get("type"), str)


def _is_argument(key: str, value: Any, schema: Schema) -> bool:
    """Whether a key of a schema cannot be a keyword, and its value is a schema."""
    if isinstance(value, str):
        return key not in KEYWORDS and "type" not in schema and schema_of(value) is not None
    is_name = key not in _MAPPINGS and not key.startswith(("$", "x-"))
    if not is_name or not isinstance(value, dict):
        return False
    return bool(cast("Schema", value).keys() & _SCHEMA_KEYS) or (not value and key not in KEYWORDS)
