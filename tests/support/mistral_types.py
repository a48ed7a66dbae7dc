"""What the official SDK's types say of a request, as a flat list of fields.

Pipecat's speech services hold `mistralai` below 3, so the newest one cannot be in our lock. What
its types say is kept in `tests/captures/mistralai_types.json`. To write that file anew:

    python3.11 -m venv newest && newest/bin/pip install mistralai google-auth requests
    newest/bin/python tests/support/mistral_types.py > tests/captures/mistralai_types.json
"""

import importlib.metadata
import json
import sys
from typing import Any

Schema = dict[str, Any]

REQUESTS = ("ChatCompletionRequest", "FIMCompletionRequest", "EmbeddingRequest")
"""The models that are kept."""

_TAGS = ("role", "type")


def fields_of(schema: Schema) -> dict[str, list[str]]:
    """The fields of a JSON schema, however deep, and what each may be.

    Args:
        schema: What pydantic's `model_json_schema` says of a model.

    Returns:
        Path → types and words that are allowed, sorted: `{"messages![].user.content![].text.text!":
        ["string"]}`. Where there are several objects, each has its `role` or `type` in the path; a
        field that must be there ends in `!`. Null is left out; a text that is open beside words
        that are named counts as those words.
    """
    found: dict[str, set[str]] = {}
    _walk(schema, "", schema.get("$defs", {}), found)
    return {path: sorted(kinds) for path, kinds in sorted(found.items()) if path}


def _walk(schema: Schema, path: str, defs: Schema, found: dict[str, set[str]]) -> None:
    """Note what may stand at a path, and below."""
    kinds = found.setdefault(path, set())
    alternatives = _alternatives(schema, defs)
    several = sum("properties" in each for each in alternatives) > 1
    for each in alternatives:
        if "properties" in each:
            _walk_object(each, path, defs, found, tagged=several)
        elif each.get("type") == "array":
            _walk(each.get("items", {}), f"{path}[]", defs, found)
        elif "const" in each or "enum" in each:
            kinds |= {json.dumps(word) for word in each.get("enum", [each.get("const")])}
        else:
            kinds |= {each.get("type", "any")} - {"null"}
    if any(kind.startswith('"') for kind in kinds):
        kinds.discard("string")
    if not kinds:
        del found[path]


def _walk_object(
    schema: Schema, path: str, defs: Schema, found: dict[str, set[str]], *, tagged: bool
) -> None:
    properties = schema["properties"]
    tags = [_const(properties[name], defs) for name in _TAGS if name in properties]
    tag = next(filter(None, tags), "") if tagged else ""
    place = ".".join(filter(None, (path, tag)))
    for name, value in properties.items():
        if name in _TAGS and _const(value, defs):
            found[f"{place}.{name}"] = {json.dumps(_const(value, defs))}
            continue
        must = "!" if name in schema.get("required", ()) else ""
        _walk(value, ".".join(filter(None, (place, name))) + must, defs, found)


def _alternatives(schema: Schema, defs: Schema) -> list[Schema]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name.startswith(("Unknown", "Unset")):
            return []
        return _alternatives(defs[name], defs)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return [each for one in schema[key] for each in _alternatives(one, defs)]
    return [schema]


def _const(schema: Schema, defs: Schema) -> str | None:
    """The one word that may stand there."""
    found = [each for each in _alternatives(schema, defs) if each.get("type") != "null"]
    words = [word for each in found for word in each.get("enum", [each.get("const")])]
    named = [word for word in words if word is not None]
    return named[0] if len(named) == 1 else None


def main() -> None:
    """Print what the installed `mistralai` says."""
    from mistralai.azure.client import models as azure
    from mistralai.client import models
    from mistralai.gcp.client import models as vertex

    said: dict[str, Any] = {"version": importlib.metadata.version("mistralai")}
    for name in REQUESTS:
        said[name] = fields_of(getattr(models, name).model_json_schema())
    # Of the clouds only what a chat's body may have at the top.
    for name, cloud in (("azure", azure), ("vertex", vertex)):
        said[name] = sorted(cloud.ChatCompletionRequest.model_fields)
    json.dump(said, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
