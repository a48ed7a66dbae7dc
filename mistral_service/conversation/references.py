"""Resolves the references in a schema."""

import re
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, cast
from urllib.parse import unquote

Node = dict[str, Any]

_SHARED = ("$defs", "definitions")
_IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")


def resolve_reference(
    reference: str, around: Sequence[Node]
) -> tuple[Node | bool, tuple[Node, ...]] | None:
    """The target of a `$ref`, and the schemas around the target; None if there is no target.

    A schema that is embedded in another one has its own `$defs`, to which its references point; and
    some generators move the definitions and leave the references. So the pointer is resolved from
    the whole schema first, then from each schema around the reference, and at last the definitions
    are searched for its last name. `around` are the schemas around the reference, the whole one
    first.
    """
    bases = [around[0], *reversed(around[1:])]
    address, _, pointer = reference.partition("#")
    # As RFC 6901 escapes them.
    names = [unquote(n).replace("~1", "/").replace("~0", "~") for n in pointer.split("/")[1:]]
    if not address and (not pointer or pointer.startswith("/")):
        for base in bases:
            if (found := _follow(base, names)) is not None:
                return found
    last = names[-1] if names else re.split(r"[/:]", pointer or address)[-1]
    for base in bases:
        for shared in _SHARED:
            if (found := _follow(base, [shared, last])) is not None:
                return found
    return None


def definition_name(reference: str, taken: Mapping[str, Any]) -> str:
    """A name for the target of a reference, different from the names that are taken."""
    last = re.sub(r"[^A-Za-z0-9_.-]", "_", unquote(reference.rpartition("/")[2]).strip("#"))
    name, number = last or "Schema", 1
    while name in taken:
        number += 1
        name = f"{last or 'Schema'}{number}"
    return name


def circular_definition(definitions: Mapping[str, Any]) -> str | None:
    """A definition among the `$defs` of a schema that is only defined by itself; None without one.

    A recursive type, such as a tree, is not circular.
    """
    edges = {name: set(_in_place(schema)) for name, schema in definitions.items()}
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as e:
        return e.args[1][0]
    return None


def _in_place(schema: Any) -> Iterator[str]:
    """The definitions that apply to the same value as the schema itself."""
    if isinstance(schema, list):
        for each in cast("list[Any]", schema):
            yield from _in_place(each)
    elif isinstance(schema, dict):
        node = cast("Node", schema)
        if isinstance(reference := node.get("$ref"), str):
            yield reference.removeprefix("#/$defs/")
        for key in _IN_PLACE:
            yield from _in_place(node.get(key))


def _follow(base: Node, names: Sequence[str]) -> tuple[Node | bool, tuple[Node, ...]] | None:
    found: Any = base
    around: list[Node] = [base]
    for name in names:
        if isinstance(found, dict):
            found = cast("Node", found).get(name)
        elif isinstance(found, list) and name.isdecimal():
            found = dict(enumerate(cast("list[Any]", found))).get(int(name[:9]))
        else:
            return None
        if isinstance(found, dict):
            around.append(cast("Node", found))
    is_schema = isinstance(found, bool | dict)
    return (cast("Node | bool", found), tuple(around)) if is_schema else None
