"""The schema of a function's arguments, judged before it is sent and mended where it is clear.

Frameworks and MCP servers bring schemas of every draft and dialect, and Mistral refuses a whole
request for one that its validator does not take, turn after turn. So each is brought into a form
that is valid in draft 7, by which Mistral judges, and in draft 2020-12, by which most others do.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from mistral_service.conversation.keywords import (
    ANNOTATIONS,
    GONE,
    NULL,
    agreed,
    flag,
    is_usable,
    kinds_of,
    mended_keyword,
    nullable,
    with_json_type,
    without_nulls,
)
from mistral_service.conversation.plain import MAX_VALUES, BadSchema, plain
from mistral_service.conversation.references import defined_name, never_ends, target_of
from mistral_service.conversation.type_names import Schema, schema_of
from mistral_service.conversation.wrapping import is_bare, wrapped, wrapped_twice

MAX_NESTED = 40
"""Schemas one in another: validators written in Python give up from about 80 on."""

MAX_INLINED = 2_000
"""Values that a schema may have with every definition written out where it is referred to."""

# Each is found on a way of its own through the schema.
_MOST_RECURSIVE = 16

Around = tuple[Schema, ...]
Within = tuple[int, ...]

_IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_OPEN = frozenset({"additionalProperties", "unevaluatedProperties", "unevaluatedItems"})
_SINGLE = frozenset({"contains", "propertyNames", "not", "if", "then", "else", "contentSchema"})
_MAPPINGS = frozenset({"patternProperties", "dependentSchemas", "dependencies"})
_ELSEWHERE = frozenset({"$ref", "$defs", "definitions", "properties", "required"})
# What may name properties that do not stand under `properties`.
_MORE_PROPERTIES = frozenset({*_IN_PLACE, "patternProperties", "dependentSchemas"})


_MOST_PASSES = 4


def mended(parameters: Any) -> Schema:
    """Bring the schema of a function's arguments into the form that Mistral takes.

    Definitions are written out where they are referred to; those that contain themselves, and all
    where the schema would grow beyond `MAX_INLINED`, stay under `$defs`.

    Args:
        parameters: The schema, a mapping of arguments to schemas without the object around it, or
            nothing for a function without arguments; left as it is.

    Returns:
        The schema of an object, made of new dicts and lists. A valid schema allows what it did.

    Raises:
        BadSchema: If it is not clear what is meant.
    """
    made = _mended_once(parameters)
    # A reference that is written out may show what to mend: until nothing changes.
    for _ in range(_MOST_PASSES):
        again = _mended_once(made)
        if again == made:
            break
        made = again
    return made


def _mended_once(parameters: Any) -> Schema:
    given: Any = plain(parameters)
    if given is None or given is True or given in ([], ""):
        given = {}
    if not isinstance(given, dict):
        raise BadSchema(f"parameters is {given!r:.60}, and the schema of an object is allowed")
    kept: set[int] | None = set()
    while True:
        try:
            return _Mender(cast("Schema", given), kept).whole()
        except _Recursive as e:
            if kept is None or e.target in kept:
                raise BadSchema("it is defined by nothing but itself") from None
            kept.add(e.target)
            if len(kept) > _MOST_RECURSIVE:
                kept = None
        except _TooLarge:
            if kept is None:
                raise BadSchema(
                    f"it has more than {MAX_VALUES} values or {MAX_NESTED} schemas one in another, "
                    "the most that are allowed"
                ) from None
            kept = None


class _Recursive(Exception):
    """A definition contains itself."""

    def __init__(self, target: int) -> None:
        self.target = target


class _TooLarge(Exception):
    """The schema has grown beyond its bounds."""


class _Mender:
    """One way through a schema.

    `around` are the schemas around a place, as they were given, the whole one first; `within` names
    the definitions that are being written out there.
    """

    def __init__(self, given: Schema, kept: set[int] | None) -> None:
        self._given = given
        self._kept = kept  # None: all that are referred to
        self._names: dict[int, str] = {}
        self._definitions: dict[str, Any] = {}
        self._waiting: list[tuple[str, Schema, Around]] = []
        self._path: list[str] = []
        self._nested = 0
        self._left = MAX_VALUES if kept is None else MAX_INLINED

    def whole(self) -> Schema:
        """The schema of the arguments."""
        made = self._node(self._given, (self._given,), (id(self._given),), top=True)
        if made.get("type", "object") != "object":
            raise BadSchema(f"the type of parameters is {made['type']!r}, and object is allowed")
        while self._waiting:
            name, target, there = self._waiting.pop(0)
            with self._at(name):
                self._definitions[name] = self._node(target, there, (id(target),))
        if name := never_ends(self._definitions):
            raise BadSchema(f"{name} is defined by nothing but itself")
        head = {"type": "object", "properties": made.get("properties", {})}
        whole = {**head, **{key: value for key, value in made.items() if key not in head}}
        if self._given.get("type") == "object" and "properties" not in self._given:
            # It was a whole schema without them, and leaves as it came.
            whole = {key: value for key, value in whole.items() if key != "properties" or value}
        return {**whole, "$defs": self._definitions} if self._definitions else whole

    # --- one schema ---

    def _schema(self, value: Any, around: Around, within: Within, *, part: bool = False) -> Any:
        """A schema, in whichever form it was given."""
        if isinstance(value, bool):
            return value and {}
        if isinstance(value, str) and (named := schema_of(value)) is not None:
            value = named
        if not isinstance(value, dict):
            raise self._bad(f"it is {value!r:.60}, and a schema is allowed")
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
        """A mapping as a schema; `part` of another that holds for the same value."""
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
            return agreed(given, made)
        except BadSchema as e:
            raise e if isinstance(e, _Placed) else self._bad(str(e)) from None
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
                raise self._bad(f"it is {value!r:.60}, and a list of schemas is allowed")
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
            single = None if value is None else self._schema(value, around, within, part=part)
            return {} if single is None else {key: single}
        if key in _MAPPINGS:
            return self._mapping(key, value, around, within)
        if key == "dependentRequired":
            return {key: _lists_of_names(value)}
        if key == "additionalItems":  # said with `items`
            return {}
        made = mended_keyword(key, value)
        if isinstance(made, list | str):
            self._left -= len(cast("list[Any]", made)) // (100 if isinstance(made, str) else 1)
        return {} if made is GONE else {key: made}

    def _open(self, key: str, value: Any, around: Around, within: Within) -> Schema:
        """What may stand beside what is named; it is open where that cannot be read."""
        if (said := flag(value)) is not None:
            return {key: said}
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
                    raise self._bad(f"it is {properties!r:.60}, and a mapping is allowed")
            schemas: Schema = {}
            for name, value in cast("Schema", properties).items():
                with self._at(name):
                    schemas[name] = self._schema({} if value is None else value, around, within)
                    # As in draft 3: a property says by itself that it is required.
                    if isinstance(value, dict) and flag(cast("Schema", value).get("required")):
                        required.append(name)
            made["properties"] = schemas
        elif "properties" in given and "object" in (kinds_of(given) or ["object"]):
            made["properties"] = {}
        if "properties" in made and not part and not made.keys() & _MORE_PROPERTIES:
            more: Any = made.get("additionalProperties", False)
            if more is False:
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
            raise self._bad(f"it is {value!r:.60}, and a list of names is allowed")

    # --- references ---

    def _referred(
        self, given: Schema, around: Around, within: Within, *, top: bool, part: bool
    ) -> Schema:
        """What a reference points to, with what stands beside the reference."""
        reference = cast("str", given["$ref"])
        found = target_of(reference, around)
        if found is None:
            raise self._bad(f"$ref is {reference!r:.100}, and the schema has nothing there")
        target, there = found
        if isinstance(target, bool):
            rest = {key: value for key, value in given.items() if key != "$ref"}
            told: Schema = rest if target else {**rest, "not": {}}
            return self._node(told, around, within, top=top, part=part)
        beside = {
            key: value
            for key, value in given.items()
            if key not in ("$ref", "$defs", "definitions") and value != target.get(key, GONE)
        }
        if not top and (self._kept is None or id(target) in self._kept):
            kept = {"$ref": f"#/$defs/{self._keep(target, reference, there)}"}
            return self._joined(kept, beside, around, within)
        if id(target) in within:
            raise _Recursive(id(target))
        inside = (*within, id(target))
        own = {"required"} if flag(beside.get("required")) is not None else set[str]()
        if any(key in target and key not in (*ANNOTATIONS, *own) for key in beside):
            return self._joined(self._schema(target, there, inside), beside, around, within)
        # Both keep what is around them: references in the one and the other are found.
        around = (there[0], *around, *there[1:])
        merged = {**target, **beside}
        if own:
            merged["required"] = target.get("required")
        return self._node(merged, around, inside, top=top, part=part)

    def _joined(self, made: Schema, beside: Schema, around: Around, within: Within) -> Schema:
        """A schema that is done, with the keywords that stand beside a reference to it."""
        none = flag(beside.get("nullable"))
        rest = {key: value for key, value in beside.items() if key != "nullable"}
        others = self._node(rest, around, within, part=True) if rest else {}
        said = {key: value for key, value in others.items() if key in ANNOTATIONS}
        allowed = {key: value for key, value in others.items() if key not in ANNOTATIONS}
        joined = {"allOf": [made, allowed], **said} if allowed else {**made, **said}
        return nullable(joined) if none else joined

    def _keep(self, target: Schema, reference: str, there: Around) -> str:
        """The name under `$defs` of what is referred to; made when it is first needed."""
        if id(target) in self._names:
            return self._names[id(target)]
        name = self._names[id(target)] = defined_name(reference, self._definitions)
        self._definitions[name] = {}
        # Made later, nested in nothing: a chain of definitions is no deep schema.
        self._waiting.append((name, target, there))
        return name

    # --- where the fault is ---

    @contextmanager
    def _at(self, name: str) -> Generator[None]:
        self._path.append(name)
        yield
        self._path.pop()

    def _bad(self, text: str) -> BadSchema:
        return _Placed(f"{'.'.join(self._path)[:200]}: {text}" if self._path else text)


class _Placed(BadSchema):
    """A fault that says where it is."""


def _names(values: Any) -> list[str]:
    return list(dict.fromkeys(name for name in values if isinstance(name, str)))


def _lists_of_names(value: Any) -> dict[str, list[str]]:
    if not isinstance(value, dict):
        return {}
    given = cast("Schema", value)
    return {name: _names(each) for name, each in given.items() if isinstance(each, list)}
