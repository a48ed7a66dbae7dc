"""What the endpoints answer, typed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mistral_service.reply.events import Event, Finish, Text, Thought, ToolCall
from mistral_service.wire.chunks import Usage
from mistral_service.wire.errors import MistralError, Reason

_FLOAT = 1e300

Vector = list[float]
"""The numbers of one text: 1,024 for `mistral-embed`, the length of the whole is 1."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole reply.

    Parameters:
        text: What was said; empty where functions are called instead.
        thoughts: What was thought before it.
        tool_calls: The functions that are called, in order.
        finish_reason: Mistral's word for the end: `stop`, `length`, `tool_calls`, ….
        model: The model that answered.
        usage: The tokens; None if not reported.
    """

    text: str
    thoughts: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    model: str = ""
    usage: Usage | None = None

    @classmethod
    def of(cls, events: Sequence[Event]) -> "Answer":
        """Put together what a stream has brought."""
        end = next((event for event in events if isinstance(event, Finish)), Finish(None, "", None))
        return cls(
            "".join(event.text for event in events if isinstance(event, Text)),
            "".join(event.text for event in events if isinstance(event, Thought)),
            tuple(event for event in events if isinstance(event, ToolCall)),
            end.reason,
            end.model,
            end.usage,
        )


@dataclass(frozen=True, slots=True)
class Moderation:
    """How one text, or one conversation, is judged.

    Parameters:
        categories: Whether it belongs to a category, by Mistral's name: `violence_and_threats`.
        scores: How surely, from 0 to 1, by the same names.
    """

    categories: Mapping[str, bool]
    scores: Mapping[str, float]

    @property
    def flagged(self) -> tuple[str, ...]:
        """The categories that it belongs to."""
        return tuple(name for name, is_so in self.categories.items() if is_so)


def vectors_of(reply: Mapping[str, Any], asked: int) -> list[Vector]:
    """Read the answer to a request for vectors.

    Args:
        reply: The answer's object.
        asked: How many texts the request had.

    Returns:
        A vector for each, in the order of the request, whatever the order of the answer.

    Raises:
        MistralError: If one is missing.
    """
    found: dict[int, Vector] = {}
    for place, entry in enumerate(_objects(reply.get("data"))):
        vector, index = entry.get("embedding"), entry.get("index", place)
        if isinstance(vector, list) and _is_vector(cast("list[object]", vector)):
            found[index if isinstance(index, int) else place] = cast("Vector", vector)
    if sorted(found) != list(range(asked)):
        raise MistralError(Reason.SERVER, f"it answered {asked} texts with {len(found)} vectors")
    return [found[place] for place in range(asked)]


def moderations_of(reply: Mapping[str, Any], asked: int) -> list[Moderation]:
    """Read the answer to a request to judge.

    Args:
        reply: The answer's object.
        asked: How many texts, or conversations, the request had.

    Raises:
        MistralError: If there are fewer answers, or more.
    """
    found = [
        Moderation(_object(entry.get("categories")), _object(entry.get("category_scores")))
        for entry in _objects(reply.get("results"))
    ]
    if len(found) != asked:
        raise MistralError(Reason.SERVER, f"it judged {len(found)} of {asked} texts")
    return found


def _objects(value: object) -> list[dict[str, Any]]:
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _is_vector(numbers: list[object]) -> bool:
    """Whether a list has numbers and nothing else; an integer that no float can hold is none."""
    kinds = set(map(type, numbers))
    if not kinds or not kinds <= {int, float}:
        return False
    return int not in kinds or all(abs(cast("float", each)) < _FLOAT for each in numbers)
