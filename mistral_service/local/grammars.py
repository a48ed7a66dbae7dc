"""What servers refuse when they compile the schemas of functions to grammars.

Mistral's validator (draft 7) checks the form of a schema. Then the hosted API and self-hosted
servers compile it to a grammar, and refuse some schemas that are valid.
"""

import re
from collections.abc import Iterator
from typing import Any, cast

from mistral_service.local.pieces import Json

_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_INNER = frozenset(
    {
        *("items", "prefixItems", "additionalItems", "contains", "propertyNames"),
        *("additionalProperties", "allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
    }
)

# Refused by llama.cpp, and by servers that use Rust's regular expressions.
_LOOKAROUND = re.compile(r"(?<!\\)\(\?<?[=!]")


def hosted_fault(tools: list[Json]) -> str | None:
    """Why the hosted API cannot compile the functions among valid tools (R11); None if it can."""
    for parameters in _parameters_of(tools):
        for schema in _schemas_in(parameters):
            if schema.keys() & {"$schema", "$id"} or not _resolves(schema, parameters):
                return "Grammar error: failed to compile JSON schema"
    return None


def self_hosted_fault(tools: list[Json], choice: Any) -> str | None:
    """Why self-hosted servers refuse the functions among valid tools, or the `tool_choice`."""
    for schema in _schemas_in(_parameters_of(tools)):
        if _LOOKAROUND.search(str(schema.get("pattern", ""))):
            return "Failed to initialize samplers: failed to parse grammar"
    if isinstance(choice, dict):
        named = cast("Json", choice)["function"]["name"]
        if named not in [tool["function"]["name"] for tool in tools if "function" in tool]:
            return "The tool specified in `tool_choice` does not match any of the specified `tools`"
    return None


def _parameters_of(tools: list[Json]) -> list[Json]:
    return [tool["function"]["parameters"] for tool in tools if "function" in tool]


def _schemas_in(value: Any) -> Iterator[Json]:
    """A schema or a list of them, and every schema within."""
    if isinstance(value, list):
        for each in cast("list[Any]", value):
            yield from _schemas_in(each)
    elif isinstance(value, dict):
        schema = cast("Json", value)
        yield schema
        for key, inner in schema.items():
            if key in _NAMED and isinstance(inner, dict):
                for named in cast("Json", inner).values():
                    yield from _schemas_in(named)
            elif key in _INNER:
                yield from _schemas_in(inner)


def _resolves(schema: Json, whole: Json) -> bool:
    """Whether the reference of a schema, if it has one, resolves within the whole."""
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return True
    found: Any = whole
    for name in reference.removeprefix("#").split("/")[1:]:
        if isinstance(found, list) and name.isdecimal():
            found = dict(enumerate(cast("list[Any]", found))).get(int(name))
        else:
            found = cast("Json", found).get(name) if isinstance(found, dict) else None
    return reference.startswith("#") and found is not None
