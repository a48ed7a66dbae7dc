"""Checks the schema of a function's arguments before it is sent, and repairs it where it is clear.

Frameworks and MCP servers send schemas of every draft and dialect, and Mistral refuses a whole
request because of one that its validator does not take, turn after turn. So each is converted to a
form that is valid in draft 7, which Mistral uses, and in draft 2020-12, which most others use.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from mistral_service.conversation.conversion import without
from mistral_service.conversation.keywords import (
    ANNOTATIONS,
    NULL,
    OMITTED,
    flag,
    is_usable,
    nullable,
    reconcile,
    repair_keyword,
    split_annotations,
    with_json_type,
    without_nulls,
)
from mistral_service.conversation.plain import MAX_VALUES, BadSchema, to_json_value
from mistral_service.conversation.references import (
    circular_definition,
    definition_name,
    resolve_reference,
)
from mistral_service.conversation.type_names import Schema, kinds_of, schema_of
from mistral_service.conversation.wrapping import is_bare, wrapped, wrapped_twice
from mistral_service.wire.trees import object_of

MAX_NESTED = 40
"""Nesting depth of schemas: validators written in Python fail from about 80 on."""

MAX_INLINED = 2_000
"""Values that a schema may have with every reference inlined."""

# Each is found by a pass of its own through the schema.
_MAX_RECURSIVE = 16

Around = tuple[Schema, ...]
Within = tuple[int, ...]

_IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_OPEN = frozenset({"additionalProperties", "unevaluatedProperties", "unevaluatedItems"})
_SINGLE = frozenset({"contains", "propertyNames", "not", "if", "then", "else", "contentSchema"})
_MAPPINGS = frozenset({"patternProperties", "dependentSchemas", "dependencies"})
_ELSEWHERE = frozenset({"$ref", "$defs", "definitions", "properties", "required"})
# Keywords that may name properties which are not in `properties`.
_MORE_PROPERTIES = frozenset({*_IN_PLACE, "patternProperties", "dependentSchemas"})


_MAX_PASSES = 4


def repair_schema(parameters: Any) -> Schema:
    """Convert the schema of a function's arguments to a form that Mistral takes.

    References are inlined; definitions that contain themselves, and all of them where the schema
    would grow beyond `MAX_INLINED`, stay under `$defs`. A valid schema allows what it did.

    Args:
        parameters: The schema, a mapping of arguments to schemas without the object around it, or
            nothing for a function without arguments; left as it is.

    Raises:
        BadSchema: If it is not clear what is meant.
    """
    made = _repair_once(parameters)
    # An inlined reference may need further repairs: repeat until nothing changes.
    for _ in range(_MAX_PASSES):
        again = _repair_once(made)
        if again == made:
            break
        made = again
    return made


def _repair_once(parameters: Any) -> Schema:
    given: Any = to_json_value(parameters)
    if given is None or given is True or given in ([], ""):
        given = {}
    if not isinstance(given, dict):
        raise BadSchema(f"parameters is {given!r:.60}, and the schema of an object is allowed")
    in_defs: set[int] | None = set()
    while True:
        try:
            return _SchemaRepair(cast("Schema", given), in_defs).whole()
        except _Recursive as e:
            if in_defs is None or e.target in in_defs:
                raise BadSchema("it is only defined by itself") from None
            in_defs.add(e.target)
            if len(in_defs) > _MAX_RECURSIVE:
                in_defs = None
        except _TooLarge:
            if in_defs is None:
                raise BadSchema(
                    f"it has more than {MAX_VALUES} values, or more than {MAX_NESTED} nested "
                    "schemas, the maximum"
                ) from None
            in_defs = None


class _Recursive(Exception):
    """A definition contains itself."""

    def __init__(self, target: int) -> None:
        self.target = target


class _TooLarge(Exception):
    """The schema has grown beyond its bounds."""


class _SchemaRepair:
    """One pass through a schema.

    `around` are the schemas around a node, as they were given, the whole one first; `within` are
    the ids of the definitions that are being inlined there.
    """

    def __init__(self, given: Schema, in_defs: set[int] | None) -> None:
        self._given = given
        self._in_defs = in_defs  # ids of definitions that stay under $defs; None for all
        self._names: dict[int, str] = {}
        self._definitions: dict[str, Any] = {}
        self._waiting: list[tuple[str, Schema, Around]] = []
        self._path: list[str] = []
        self._nested = 0
        self._left = MAX_VALUES if in_defs is None else MAX_INLINED

    def whole(self) -> Schema:
        """The schema of the arguments."""
        made = self._node(self._given, (self._given,), (id(self._given),), top=True)
        if made.get("type", "object") != "object":
            raise BadSchema(f"the type of parameters is {made['type']!r}, and object is allowed")
        while self._waiting:
            name, target, there = self._waiting.pop(0)
            with self._at(name):
                self._definitions[name] = self._node(target, there, (id(target),))
        if name := circular_definition(self._definitions):
            raise BadSchema(f"{name} is only defined by itself")
        head = {"type": "object", "properties": made.get("properties", {})}
        whole = {**head, **without(made, *head)}
        if self._given.get("type") == "object" and "properties" not in self._given:
            # A whole schema was given without them, and stays without.
            whole = whole if whole["properties"] else without(whole, "properties")
        return {**whole, "$defs": self._definitions} if self._definitions else whole

    # --- one schema ---

    def _schema(self, value: Any, around: Around, within: Within, *, part: bool = False) -> Any:
        """A schema in any form."""
        if isinstance(value, bool):
            return value and {}
        if isinstance(value, str) and (named := schema_of(value)) is not None:
            value = named
        if not isinstance(value, dict):
            raise self._error(f"it is {value!r:.60}, and a schema is allowed")
        node = cast("Schema", value)
        return self._node(node, (*around, node), within, part=part)

    def _node(
        self,
        given: Schema,
        around: Around,
        within: Within,
        *,
        top: bool = False,
        part: bool = False,
    ) -> Schema:
        """A mapping as a schema; `part` of another that applies to the same value."""
        self._nested += 1
        self._left -= 1
        if self._nested > MAX_NESTED or self._left < 0:
            raise _TooLarge
        try:
            if given is self._given:
                given = wrapped(given)
            if isinstance(given.get("$ref"), str):
                return self._referred(given, around, within, top=top, part=part)
            if (inner := wrapped_twice(given)) is not None:
                given, around = inner, (*around, given["properties"])
            given = with_json_type(without_nulls(given))
            if top and "object" in (kinds_of(given) or ["object"]):
                given = {"properties": {}, **given, "type": "object"}
            made: Schema = {}
            for key, value in given.items():
                if key not in _ELSEWHERE:
                    with self._at(key):
                        made |= self._keyword(key, value, given, around, within)
            made = self._object(given, made, around, within, part=part)
            if is_bare(made):
                loose = {key: given[key] for key in made}
                return self._node(wrapped(loose), around, within, part=part)
            return reconcile(given, made)
        except BadSchema as e:
            raise e if isinstance(e, _WithPath) else self._error(str(e)) from None
        finally:
            self._nested -= 1

    def _keyword(
        self, key: str, value: Any, given: Schema, around: Around, within: Within
    ) -> Schema:
        """The keywords that are sent for one that was given."""
        part = key in _IN_PLACE
        if key in _LISTS:
            choices: Any = [value] if isinstance(value, dict) else value or []
            if not isinstance(choices, list):
                raise self._error(f"it is {value!r:.60}, and a list of schemas is allowed")
            empty: Schema = {} if key == "prefixItems" else NULL
            each = [empty if choice is None else choice for choice in cast("list[Any]", choices)]
            made = [self._schema(choice, around, within, part=part) for choice in each]
            return {key: made} if made else {}
        if key == "items":
            if not isinstance(value, list):
                return {key: self._schema({} if value is None else value, around, within)}
            tuples = self._keyword("prefixItems", value, given, around, within)
            rest: Any = given.get("additionalItems")
            if rest is None or rest is True or not tuples:
                return tuples or {key: {}}
            return {**tuples, key: self._schema(rest, around, within)}
        if key in _OPEN:
            return self._open(key, value, around, within)
        if key in _SINGLE:
            return {} if value is None else {key: self._schema(value, around, within, part=part)}
        if key in _MAPPINGS:
            return self._mapping(key, value, around, within)
        if key == "dependentRequired":
            names = object_of(value).items()
            return {key: {name: _names(each) for name, each in names if isinstance(each, list)}}
        if key == "additionalItems":  # converted with `items`
            return {}
        made = repair_keyword(key, value)
        if isinstance(made, list | str):
            self._left -= len(cast("list[Any]", made)) // (100 if isinstance(made, str) else 1)
        return {} if made is OMITTED else {key: made}

    def _open(self, key: str, value: Any, around: Around, within: Within) -> Schema:
        """The schema of further properties or items; anything, where it cannot be parsed."""
        if (allowed := flag(value)) is not None:
            return {key: allowed}
        if isinstance(value, dict) or (isinstance(value, str) and schema_of(value) is not None):
            return {key: self._schema(value, around, within)}
        return {}

    def _mapping(self, key: str, value: Any, around: Around, within: Within) -> Schema:
        if not isinstance(value, dict) or not value:
            return {}
        made: Schema = {}
        for name, each in cast("Schema", value).items():
            if key == "patternProperties" and not is_usable(name):
                continue
            if isinstance(each, list) and key == "dependencies":
                made[name] = _names(each)
            elif each is not None:
                with self._at(name):
                    part = key != "patternProperties"
                    made[name] = self._schema(each, around, within, part=part)
        return {key: made} if made else {}

    def _object(
        self, given: Schema, made: Schema, around: Around, within: Within, *, part: bool
    ) -> Schema:
        """The properties, and which of them are required."""
        properties: Any = given.get("properties")
        required = self._required(given.get("required"))
        if properties is not None and properties != []:
            if not isinstance(properties, dict):
                with self._at("properties"):
                    raise self._error(f"it is {properties!r:.60}, and a mapping is allowed")
            schemas: Schema = {}
            for name, value in cast("Schema", properties).items():
                with self._at(name):
                    schemas[name] = self._schema({} if value is None else value, around, within)
                    # Draft 3: a property is marked as required by itself.
                    if isinstance(value, dict) and flag(cast("Schema", value).get("required")):
                        required.append(name)
            made["properties"] = schemas
        elif "properties" in given and "object" in (kinds_of(given) or ["object"]):
            made["properties"] = {}
        is_closed = made.get("additionalProperties", False) is False
        if "properties" in made and is_closed and not (part or made.keys() & _MORE_PROPERTIES):
            required = [name for name in required if name in made["properties"]]
        if required or isinstance(given.get("required"), list):
            made["required"] = list(dict.fromkeys(required))
        patterns: Any = given.get("patternProperties")
        if isinstance(patterns, dict) and made.get("additionalProperties") is False:
            usable = cast("Schema", made.get("patternProperties", {}))
            if len(usable) < len(cast("Schema", patterns)):
                del made["additionalProperties"]
        return made

    def _required(self, value: Any) -> list[str]:
        if value is None or flag(value) is not None or value in ("", {}):
            return []
        if isinstance(value, str):
            return [value]
        if isinstance(value, list):
            return _names(value)
        with self._at("required"):
            raise self._error(f"it is {value!r:.60}, and a list of names is allowed")

    # --- references ---

    def _referred(
        self, given: Schema, around: Around, within: Within, *, top: bool, part: bool
    ) -> Schema:
        """The target of a reference, merged with the keywords next to the reference."""
        reference = cast("str", given["$ref"])
        found = resolve_reference(reference, around)
        if found is None:
            raise self._error(f"$ref is {reference!r:.100}, which does not exist in the schema")
        target, there = found
        if isinstance(target, bool):
            rest = without(given, "$ref")
            merged: Schema = rest if target else {**rest, "not": {}}
            return self._node(merged, around, within, top=top, part=part)
        own = without(given, "$ref", "$defs", "definitions").items()
        siblings = {key: value for key, value in own if value != target.get(key, OMITTED)}
        if not top and (self._in_defs is None or id(target) in self._in_defs):
            referred = {"$ref": f"#/$defs/{self._define(target, reference, there)}"}
            return self._joined(referred, siblings, around, within)
        if id(target) in within:
            raise _Recursive(id(target))
        inside = (*within, id(target))
        is_flag = flag(siblings.get("required")) is not None
        replaced = {*ANNOTATIONS, "required"} if is_flag else ANNOTATIONS
        if (siblings.keys() - replaced) & target.keys():
            return self._joined(self._schema(target, there, inside), siblings, around, within)
        # The schemas around both, so that the references in both can be resolved.
        around = (there[0], *around, *there[1:])
        merged = {**target, **siblings}
        if is_flag:
            merged["required"] = target.get("required")
        return self._node(merged, around, inside, top=top, part=part)

    def _joined(self, made: Schema, siblings: Schema, around: Around, within: Within) -> Schema:
        """A finished schema, with the keywords next to a reference to it."""
        none = flag(siblings.get("nullable"))
        rest = without(siblings, "nullable")
        others = self._node(rest, around, within, part=True) if rest else {}
        notes, constraints = split_annotations(others)
        joined = {"allOf": [made, constraints], **notes} if constraints else {**made, **notes}
        return nullable(joined) if none else joined

    def _define(self, target: Schema, reference: str, there: Around) -> str:
        """The name of a target under `$defs`; added when it is first needed."""
        if id(target) in self._names:
            return self._names[id(target)]
        name = self._names[id(target)] = definition_name(reference, self._definitions)
        self._definitions[name] = {}
        # Converted later, at the top level: a chain of definitions is no deep schema.
        self._waiting.append((name, target, there))
        return name

    # --- the path of an error ---

    @contextmanager
    def _at(self, name: str) -> Generator[None]:
        self._path.append(name)
        yield
        self._path.pop()

    def _error(self, text: str) -> BadSchema:
        return _WithPath(f"{'.'.join(self._path)[:200]}: {text}" if self._path else text)


class _WithPath(BadSchema):
    """An error with its path in the schema."""


def _names(values: Any) -> list[str]:
    return list(dict.fromkeys(name for name in values if isinstance(name, str)))
