"""The schemas that functions bring: mended where it is clear what is meant, else left out alone."""

import datetime
import enum
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from call import Call
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.adapters.llm.schemas.tools_schema import AdapterType, ToolsSchema
from pipecat.frames.frames import LLMSetToolsFrame
from pipecat.utils.errors import ErrorCategory
from pydantic import BaseModel, Field, create_model

from mistral_service import MistralClient
from mistral_service.conversation import tools as tools_module
from mistral_service.conversation.keywords import KEYWORDS
from mistral_service.conversation.plain import BadSchema
from mistral_service.conversation.schemas import repair_schema
from mistral_service.conversation.tools import MAX_TOOLS, ToolsNotPassable, convert_tools
from mistral_service.local import Checks, Reply

JUDGE = Checks()
DRAFTS = (jsonschema.Draft7Validator, jsonschema.Draft202012Validator)


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Address(BaseModel):
    street: str = Field(description="With its number.", min_length=1)
    floor: int | None = None


class Person(BaseModel):
    name: Annotated[str, Field(pattern=r"^[A-Z][a-z]+$")]
    home: Address
    work: Address | None = Field(None, description="Where they work.")
    colour: Colour = Colour.RED
    size: tuple[int, float] = (1, 2.0)
    mood: Literal["good", "bad"] = "good"
    notes: dict[str, list[Address]] = {}
    born: datetime.date


class Tree(BaseModel):
    value: int
    branches: list["Tree"] = []


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def refusal_of(parameters: Any, name: str = "f") -> Any:
    """What the strict endpoint has against a function, in every version, hosted and not."""
    tool = {"type": "function", "function": {"name": name, "parameters": parameters}}
    refusal = JUDGE.validate(
        {
            "model": "mistral-small-latest",
            "messages": [{"role": "user", "content": "Hello."}],
            "tools": [tool],
        }
    )
    return refusal and refusal.body


def check(schema: Any) -> None:
    """Hold a schema against everybody who will judge it."""
    json.dumps(schema, allow_nan=False)
    assert schema["type"] == "object"
    assert isinstance(schema.get("properties", {}), dict)
    for draft in DRAFTS:
        draft.check_schema(schema)
    assert refusal_of(schema) is None


# --- what is mended -----------------------------------------------------------------------------

# As frameworks write it that dump every field of a class.
NULLS = dict.fromkeys(sorted(KEYWORDS))

