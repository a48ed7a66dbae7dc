"""What the references in a schema point to."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast
from urllib.parse import unquote

Node = dict[str, Any]

_SHARED = ("$defs", "definitions")
_IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")


def target_of(
    reference: str, around: Sequence[Node]
) -> tuple[Node | bool, tuple[Node, ...]] | None:
    """Find what a reference points to.

    A schema that was put whole into another one brings its own `$defs`, to which its references
    point; and some that generate schemas move the definitions and leave the references. So the
    pointer is followed from the whole schema first, then from each schema around the reference,
    and at last the definitions are searched for its last name.

    Args:
        reference: The value of `$ref`.
        around: The schemas around the reference, the whole one first.

    Returns:
        What it points to, and the schemas around that; None if it points nowhere.
    """
    bases = [around[0], *reversed(around[1:])]
    address, _, pointer = reference.partition("#")
    names = [_unescaped(name) for name in pointer.split("/")[1:]]
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


def defined_name(reference: str, taken: Mapping[str, Any]) -> str:
    """A name for what a reference points to, among `$defs` that have others already."""
    last = re.sub(r"[^A-Za-z0-9_.-]", "_", unquote(reference.rpartition("/")[2]).strip("#"))
    name, number = last or "Schema", 1
    while name in taken:
        number += 1
        name = f"{last or 'Schema'}{number}"
    return name


def never_ends(definitions: Mapping[str, Any]) -> str | None:
    """Find a definition that is defined by nothing but itself.

    Args:
        definitions: The `$defs` of a schema.

    Returns:
        Its name; None if there is none. One that has itself as a part, as a tree does, is no such.
    """
    leads = {name: set(_in_place(schema)) for name, schema in definitions.items()}
    for start in leads:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            for name in leads.get(ahead.pop(), ()):
                if name == start:
                    return start
                if name not in seen:
                    seen.add(name)
                    ahead.append(name)
    return None


def _in_place(schema: Any) -> Iterator[str]:
    """The definitions that hold for the same value as the schema itself."""
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
    if isinstance(found, bool):
        return found, tuple(around)
    return (cast("Node", found), tuple(around)) if isinstance(found, dict) else None


def _unescaped(name: str) -> str:
    return unquote(name).replace("~1", "/").replace("~0", "~")
