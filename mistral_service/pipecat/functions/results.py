"""The results of functions, in a form that Pipecat writes into the context and answers."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pipecat.frames.frames import Frame, FunctionCallCancelFrame, FunctionCallResultFrame

from mistral_service.wire.weight import is_endless, weight

NOTHING_TO_READ = "COMPLETED"
"""What the model reads of a function that is done and has nothing to say, as Pipecat writes it."""

MAX_RESULT = 1_000_000
"""Characters that a result may have as JSON, about; a value counts 20 more. No model of Mistral's
takes a longer conversation, and every later turn would be refused."""

TOO_LARGE = (
    f"The result is too large to be read: it has more than the {MAX_RESULT:,} characters that are "
    "allowed."
)
"""What the model reads of a result that is larger."""


def settles(frame_cls: type[Frame], fields: Mapping[str, Any]) -> bool:
    """Whether a frame ends a call: a cancellation or a result, but no news on the way."""
    if frame_cls is FunctionCallResultFrame:
        properties = fields.get("properties")
        return properties is None or properties.is_final
    return frame_cls is FunctionCallCancelFrame


def answerable(result: Any) -> Any:
    """A result that gets a spoken answer, falsy or not.

    Pipecat runs the model again only for a result that is true, so that a caller who asks how many
    messages there are hears nothing where there are none. A falsy result is given a type that is
    true and otherwise equal to it. A function that wants no answer says so as always, with
    `FunctionCallResultProperties(run_llm=False)`.

    Returns:
        The same if it is true; otherwise something true that reads the same in the context. What
        has no true form of its own reads as its JSON text (`False` as `"false"`), what has none
        either, and `None`, as `"COMPLETED"`.
    """
    try:
        if result:
            return result
    except Exception:  # an array of several values is neither true nor false
        return result
    for kind in _TRUE:
        if type(result) is kind:
            return _TRUE[kind](result)
    try:
        return NOTHING_TO_READ if result is None else json.dumps(result)
    except Exception:
        return NOTHING_TO_READ


def readable(result: Any) -> Any:
    """A result that Pipecat can write into the context, which it does as JSON.

    One that JSON cannot hold would be an error there, and the caller would hear nothing.

    Returns:
        The same if JSON can hold it; otherwise the same with a text in place of what it cannot
        hold, such as a date; of a result that has no such parts, its text. Where nothing is left
        to read, `"COMPLETED"`, so that the model is asked in any case. One that is larger than
        `MAX_RESULT` reads as `TOO_LARGE`.
    """
    if weight(result, MAX_RESULT, objects=False) > MAX_RESULT and not is_endless(result):
        return TOO_LARGE
    with suppress(Exception):  # a result may bring code of its own
        json.dumps(result)
        bool(result)
        return result
    with suppress(Exception):
        return json.loads(json.dumps(result, default=_text)) or NOTHING_TO_READ
    return _text(result) or NOTHING_TO_READ


def _text(value: object) -> str:
    """A value's text; empty for one that cannot be printed."""
    try:
        return str(value)
    except Exception:
        return ""


def _true(kind: type) -> Any:
    def is_true(_self: object) -> bool:
        return True

    return type(f"True{kind.__name__.title()}", (kind,), {"__bool__": is_true})


_TRUE: dict[type, Any] = {kind: _true(kind) for kind in (int, float, str, list, dict)}
