"""The settings that are recorded with a call: an allow list, without any that may hold a secret.

A setting that is not recorded is not lost: the bot of the next machine makes its service with its
own. Only a change of such a setting in mid-call is lost.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast

from mistral_service.settings import UNSET, MistralLLMSettings
from mistral_service.wire.weight import weight

NAMES = frozenset(f.name for f in fields(MistralLLMSettings)) - {"extra"}
"""The settings that are recorded, also in `extra`: no header, no query, no unknown field."""

MAX_CHARACTERS = 300_000
"""Characters that all settings of a call may have together."""

_TEXTS = {"system_instruction", "empty_reply_text", "slow_function_text"}

_SECRET_NAME = re.compile(
    r"(?i)(api|secret|access|private|session|signing|encryption|account|shared|subscription)[-_ ]?"
    r"key|^key$|[-_]key$|token(?!s)|secret|passw|passphrase|pwd|credential|cookie|auth|bearer"
    r"|signature|headers?$|^(extra_)?query$|dsn$|connection_?string|private|config$"
)
_SECRET_VALUE = re.compile(
    r"(?i)^\s*(bearer|basic|token|apikey|digest|negotiate)\s+\S"  # a header
    r"|://[^/\s?#]*@"  # an address with a name or a password
    r"|-----BEGIN |\beyJ[\w-]+\.[\w-]+\.|\b(sk|pk|rk|ghp|xox[a-z])[-_][\w-]{12,}"
    r"|[?&](api_?key|key|token|sig|signature|auth|password)="
)
_MIN_SECRET = 8

Settings = TypeVar("Settings")


def recorded_settings(settings: Any) -> dict[str, Any]:
    """The part of a service's settings that is recorded, each value as JSON gives it back.

    `extra` is one of them, with names of `NAMES`.
    """
    values = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name in NAMES}
    given = {name: value for name, value in values.items() if not isinstance(value, UNSET)}
    extra = cast("dict[str, Any]", getattr(settings, "extra", None) or {})
    known = {name: value for name, value in extra.items() if name in NAMES}
    return {**recordable(given), "extra": recordable(known)}


def restored_settings(recorded: Mapping[str, Any], kind: type[Settings]) -> Settings:
    """Make an update of a service's settings, of a class `kind`, from `recorded_settings`."""
    delta = kind()
    for f in fields(cast(Any, kind)):
        if f.name in recorded:
            setattr(delta, f.name, recorded[f.name])
    return delta


def recordable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that JSON gives back unchanged and that hold no secret.

    A setting of which a part may be a secret is left out whole: the rest of it would replace the
    bot's own.
    """
    secrets = environment_secrets(os.environ)
    allowed: dict[str, Any] = {}
    left = MAX_CHARACTERS
    for name, value in settings.items():
        size = weight(value, left)
        if size <= left and _round_trips(value) and not _may_hold_secret(name, value, secrets):
            allowed[name] = value
            left -= size
    return allowed


def environment_secrets(environment: Mapping[str, str]) -> set[str]:
    """The values of variables whose name or value looks like a secret."""
    return {
        value.strip()
        for name, value in environment.items()
        if (_SECRET_NAME.search(name) or ("://" in value and "@" in value))
        and len(value.strip()) >= _MIN_SECRET
    }


def _round_trips(value: Any) -> bool:
    if value is None or isinstance(value, str | bool | int):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _may_hold_secret(name: str, value: Any, secrets: set[str]) -> bool:
    members = list(_members(name, value))
    names = [*({name} - NAMES), *(key for key, _ in members[1:])]
    texts = [*(key for key, _ in members), *(v for _, v in members if isinstance(v, str))]
    if any(secret in text for text in texts for secret in secrets):
        return True
    if name in _TEXTS:
        return False  # Prose for the model or the caller may mention passwords.
    return any(map(_SECRET_VALUE.search, texts)) or any(map(_SECRET_NAME.search, names))


def _members(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value and all within it, at any depth, each with its key; a list's items have none."""
    yield name, value
    if isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            yield from _members(key, inner)
    elif isinstance(value, list):
        for inner in cast("list[Any]", value):
            yield from _members("", inner)
