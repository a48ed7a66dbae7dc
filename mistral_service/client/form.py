"""Replies in a form: a pydantic model to a schema, and the reply back to the model."""

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from mistral_service.client.answers import Answer
from mistral_service.wire.encoding import decode
from mistral_service.wire.errors import MistralError, Reason

M = TypeVar("M", bound=BaseModel)

_NAMES_TO_SCHEMAS = frozenset({"properties", "$defs"})
_SCHEMAS = frozenset({"items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties"})


def form_of(model: type[BaseModel]) -> dict[str, Any]:
    """The `response_format` that asks for a model's form.

    Its JSON schema is made strict: an object has all fields of the model, those with a default too,
    and no other.
    """
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", model.__name__)[:64]
    schema = {"name": name, "schema": _strict(model.model_json_schema()), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def read_as(model: type[M], answer: Answer) -> M:
    """Read a reply as a model; a `MistralError` says what is wrong with it, and where."""
    try:
        return model.model_validate_json(_json_in(answer.text))
    except ValidationError as e:
        raise _not_in_form(model.__name__, answer, _issues(e)) from None


def read_json(answer: Answer) -> Any:
    """Read a reply as JSON; one that is none is a `MistralError`."""
    try:
        return decode(_json_in(answer.text))
    except ValueError as e:
        raise _not_in_form("JSON", answer, str(e)) from None


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    strict: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMES_TO_SCHEMAS:
            strict[key] = {name: _strict(each) for name, each in value.items()}
        elif key in _SCHEMAS and isinstance(value, dict):
            strict[key] = _strict(cast("dict[str, Any]", value))
        elif key in _SCHEMAS and isinstance(value, list):
            strict[key] = [_strict(each) for each in cast("list[dict[str, Any]]", value)]
        else:
            strict[key] = value
    if "properties" in strict:
        strict["additionalProperties"] = False
        strict["required"] = list(strict["properties"])
    return strict


def _json_in(text: str) -> str:
    """The JSON of a reply; models without a grammar to hold them put it in a fence."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", text, re.DOTALL)
    return fenced[1] if fenced else text


def _not_in_form(form: str, answer: Answer, issues: str) -> MistralError:
    if answer.finish_reason in ("length", "model_length"):
        issues = f"it was cut at the limit of tokens, so set a higher max_tokens; {issues}"
    said = json.dumps(answer.text[:80], ensure_ascii=False)
    return MistralError(Reason.FORM, f"as {form} {issues}; the reply begins with {said}")


def _issues(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, issue['loc'])) or 'it'}: {issue['msg']}"
        for issue in error.errors(include_url=False, include_context=False)[:3]
    )
