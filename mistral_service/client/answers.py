"""What the endpoints answer, typed: a reply, a judgement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistral_service.reply.events import Event, Finish, Text, Thought, ToolCall
from mistral_service.wire.chunks import Usage
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.trees import object_of, objects_of


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


def moderations_of(reply: Mapping[str, Any], asked: int) -> list[Moderation]:
    """The judgements of as many texts, or conversations, as were asked about."""
    found = [
        Moderation(object_of(entry.get("categories")), object_of(entry.get("category_scores")))
        for entry in objects_of(reply.get("results"))
    ]
    if len(found) != asked:
        raise MistralError(Reason.SERVER, f"it judged {len(found)} of {asked} texts")
    return found
