"""Limits on function calls between two messages of the caller, and equality of calls."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from mistral_service.wire.encoding import MAX_EVENT_VALUES, join_surrogates, values_in

MAX_ROUNDS = 10
"""Consecutive replies without words that may call functions, by default."""

MAX_EQUAL = 3
"""Replies that may make the same call with the same arguments before the caller speaks again."""

_WITH_WORDS = 5
"""This many times the rounds are allowed where the bot also speaks."""

Key = tuple[str, str]
"""A function's name and its arguments in canonical form."""


class Rounds:
    """Counts the replies that call functions, from one message of the caller to the next."""

    def __init__(self) -> None:
        self._caller: tuple[int, Any] | None = None
        self._all = self._silent = 0
        self._equal: Counter[Key] = Counter()

    def begin(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Begin a turn; the counts are reset if the caller has spoken since the last turn."""
        contents = [message.get("content") for message in messages if message.get("role") == "user"]
        last = contents[-1] if contents else None
        # A copy of the list: comparing parts that are the same objects is fast.
        caller = (len(contents), list(cast("list[Any]", last)) if isinstance(last, list) else last)
        if caller != self._caller:
            self._caller = caller
            self._all = self._silent = 0
            self._equal.clear()

    def record_calls(self, calls: Iterable[Key]) -> None:
        """Record the calls of one reply that run."""
        self._equal.update(set(calls))

    def called(self, *, spoke: bool) -> None:
        """Record a reply that called functions, and whether it had words for the caller too."""
        self._all += 1
        self._silent = 0 if spoke else self._silent + 1

    def repeated_too_often(self, call: Key) -> bool:
        """Whether a call has been made with the same arguments as often as allowed."""
        return self._equal[call] >= MAX_EQUAL

    def over(self, most: int) -> bool:
        """Whether the model must speak: `most` replies in a row, without words, have called."""
        return self._silent >= most or self._all >= most * _WITH_WORDS


def key_of(name: str, arguments: Any) -> Key:
    """What equal calls share, `1` and `1.0` alike; the arguments are JSON text or by name."""
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments)
    found = _read(arguments, _CANONICAL)
    return name, arguments if found is None else json.dumps(found, sort_keys=True)


def arguments_of(text: str) -> dict[str, Any] | None:
    """The arguments of a call by name; None if it is no JSON object, or has too many values."""
    return _read(text, _JSON)


def _read(text: str, decoder: json.JSONDecoder) -> dict[str, Any] | None:
    if values_in(text) > MAX_EVENT_VALUES:
        return None  # only a context may have as many
    try:
        arguments: object = decoder.decode(text)
        if isinstance(arguments, str):
            # Encoded twice, as some servers send them.
            arguments = decoder.decode(arguments)
    except (ValueError, RecursionError):
        return None
    if not isinstance(arguments, dict):
        return None
    if "\\ud" in text.lower():
        # A lone surrogate would raise an error where the arguments are encoded later.
        arguments = json.loads(join_surrogates(json.dumps(arguments, ensure_ascii=False)))
    return cast("dict[str, Any]", arguments)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def _canonical(text: str) -> float:
    number = _number(text)
    return int(number) if abs(number) < 2**53 and number.is_integer() else number


# Python accepts NaN and Infinity, and parses 1e999 as infinite.
_JSON = json.JSONDecoder(parse_constant=_number, parse_float=_number)
_CANONICAL = json.JSONDecoder(parse_constant=_number, parse_float=_canonical)
