"""What the page may change in mid-call, as Pipecat's settings."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from pipecat.services.settings import LLMSettings

FIELDS = ("temperature", "max_tokens", "system_instruction", "model", "fallback_models")
"""The settings that the page shows."""

LONGEST = 4_000
"""Characters of a value."""


class NotAChange(ValueError):
    """What the page sent changes nothing, or is none of its fields; the message is a sentence."""


def value_of(name: str, text: Any) -> Any:
    """A value as the page's field has it: text. What is no number stays text, and is refused later.

    Args:
        name: The setting.
        text: What was written.
    """
    if not isinstance(text, str):
        return text
    words = text.strip()
    if name == "fallback_models":
        return [each for part in words.split(",") if (each := part.strip())]
    if name == "max_tokens":
        return int(words) if words.lstrip("+-").isdecimal() else words
    if name == "temperature":
        try:
            return float(words)
        except ValueError:
            return words
    return text.strip()


def delta_of(sent: Any, now: LLMSettings) -> LLMSettings:
    """The settings that change.

    Args:
        sent: What the page sent, by name.
        now: The service's settings; a field that they do not have is left out.

    Raises:
        NotAChange: If nothing of it changes anything, or it is too long.
    """
    if not isinstance(sent, Mapping):
        raise NotAChange("Settings are sent by name.")
    known = {field.name for field in fields(now)} & set(FIELDS)
    wanted = {name: value_of(name, sent[name]) for name in FIELDS if name in sent}
    if any(len(str(value)) > LONGEST for value in wanted.values()):
        raise NotAChange(f"A setting has {LONGEST:,} characters at most.")
    changed = {
        name: value
        for name, value in wanted.items()
        if name in known and value != shown(getattr(now, name))
    }
    if not changed:
        missing = ", ".join(sorted(wanted.keys() - known))
        if missing:
            raise NotAChange(f"Nothing changes: this service has no {missing}.")
        raise NotAChange("Nothing changes: all of it is as it was.")
    return type(now)(**changed)


def shown(value: Any) -> Any:
    """A setting's value for the page; None where it is not set."""
    return cast(Any, value) if isinstance(value, str | int | float | list) else None
