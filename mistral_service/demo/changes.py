"""What the page may change in mid-call, as Pipecat's settings."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from pipecat.services.settings import LLMSettings

FIELDS = ("temperature", "max_tokens", "system_instruction", "model", "fallback_models")
"""The settings that the page shows."""

LONGEST = 4_000
"""Characters of a value."""


class Refused(Exception):
    """What the page asks for cannot be done; the message is the sentence for it."""


def value_of(name: str, text: Any) -> Any:
    """A value as it was written in a field. What is no number stays text, and is refused later."""
    if not isinstance(text, str):
        return text
    words = text.strip()
    if name == "fallback_models":
        return [each for part in words.split(",") if (each := part.strip())]
    read = {"max_tokens": int, "temperature": float}.get(name, str)
    try:
        return read(words)
    except ValueError:
        return words


def delta_of(sent: Any, now: LLMSettings) -> LLMSettings:
    """The settings that change, of what the page sent by name; a service may not have all fields.

    Raises:
        Refused: If nothing of it changes anything, or it is too long.
    """
    if not isinstance(sent, Mapping):
        raise Refused("Settings are sent by name.")
    known = {field.name for field in fields(now)} & set(FIELDS)
    wanted = {name: value_of(name, sent[name]) for name in FIELDS if name in sent}
    if any(len(str(value)) > LONGEST for value in wanted.values()):
        raise Refused(f"A setting has {LONGEST:,} characters at most.")
    changed = {
        name: value
        for name, value in wanted.items()
        if name in known and value != shown(getattr(now, name))
    }
    if not changed:
        missing = ", ".join(sorted(wanted.keys() - known))
        if missing:
            raise Refused(f"Nothing changes: this service has no {missing}.")
        raise Refused("Nothing changes: all of it is as it was.")
    return type(now)(**changed)


def shown(value: Any) -> Any:
    """A setting's value for the page; None where it is not set."""
    return cast(Any, value) if isinstance(value, str | int | float | list) else None