MENDED = {
    # Types by the names that others give them.
    "str": ({"type": "str"}, {"type": "string"}),
    "float": ({"type": "float"}, {"type": "number"}),
    "dict": ({"type": "dict"}, {"type": "object"}),
    "list": ({"type": "list"}, {"type": "array", "items": {}}),
    "any": ({"type": "any", "title": "A"}, {"title": "A"}),
    "None": ({"type": "None"}, {"type": "null"}),
    "upper case": (
        {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
        of(a={"type": "string"}),
    ),
    "a Python type": ({"type": int}, {"type": "integer"}),
    "its name": ({"type": "<class 'bool'>"}, {"type": "boolean"}),
    "a generic type": ({"type": "List[str]"}, {"type": "array", "items": {"type": "string"}}),
    "an optional type": ({"type": "typing.Optional[int]"}, {"type": ["integer", "null"]}),
    "a union": ({"type": "str | list[int]"}, "anyOf"),
    "a date": ({"type": "datetime"}, {"type": "string", "format": "date-time"}),
    "a type of null": ({"type": None, "title": "A"}, {"title": "A"}),
    "a list of types": ({"type": ["str", "None"]}, {"type": ["string", "null"]}),
    "a list of one": ({"type": ["string"]}, {"type": "string"}),
    "nullable": ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
    "not nullable": ({"type": "string", "nullable": False}, {"type": "string"}),
    "nullable of a choice": (
        {"type": "string", "enum": ["a"], "nullable": True},
        {"type": ["string", "null"], "enum": ["a", None]},
    ),
    "a choice with null": (
        {"anyOf": [{"type": "str"}, None]},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
    ),
    # Nothing where something should be.
    "no description": ({"type": "string", "description": None}, {"type": "string"}),
    "no required": ({**of(a={}), "required": None}, of(a={})),
    "no properties": ({"type": "object", "properties": None}, {"type": "object", "properties": {}}),
    "no properties of a text": ({"type": "string", "properties": None}, {"type": "string"}),
    "every keyword, null where it is not set": (
        {**NULLS, **of(a={**NULLS, "type": "string"}, b={**NULLS, "type": "array"})},
        of(a={"type": "string"}, b={"type": "array", "items": {}}),
    ),
    "null where nothing is set, for a text or nothing": (
        {**NULLS, "type": ["string", "null"]},
        {"type": ["string", "null"], "default": None},
    ),
    "a constant of null": ({"const": None}, None),
    "a constant of null, of its type": (
        {"type": "null", "const": None, "title": None},
        {"type": "null", "const": None},
    ),
    "a constant of null, for a text": ({"type": "string", "const": None}, {"type": "string"}),
    "properties of PHP": (
        {"type": "object", "properties": []},
        {"type": "object", "properties": {}},
    ),
    "no enum": ({"type": "string", "enum": None}, {"type": "string"}),
    "an empty enum": ({"type": "string", "enum": []}, {"type": "string"}),
    "no items": ({"type": "array"}, {"type": "array", "items": {}}),
    "items of null": ({"type": "array", "items": None}, {"type": "array", "items": {}}),
    "a default of null": ({"type": "string", "default": None}, {"type": "string"}),
    "which null allows": ({"type": ["string", "null"], "default": None}, None),
    "nothing more": ({**of(a={}), "additionalProperties": None}, of(a={})),
    "a property of null": (of(a=None), of(a={})),
    "a property of a name": (of(a="integer"), of(a={"type": "integer"})),
    # Draft 3, draft 4, OpenAPI.
    "required in a property": (
        of(a={"type": "string", "required": True}, b={"type": "string", "required": False}),
        {**of(a={"type": "string"}, b={"type": "string"}), "required": ["a"]},
    ),
    "required both ways": (
        {**of(a={"required": "true"}, b={}), "required": ["b"]},
        {**of(a={}, b={}), "required": ["b", "a"]},
    ),
    "required that are not there": (
        {**of(a={}), "required": ["a", "ghost", "a", None]},
        {**of(a={}), "required": ["a"]},
    ),
    "strictly more": (
        {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
        {"type": "integer", "exclusiveMinimum": 0},
    ),
    "not strictly less": (
        {"type": "integer", "maximum": 9, "exclusiveMaximum": False},
        {"type": "integer", "maximum": 9},
    ),
    "strictly more than nothing": (
        {"type": "integer", "exclusiveMinimum": True},
        {"type": "integer"},
    ),
    "a tuple": (
        {"type": "array", "items": [{"type": "int"}, {"type": "str"}], "additionalItems": False},
        {
            "type": "array",
            "prefixItems": [{"type": "integer"}, {"type": "string"}],
            "items": False,
        },
    ),
    # What contradicts itself.
    "numbers as texts": (
        {"type": "integer", "enum": ["1", "2"]},
        {"type": "string", "enum": ["1", "2"]},
    ),
    "a text as a number": ({"type": "string", "const": 1}, {"type": "integer", "const": 1}),
    "one that does not fit": (
        {"type": "string", "enum": ["a", 1, "a"]},
        {"type": "string", "enum": ["a"]},
    ),
    # Limits that cannot be read.
    "a limit as text": ({"type": "string", "maxLength": "5"}, {"type": "string", "maxLength": 5}),
    "an impossible limit": ({"type": "string", "minLength": -1}, {"type": "string"}),
    "no number": ({"type": "number", "maximum": float("inf")}, {"type": "number"}),
    "open in words": (
        {**of(), "additionalProperties": "false"},
        {**of(), "additionalProperties": False},
    ),
    "open in no words": ({**of(), "additionalProperties": 3}, of()),
    # Python's values.
    "an Enum": ({"enum": Colour}, {"enum": ["red", "green"]}),
    "a member": ({"type": "string", "default": Colour.RED}, {"type": "string", "default": "red"}),
    "a set": ({"enum": {"b", "a"}}, {"enum": ["a", "b"]}),
    "a tuple of values": ({"enum": ("a", "b")}, {"enum": ["a", "b"]}),
    "a time": (
        {"type": "string", "default": datetime.date(2026, 1, 2)},
        {"type": "string", "default": "2026-01-02"},
    ),
    "bytes": ({"type": "string", "default": b"\xff"}, {"type": "string"}),
    "an object": ({"type": "string", "examples": [object()], "x-of": object()}, {"type": "string"}),
    "NaN": ({"type": "number", "default": float("nan")}, {"type": "number"}),
    "NaN among others": ({"enum": [1, float("nan")]}, {"enum": [1]}),
    # What breaks a grammar.
    "an address": ({"$id": "x", "$schema": "y", "type": "string"}, {"type": "string"}),
    "Unicode": (
        {"type": "string", "pattern": r"^\p{L}+$", "description": "A name."},
        {
            "type": "string",
            "description": r"A name. It matches the regular expression ^\p{L}+$",
        },
    ),
    "a look ahead": (
        {"type": "string", "pattern": r"^(?!\.)\w+$"},
        {"type": "string", "description": r"It matches the regular expression ^(?!\.)\w+$"},
    ),
    "no expression": ({"type": "string", "pattern": 3}, {"type": "string"}),
    "a telephone number": ({"type": "string", "pattern": r"^\(?\d{3}\)?[ (]\d+$"}, None),
}


@pytest.mark.parametrize("name", MENDED)
def test_what_is_meant_is_sent(name: str):
    given, expected = MENDED[name]
    sent = repair_schema(of(x=given))
    check(sent)
    x = sent["properties"]["x"]
    if expected == "anyOf":
        assert x == {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}
    else:
        assert x == (given if expected is None else expected)
    assert repair_schema(sent) == sent


@pytest.mark.parametrize(
    "brought",
    [
        of(x={"type": "str"}),
        of(x={"type": "integer", "exclusiveMinimum": True, "minimum": 0}),
        of(x={"type": "string", "description": None}),
        of(x={"type": "string", "pattern": r"\p{L}"}),
        of(x={"type": "string", "pattern": r"^(?=a)a$"}),
        of(x={"$schema": "http://json-schema.org/draft-07/schema#"}),
        of(x={"$ref": "#/$defs/X"}),
        {**of(), "required": None},
        {"type": "object", "properties": None},
        {"video": {"type": "string"}, "description": {"type": "string", "description": "Of it."}},
    ],
)
def test_the_strict_endpoint_refuses_what_is_mended_or_left_out(brought):
    assert refusal_of(brought) is not None


GUIDE = (Path(__file__).parents[2] / "docs" / "functions.md").read_text()


@pytest.mark.parametrize(
    ("brought", "sent"), re.findall(r"^\| `(.*)` \| `(.*)` \|$", GUIDE, re.MULTILINE)
)
def test_the_guide_shows_what_is_sent(brought: str, sent: str):
    assert repair_schema(of(x=json.loads(brought)))["properties"]["x"] == json.loads(sent)


PARAMETERS = {
    "none": (None, of()),
    "an empty list": ([], of()),
    "an empty mapping": ({}, of()),
    "no type": ({"properties": {"a": {}}}, of(a={})),
    "a type beside null": ({"type": ["object", "null"], "properties": {}}, of()),
    "arguments alone": (
        {"video": {"type": "str", "required": True}, "description": {"type": "string"}},
        {**of(video={"type": "string"}, description={"type": "string"}), "required": ["video"]},
    ),
    "arguments by their type": (
        {"a": "str", "b": "int"},
        of(a={"type": "string"}, b={"type": "integer"}),
    ),
    "arguments beside a type": (
        {"type": "object", "a": {"type": "string"}},
        of(a={"type": "string"}),
    ),
    "two objects": (
        of(**{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}),
        {**of(a={"type": "string"}), "required": ["a"]},
    ),
    "names that are keywords": (
        of(type={"type": "string"}, properties={"type": "string"}, required={"type": "boolean"}),
        None,
    ),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_object_around_the_arguments_is_there_once(name: str):
    brought, expected = PARAMETERS[name]
    sent = repair_schema(brought)
    check(sent)
    assert sent == (brought if expected is None else expected)


# --- references ---------------------------------------------------------------------------------


def test_definitions_are_written_out():
    sent = repair_schema(Person.model_json_schema())
    check(sent)
    assert "$ref" not in json.dumps(sent)
    assert sent["properties"]["work"]["anyOf"][0] == sent["properties"]["home"]
    assert sent["properties"]["work"]["description"] == "Where they work."


def test_a_tree_keeps_its_definition():
    for brought in (Tree.model_json_schema(), of(root=Tree.model_json_schema())):
        sent = repair_schema(brought)
        check(sent)
        assert list(sent["$defs"]) == ["Tree"]
        assert repair_schema(sent) == sent
    validator = jsonschema.Draft202012Validator(repair_schema(Tree.model_json_schema()))
    assert validator.is_valid({"value": 1, "branches": [{"value": 2, "branches": []}]})
    assert not validator.is_valid({"value": 1, "branches": [{"value": "2"}]})


def test_a_schema_put_whole_into_another_brings_its_definitions():
    sent = repair_schema(of(who=Person.model_json_schema(), where={"$ref": "#/properties/who"}))
    check(sent)
    assert sent["properties"]["where"] == sent["properties"]["who"]
    assert "$defs" not in json.dumps(sent)


def test_a_pydantic_model_is_its_schema():
    assert repair_schema(Person) == repair_schema(Person.model_json_schema())
    assert repair_schema(of(who=Person))["properties"]["who"] == repair_schema(Person)


def test_moved_definitions_are_found():
    address = {"type": "object", "properties": {"street": {"type": "string"}}}
    for reference in ("#/components/schemas/Address", "#/definitions/Address", "Address"):
        brought = {**of(a={"$ref": reference, "nullable": True}), "$defs": {"Address": address}}
        sent = repair_schema(brought)
        check(sent)
        assert sent["properties"]["a"] == {**address, "type": ["object", "null"]}


def test_what_would_grow_without_bounds_keeps_its_definitions():
    chain = {f"A{n}": of(x={"$ref": f"#/$defs/A{n + 1}"}) for n in range(200)}
    bush = {f"A{n}": of(**{x: {"$ref": f"#/$defs/A{n + 1}"} for x in "xy"}) for n in range(30)}
    for definitions in (chain, bush):
        last = f"A{len(definitions)}"
        brought = {**of(a={"$ref": "#/$defs/A0"}), "$defs": {**definitions, last: {"type": "str"}}}
        sent = repair_schema(brought)
        check(sent)
        assert len(sent["$defs"]) == len(definitions) + 1
        assert sent["$defs"][last] == {"type": "string"}
        assert repair_schema(sent) == sent


# --- what is left out ---------------------------------------------------------------------------

CYCLE: dict[str, Any] = {"type": "object"}
CYCLE["properties"] = {"a": CYCLE}


def nested(levels: int, key: str = "items") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema} if key == "items" else of(a=schema)
    return of(a=schema)


HOPELESS = {
    "a text": ("a text", "parameters is 'a text'"),
    "a list": (["a"], "parameters is ['a']"),
    "no object": ({"type": "string"}, "type of parameters is 'string'"),
    "a type that there is not": (of(a={"b": 1, "type": "banana"}), "a: type is 'banana'"),
    "a type that is no name": (of(a={"type": {"of": "x"}}), "a: type is {'of': 'x'}"),
    "properties in a list": ({"type": "object", "properties": ["a"]}, "properties: it is ['a']"),
    "a property that is a number": (of(a=of(b=5)), "a.b: it is 5"),
    "a property that is a text": (of(a="whatever"), "a: it is 'whatever'"),
    "a reference to nothing": (of(a={"$ref": "#/$defs/X"}), "a: $ref is '#/$defs/X'"),
    "a reference elsewhere": (of(a={"$ref": "https://example.com/a.json"}), "a: $ref is"),
    "a definition of itself": (
        {**of(a={"$ref": "#/$defs/A"}), "$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}]}}},
        "A is only defined by itself",
    ),
    "itself alone": ({"$ref": "#"}, "it is only defined by itself"),
    "a cycle": (CYCLE, "it contains itself"),
    "depth": (nested(60), "more than 40 nested schemas"),
    "absurd depth": (nested(900), "deeper than 100 levels"),
    "absurd breadth": (of(a={"enum": list(range(20_000))}), "more than 10000 values"),
    "an enum in words": (of(a={"enum": "a, b"}), "a.enum: enum is 'a, b'"),
    "an enum of nothing": (of(a={"enum": [float("nan")]}), "a.enum: enum is [nan]"),
    "a constant of nothing": (of(a={"const": object()}), "a.const: const is"),
    "required in no list": ({**of(a={}), "required": 3}, "required: it is 3"),
    "names that are no text": (of(**{"a": {("b", "c"): {}}}), "it has the key ('b', 'c')"),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_what_is_not_clear_is_refused_with_its_place(name: str):
    brought, said = HOPELESS[name]
    with pytest.raises(BadSchema) as refused:
        repair_schema(brought)
    assert said in str(refused.value)


# --- whatever comes -----------------------------------------------------------------------------

_ODD = st.sampled_from(
    [
        *(
            "str",
            "STRING",
            "banana",
            "true",
            "#",
            "#/$defs/a",
            "#/$defs/b",
            "#/properties/a",
            "#/x",
        ),
        *(
            r"\p{L}",
            "(",
            "^a$",
            "^(?=a)",
            Colour,
            Colour.RED,
            str,
            b"x",
            b"\xff",
            {1, "a"},
            object(),
        ),
        *(
            datetime.datetime(2026, 1, 2),
            10**400,
            1e400,
            float("nan"),
            Address,
            list[str],
            ("a", 1),
        ),
    ]
)
_LEAVES = st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=3) | _ODD
_KEYS = st.sampled_from([*sorted(KEYWORDS), "$ref", "$defs", "$id", "$anchor", "a", "b", "x-c"])
_NAMES = st.sampled_from(["a", "b", "type", "description", "$ref", "c d"])


def _near_schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is nearly a schema: its keywords mostly hold what they should."""
    named = st.dictionaries(_NAMES, inner, max_size=3)
    listed = st.lists(inner, max_size=2)
    numbers = st.integers(-1, 9) | st.booleans() | _LEAVES
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "type": st.sampled_from(["object", "string", "array", "int", "number", ["str", None]]),
        "properties": named,
        "required": st.lists(_NAMES, max_size=3) | _LEAVES,
        "items": inner | listed,
        "anyOf": listed,
        "allOf": listed,
        "enum": st.lists(_LEAVES, max_size=3),
        "minimum": numbers,
        "exclusiveMinimum": numbers,
        "pattern": _LEAVES,
        "patternProperties": st.dictionaries(_ODD.filter(lambda x: isinstance(x, str)), inner),
        "additionalProperties": inner | _LEAVES,
        "default": _LEAVES,
        "nullable": st.booleans(),
        "description": st.text(max_size=3) | st.none(),
        "$ref": st.sampled_from(["#", "#/$defs/a", "#/$defs/b", "#/properties/a", "#/$defs/z"]),
        "$defs": st.fixed_dictionaries({"a": inner, "b": inner}),
    }
    some = st.lists(st.sampled_from(sorted(keywords)), max_size=5, unique=True)
    return some.flatmap(lambda keys: st.fixed_dictionaries({key: keywords[key] for key in keys}))


MESSES = st.recursive(
    _LEAVES | st.just({"type": "string"}),
    lambda inner: (
        _near_schemas(inner)
        | st.dictionaries(_KEYS, inner, max_size=4)
        | st.lists(inner, max_size=2)
        | st.builds(lambda a, b: {**of(a=a), "$defs": {"a": a, "b": b}}, inner, inner)
    ),
    max_leaves=15,
)


@given(MESSES)
def test_whatever_comes_is_sent_in_a_valid_form_or_left_out(brought):
    try:
        sent = repair_schema(brought)
    except BadSchema:
        return
    check(sent)
    assert repair_schema(sent) == sent


@given(st.lists(st.fixed_dictionaries({}, optional={"type": _LEAVES, "function": MESSES}) | MESSES))
def test_whatever_tools_come_those_that_are_offered_can_be_sent(tools):
    offered = convert_tools(tools)
    assert len(offered.tools) + len(offered.faults) == len(tools)
    for tool in offered.tools:
        check(tool["function"]["parameters"])


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.floats(-9, 9)
    | st.sampled_from(["", "a", "bb"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=6,
)


def _valid(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    named = st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    return st.one_of(
        st.builds(
            lambda p, r, more: {
                "type": "object",
                "properties": p,
                "required": [name for name in sorted(p) if name in r],
                **more,
            },
            named,
            st.sets(st.sampled_from("abc")),
            st.sampled_from([{}, {"additionalProperties": False}, {"minProperties": 1}]),
        ),
        st.builds(
            lambda items, more: {"type": "array", "items": items, **more},
            inner,
            st.sampled_from([{}, {"minItems": 1}, {"maxItems": 1}, {"uniqueItems": True}]),
        ),
        st.builds(lambda each: {"type": "array", "prefixItems": each}, st.lists(inner, min_size=1)),
        st.builds(
            lambda kind, each: {kind: each},
            st.sampled_from(["anyOf", "oneOf", "allOf"]),
            st.lists(inner, min_size=1, max_size=2),
        ),
        st.builds(lambda each: {"not": each}, inner),
        st.builds(lambda values: {"type": "object", "additionalProperties": values}, inner),
        st.builds(
            lambda name, note: {"$ref": f"#/$defs/{name}", **note},
            st.sampled_from("AB"),
            st.sampled_from([{}, {"description": "Of them."}, {"type": "object"}, {"minimum": 2}]),
        ),
    )


VALID = st.recursive(
    st.sampled_from(
        [
            {},
            {"type": "string", "minLength": 1},
            {"type": "string", "pattern": "^a+$"},
            {"type": "integer", "minimum": 0, "exclusiveMaximum": 10},
            {"type": "number", "multipleOf": 0.5},
            {"type": ["string", "null"]},
            {"type": "boolean"},
            {"enum": ["a", 1, None]},
            {"type": "integer", "enum": [1, 2]},
            {"const": "a"},
        ]
    ),
    _valid,
    max_leaves=8,
)


@given(VALID, VALID, VALID, st.lists(_VALUES, min_size=1, max_size=8))
def test_a_valid_schema_allows_what_it_did(one, other, third, values):
    brought = {**of(x=one), "$defs": {"A": other, "B": third}}
    try:
        before = jsonschema.Draft202012Validator(brought)
        sent = repair_schema(brought)
        results = [before.is_valid({"x": value}) for value in values]
    except (BadSchema, RecursionError):  # of a definition that is defined by itself
        return
    check(sent)
    after = jsonschema.Draft202012Validator(sent)
    assert [after.is_valid({"x": value}) for value in values] == results


def test_what_pipecat_makes_of_a_function_is_sent_as_it_is():
    async def book(params: Any, name: str, guests: int, tables: list[str], when: str | None = None):
        """Book a table.

        Args:
            params: Pipecat's.
            name: Whose it is.
            guests: How many come.
            tables: Which would do.
            when: The time.
        """

    [schema] = ToolsSchema([book]).standard_tools
    made = schema.to_default_dict()
    [tool] = convert_tools([{"type": "function", "function": made}]).tools
    assert tool["function"] == made


# --- sets of tools ------------------------------------------------------------------------------


def tool(name: Any = "f", parameters: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


@pytest.mark.parametrize(
    ("bad", "name", "reason"),
    [
        (tool(None), "tool 2", "its name is None"),
        (tool(7), "tool 2", "its name is 7"),
        (tool(" "), "tool 2", "its name is ' '"),
        ({"type": "function", "function": {}}, "tool 2", "its name is None"),
        ({"type": "browser"}, "tool 2", "its type is 'browser'"),
        ({"type": ["function"]}, "tool 2", "its type is"),
        ("weather", "tool 2", "it is 'weather'"),
        (None, "tool 2", "it is None"),
        ({"type": "document_library", "library_ids": object()}, "tool 2", "JSON cannot represent"),
        ({"type": "document_library"}, "tool 2", "its library_ids is None"),
        ({"type": "document_library", "library_ids": "a"}, "tool 2", "its library_ids is 'a'"),
        ({"type": "connector", "id": "a"}, "tool 2", "its connector_id is None"),
        ({"type": "web_search"}, "tool 2", "in its conversations and agents"),
        ({"type": "code_interpreter"}, "tool 2", "in its conversations and agents"),
        (tool("good", of(a={})), "good", "another function has the same name"),
        (tool("bad", "x"), "bad", "parameters is 'x'"),
    ],
)
def test_one_tool_that_cannot_be_sent_is_left_out_alone(bad, name: str, reason: str):
    offered = convert_tools([tool("good"), bad, {"type": "image_generation"}])
    assert [t["type"] for t in offered.tools] == ["function", "image_generation"]
    assert offered.tools[0]["function"] == {"name": "good", "parameters": of()}
    [fault] = offered.faults
    assert fault.name == name
    assert reason in fault.reason
    assert str(fault).startswith(f"{name} is not offered to the model: ")


def test_an_object_that_breaks_when_it_is_read_costs_its_own_function_alone():
    class Breaks(dict):
        def __iter__(self):
            raise RuntimeError("no")

    offered = convert_tools([tool("bad", Breaks(a=1)), tool("good")])
    assert [t["function"]["name"] for t in offered.tools] == ["good"]
    assert "RuntimeError: no" in str(offered.faults[0])


@pytest.mark.parametrize(
    "brought",
    [
        {"type": "function", "name": "f", "parameters": of(a={"type": "string"})},
        {"name": "f", "input_schema": of(a={"type": "string"})},
        {"name": "f", "inputSchema": of(a={"type": "string"})},
        {"function": {"name": "f", "parameters": of(a={"type": "string"})}},
    ],
)
def test_functions_in_the_forms_of_others_are_offered(brought):
    [sent] = convert_tools([brought]).tools
    assert sent == tool("f", of(a={"type": "string"}))


def test_what_is_said_of_a_function_is_sent_as_the_api_takes_it():
    brought = tool("f", of(a={}), description=["Does it.", "Well."], strict="true", required=["a"])
    [sent] = convert_tools([brought]).tools
    assert sent == tool(
        "f", {**of(a={}), "required": ["a"]}, description="Does it.\nWell.", strict=True
    )
    [sent] = convert_tools([tool("f", {}, description=None, strict=None)]).tools
    assert sent == tool("f", of())


def test_as_many_are_offered_as_mistral_takes():
    many = [tool(f"f{n}") for n in range(MAX_TOOLS)]
    assert len(convert_tools([*many, tool("bad", "x")]).tools) == MAX_TOOLS
    with pytest.raises(ToolsNotPassable, match=f"{MAX_TOOLS + 1} tools"):
        convert_tools([*many, tool("g")])


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("any", "any"),
        (None, None),
        ({"type": "function", "function": {"name": "a.b"}}, "as it is sent"),
        ({"type": "function", "name": "a.b"}, "as it is sent"),
        ({"type": "function", "function": {"name": "bad"}}, "auto"),
        ({"type": "function", "function": {"name": "nonesuch"}}, "auto"),
        ({"type": "function"}, "auto"),
        ({"type": "function", "function": None}, "auto"),
    ],
)
def test_only_what_is_offered_is_chosen(choice, sent):
    offered = convert_tools([tool("a.b"), tool("bad", "x"), {"type": "image_generation"}])
    [name] = offered.names
    named = {"type": "function", "function": {"name": name}}
    assert offered.choice(choice) == (named if sent == "as it is sent" else sent)


@pytest.fixture
def judged(monkeypatch) -> list[Any]:
    """The schemas that are judged, each time that one is."""
    seen: list[Any] = []

    def counted(parameters: Any) -> Any:
        seen.append(parameters)
        return repair_schema(parameters)

    monkeypatch.setattr(tools_module, "repair_schema", counted)
    return seen


def test_a_set_of_tools_is_judged_once_until_it_changes(judged):
    parameters = of(once={"type": "integer", "exclusiveMinimum": 1})
    first = convert_tools([tool("f", parameters)])
    first.tools[0]["function"]["name"] = "changed by a caller"
    again = convert_tools([tool("f", parameters)])
    assert again.tools[0]["function"]["name"] == "f"
    assert len(judged) == 1
    parameters["properties"]["once"]["exclusiveMinimum"] = True  # equal to 1 in Python
    assert convert_tools([tool("f", parameters)]).tools[0]["function"]["parameters"] == of(
        once={"type": "integer"}
    )
    assert len(judged) == 2


def test_models_of_the_same_name_are_two(judged):
    for kind in (int, str):
        model = create_model("Same", a=(kind, ...))
        offered = [convert_tools([tool("f", of(a=model))]) for _ in range(2)]
        sent = offered[1].tools[0]["function"]["parameters"]["properties"]["a"]
        assert sent["properties"]["a"]["type"] == {int: "integer", str: "string"}[kind]
    assert len(judged) == 2


def test_few_sets_are_remembered(judged):
    for n in range(200):
        convert_tools([tool(f"f{n}")])
    before = len(judged)
    convert_tools([tool("f199")])
    assert len(judged) == before
    convert_tools([tool("f0")])
    assert len(judged) == before + 1


# --- in a conversation --------------------------------------------------------------------------


def functions(**bad: Any) -> ToolsSchema:
    """A function that is well, and others with the properties that are given."""
    good = FunctionSchema("weather", "Tells the weather.", {"city": {"type": "str"}}, None)  # pyright: ignore
    others = [FunctionSchema(name, "Is hopeless.", given, []) for name, given in bad.items()]
    return ToolsSchema([*others, good])


async def test_the_turn_goes_on_without_the_function_that_is_hopeless(serve, service_for):
    mistral = serve(
        Reply(tool_calls=[{"name": "weather", "arguments": {"city": "Paris"}}]),
        Reply("It is sunny."),
        Reply("You are welcome."),
        Reply("Bye."),
    )
    service = service_for(mistral)
    asked: list[str] = []

    async def weather(params) -> None:
        asked.append(params.arguments["city"])
        await params.result_callback("sunny")

    service.register_function("weather", weather)
    async with Call(service) as call:
        tools = functions(hopeless={"x": {"$ref": "#/$defs/X"}})
        await call.worker.queue_frame(LLMSetToolsFrame(tools=tools))
        assert await call.say("How is the weather?", turns=2) == "It is sunny."
        assert await call.say("Thank you.") == "You are welcome."
        [error] = call.errors
        assert error.error == (
            "hopeless is not offered to the model: x: $ref is '#/$defs/X', which does not "
            "exist in the schema."
        )
        assert (error.category, error.fatal) == (ErrorCategory.APPLICATION, False)
        assert service.is_usable
        # Another fault of the same function is reported as well; the first is not.
        tools = functions(hopeless={"x": 5}, other={"x": {"$ref": "#/$defs/X"}})
        await call.worker.queue_frame(LLMSetToolsFrame(tools=tools))
        assert await call.say("Well then.") == "Bye."
        assert [e.error.partition(" ")[0] for e in call.errors[1:]] == ["hopeless", "other"]
    assert asked == ["Paris"]
    assert [exchange.status for exchange in mistral.exchanges] == [200] * 4
    for exchange in mistral.exchanges:
        [sent] = exchange.request["tools"]
        assert sent["function"]["parameters"] == of(city={"type": "string"})


async def test_a_fault_is_logged_once(serve, service_for):
    mistral = serve(Reply("Hi.", times=None))
    logged: list[str] = []
    sink = logger.add(logged.append, level="WARNING", format="{level} {message}")
    try:
        async with Call(service_for(mistral)) as call:
            await call.worker.queue_frame(LLMSetToolsFrame(tools=functions(logged_once={"x": 5})))
            for _ in range(3):
                await call.say("Hello.")
    finally:
        logger.remove(sink)
    [warning] = [line for line in logged if "MistralLLMAdapter" in line]
    assert warning.startswith("WARNING MistralLLMAdapter: logged_once is not offered to the model")


async def test_where_no_function_is_left_the_turn_goes_on_without(serve, service_for):
    mistral = serve(Reply("Hi."))
    choice = {"type": "function", "function": {"name": "hopeless"}}
    tools = ToolsSchema(
        [FunctionSchema("hopeless", "", {"x": 5}, [])],
        custom_tools={AdapterType.OPENAI: [{"type": "browser"}]},
    )
    async with Call(service_for(mistral, tool_choice=choice)) as call:
        await call.worker.queue_frame(LLMSetToolsFrame(tools=tools))
        assert await call.say("Hello.") == "Hi."
        assert len(call.errors) == 2
    assert not {"tools", "tool_choice"} & set(mistral.exchanges[0].request)


async def test_a_function_that_is_left_out_is_not_forced(serve, service_for):
    mistral = serve(Reply("Hi."))
    choice = {"type": "function", "function": {"name": "hopeless"}}
    async with Call(service_for(mistral, tool_choice=choice)) as call:
        await call.worker.queue_frame(LLMSetToolsFrame(tools=functions(hopeless={"x": 5})))
        assert await call.say("Hello.") == "Hi."
    assert mistral.exchanges[0].request["tool_choice"] == "auto"


async def test_a_span_shows_the_tools_as_they_are_sent(serve, service_for, spans):
    mistral = serve(Reply("Hi."))
    values = {"x": {"enum": {"a"}, "default": datetime.date(2026, 1, 2)}, "y": CYCLE}
    tools = functions(dated={"x": values["x"]}, hopeless={"y": CYCLE})
    async with Call(service_for(mistral), enable_tracing=True, enable_turn_tracking=True) as call:
        await call.worker.queue_frame(LLMSetToolsFrame(tools=tools))
        assert await call.say("Hello.") == "Hi."
    [span] = [span for span in spans.get_finished_spans() if span.name == "llm"]
    assert json.loads(span.attributes["tools"]) == mistral.exchanges[0].request["tools"]


async def test_the_client_mends_and_logs(serve):
    mistral = serve(Reply(tool_calls=[{"name": "weather"}]), Reply("Hi."))
    tools = [tool("hopeless", "x"), tool("weather", {"city": {"type": "str"}})]
    choice = {"type": "function", "function": {"name": "hopeless"}}
    logged: list[str] = []
    sink = logger.add(logged.append, level="WARNING", format="{level} {message}")
    messages = [{"role": "user", "content": "Hello."}]
    try:
        async with MistralClient(api_key="k", base_url=mistral.base_url) as client:
            answer = await client.chat(messages, tools=tools, tool_choice=choice)
            await client.chat(messages, tools=tools)
    finally:
        logger.remove(sink)
    assert [call.name for call in answer.tool_calls] == ["weather"]
    request = mistral.exchanges[0].request
    assert request["tool_choice"] == "auto"
    assert request["tools"] == [tool("weather", of(city={"type": "string"}))]
    [warning] = logged
    assert "hopeless is not offered to the model" in warning
