"""How often functions may be called between two messages of the caller, and which are alike."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from mistral_service.wire.encoding import MAX_EVENT_VALUES, values_in

MAX_ROUNDS = 10
"""Replies without words that may call functions, one after the other, by default."""

MAX_ALIKE = 3
"""Replies that may make a call with the same arguments before the caller speaks again."""

_WITH_WORDS = 5
"""How many times as many rounds there may be where the bot speaks beside its calls."""

Key = tuple[str, str]
"""A function's name and its arguments, in a form in which like ones are equal."""


class Rounds:
    """Counts the replies that call functions, from one message of the caller to the next."""

    def __init__(self) -> None:
        self._caller: tuple[int, Any] | None = None
        self._all = self._silent = 0
        self._alike: Counter[Key] = Counter()

    def begin(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Begin a turn; where the caller has spoken since the last, counting begins anew.

        Args:
            messages: The context's messages.
        """
        said = [message.get("content") for message in messages if message.get("role") == "user"]
        last = said[-1] if said else None
        # A copy of a list: parts that are the same objects need not be compared.
        caller = (len(said), list(cast("list[Any]", last)) if isinstance(last, list) else last)
        if caller != self._caller:
            self._caller = caller
            self._all = self._silent = 0
            self._alike.clear()

    def count(self, calls: Iterable[Key]) -> None:
        """Take note of the calls of one reply that run.

        Args:
            calls: The calls.
        """
        self._alike.update(set(calls))

    def called(self, *, spoke: bool) -> None:
        """Take note of a reply that called functions.

        Args:
            spoke: Whether it had words for the caller as well.
        """
        self._all += 1
        self._silent = 0 if spoke else self._silent + 1

    def worn_out(self, call: Key) -> bool:
        """Whether a call was made with the same arguments as often as it may be."""
        return self._alike[call] >= MAX_ALIKE

    def over(self, most: int) -> bool:
        """Whether the model has to speak now.

        Args:
            most: Replies without words that may call functions, one after the other.
        """
        return self._silent >= most or self._all >= most * _WITH_WORDS


def key_of(name: str, arguments: Any) -> Key:
    """What two calls share that are alike.

    Args:
        name: The function's name.
        arguments: Its arguments, as JSON text or by name. `1` and `1.0` are the same.
    """
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments)
    found = _read(arguments, _ALIKE)
    return name, arguments if found is None else json.dumps(found, sort_keys=True)


def arguments_of(text: str) -> dict[str, Any] | None:
    """Read the arguments of a call.

    Args:
        text: The arguments as JSON text, as the model wrote them.

    Returns:
        The arguments by name; None if the text is no JSON object, or has more values than a reply
        may have.
    """
    return _read(text, _JSON)


def _read(text: str, decoder: json.JSONDecoder) -> dict[str, Any] | None:
    if values_in(text) > MAX_EVENT_VALUES:
        return None  # no reply has as many: a context may
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
        # Half of a surrogate pair would break whatever encodes the arguments later.
        plain = json.dumps(arguments, ensure_ascii=False)
        paired = plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        arguments = json.loads(paired)
    return cast("dict[str, Any]", arguments)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"JSON knows no {text}, and a float cannot hold it")
    return number


def _alike(text: str) -> float:
    number = _number(text)
    return int(number) if abs(number) < 2**53 and number.is_integer() else number


# Python reads NaN and Infinity, and takes 1e999 for infinite.
_JSON = json.JSONDecoder(parse_constant=_number, parse_float=_number)
_ALIKE = json.JSONDecoder(parse_constant=_number, parse_float=_alike)
