"""One conversion of a history: what the rules know of the request, and what they changed."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import is_not
from typing import Any

from mistral_service.conversation.parts import ImageError

Message = dict[str, Any]
Messages = list[Message]


@dataclass(frozen=True, slots=True)
class Change:
    """One change that a rule made.

    Parameters:
        rule: The rule's number: `R6`.
        index: The message's index in the context; -1 for the service's own instruction.
        reason: What the rule did and why, in a sentence.
    """

    rule: str
    index: int
    reason: str

    def __str__(self) -> str:
        return f"{self.rule}, message {self.index}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ToolFault:
    """What is wrong with a tool that is not offered, or with the choice of one.

    Parameters:
        name: The function's name; for a tool without one, its position: `tool 3`.
        reason: What is wrong, and what is allowed.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} is not offered to the model: {self.reason}."


@dataclass(frozen=True, slots=True)
class ImageBudget:
    """How many images a request may have.

    Parameters:
        images: The maximum number of images; Mistral takes eight.
        total_bytes: The maximum of their bytes together, as they are sent. The newest image is
            sent however large it is.
        last_turn_only: Whether the images of earlier turns are left out.
    """

    images: int = 8
    total_bytes: int = 6_000_000
    last_turn_only: bool = False


class Conversion:
    """The rules read what they need to know of the request here, and record what they changed.

    Attributes:
        has_tools: Whether functions are offered in the request.
        takes_thoughts: Whether the model takes the thoughts of earlier turns.
        sees: Whether the model has vision; None where that is not known.
        parts: The types of content parts that the server knows; None for all of Mistral's.
        budget: How many images the request may have.
        images: By the `url_key` of an image's URL what is sent in its place, or why it cannot be
            sent; by default the URL itself.
        oversized: The error for an image whose URL is longer than any image.
        changes: What was changed, in the order of the rules.
        offered: The names of the functions in the request, as they are sent; they may only be
            called if `has_tools` is True.
        call_ids: The ids of calls as they are sent → as they are in the context, where the two
            differ.
        names: The names of functions as they are sent → as the user gave them, where the two
            differ.
        unseen_images: How many images were left out because the model has no vision.
        image_errors: What is wrong with images that could not be sent.
        tool_faults: What is wrong with tools that are not offered.
        prefix: The text that the reply repeats before it continues; empty if there is none.
        in_mistrals_form: Whether all messages are in Mistral's form, none in another API's.
    """

    def __init__(
        self,
        *,
        has_tools: bool = False,
        takes_thoughts: bool = False,
        sees: bool | None = None,
        budget: ImageBudget | None = None,
        parts: frozenset[str] | None = None,
    ) -> None:
        self.has_tools = has_tools
        self.takes_thoughts = takes_thoughts
        self.sees = sees
        self.parts = parts
        self.budget = budget or ImageBudget()
        self.images: Mapping[Hashable, str | ImageError] = {}
        self.oversized = ImageError("its URL is too long")
        self.changes: list[Change] = []
        self.offered: Sequence[str] = ()
        self.call_ids: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.unseen_images = 0
        self.image_errors: list[ImageError] = []
        self.tool_faults: Sequence[ToolFault] = ()
        self.prefix = ""
        self.in_mistrals_form = False
        self._messages: Sequence[Message] = ()
        self._indices: Sequence[int] = ()
        # An id() identifies a message only as long as the message lives.
        self._alive: list[Message] = []

    def begin(self, messages: Sequence[Message], places: Sequence[int] | None = None) -> None:
        """Begin with the messages that the rules work on.

        `places` has the index of each in the context; by default they are in its order.
        """
        self.in_mistrals_form = False
        self._messages = messages
        self._indices = range(len(messages)) if places is None else places

    def callable_names(self) -> list[str] | None:
        """The functions that may be called, by the names that the user gave; None if unknown."""
        if not self.begun:
            return None
        return [self.names.get(name, name) for name in self.offered if self.has_tools]

    @property
    def begun(self) -> bool:
        """Whether the messages are known."""
        return bool(self._messages)

    def record(self, rule: str, message: Message, reason: str) -> None:
        """Record a change to a message."""
        self.changes.append(Change(rule, self._index_of(message), reason))

    def record_change(self, rule: str, old: Message, reason: str, new: Message) -> Message:
        """Record that a new message replaces an old one, and return the new one."""
        self.record(rule, old, reason)
        return self.inherit_index(old, new)

    def inherit_index(self, old: Message, new: Message) -> Message:
        """Give a new message the index of the one that it was made from, and return it."""
        self._index_by_id[id(new)] = self._index_of(old)
        self._alive.append(new)
        return new

    def _index_of(self, message: Message) -> int:
        return self._index_by_id.get(id(message), 0)

    @cached_property
    def _index_by_id(self) -> dict[int, int]:
        # Built when a rule first changes something.
        return dict(zip(map(id, self._messages), self._indices, strict=True))


def differ(new: Sequence[Any], old: Sequence[Any]) -> bool:
    """Whether a list has another object than the one that it was made from."""
    return len(new) != len(old) or any(map(is_not, new, old))


def without(message: Mapping[str, Any], *names: str) -> Message:
    """A copy of a message without some fields."""
    return {name: value for name, value in message.items() if name not in names}
