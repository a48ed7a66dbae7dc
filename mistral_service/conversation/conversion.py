"""One run of the rules: what is known of the request, and what was changed, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistral_service.conversation.parts import ImageError

Message = dict[str, Any]
Messages = list[Message]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that a rule changed.

    Parameters:
        rule: The rule's number: `R6`.
        index: The message's place in the context; -1 for the service's own instruction.
        reason: What was done and why, in a sentence.
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
        name: The function's name; for a tool without one, its place: `tool 3`.
        reason: What is wrong, and what is allowed.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} is not offered to the model: {self.reason}."


@dataclass(frozen=True, slots=True)
class Budget:
    """How many images a request may have.

    Parameters:
        images: The most images; Mistral takes eight.
        total_bytes: The most bytes that they may have together, as they are sent. The newest is
            sent, however large.
        last_turn_only: Whether the images of earlier turns are left out.
    """

    images: int = 8
    total_bytes: int = 6_000_000
    last_turn_only: bool = False


class Conversion:
    """What the rules are told of the request, and what they tell of their work.

    Attributes:
        has_tools: Whether functions are offered in the request.
        takes_thoughts: Whether the model takes the thoughts of earlier turns.
        sees: Whether the model sees images; None where that is not known.
        parts: The kinds of parts that the server knows; None for all of Mistral's.
        budget: How many images the request may have.
        images: What is sent in place of an image's URL, or why it cannot be sent; by default
            the URL itself.
        oversized: Why an image is left out whose URL is longer than any image.
        changes: What was changed, in the order of the rules.
        offered: The names of the functions that the request knows of, as they are sent; none may
            be called unless `has_tools` says so.
        call_ids: The ids of calls as they are sent → as they stand in the context, where the two
            differ.
        names: The names of functions as they are sent → as the user gave them, where the two
            differ.
        unseen: How many images were left out because the model does not see.
        faults: What is wrong with images that could not be sent.
        tool_faults: What is wrong with tools that are not offered.
        prefix: The words that the reply will repeat before it goes on; empty if there are none.
        in_mistrals_form: Whether no message is in the form of another API any more.
    """

    def __init__(
        self,
        *,
        has_tools: bool = False,
        takes_thoughts: bool = False,
        sees: bool | None = None,
        budget: Budget | None = None,
        parts: frozenset[str] | None = None,
    ) -> None:
        self.has_tools = has_tools
        self.takes_thoughts = takes_thoughts
        self.sees = sees
        self.parts = parts
        self.budget = budget or Budget()
        self.images: Mapping[str, str | ImageError] = {}
        self.oversized = ImageError("its URL is too long")
        self.changes: list[Change] = []
        self.offered: Sequence[str] = ()
        self.call_ids: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.unseen = 0
        self.faults: list[ImageError] = []
        self.tool_faults: Sequence[ToolFault] = ()
        self.prefix = ""
        self.in_mistrals_form = False
        self._given: Sequence[Message] = ()
        self._given_places: Sequence[int] = ()
        self._places: dict[int, int] | None = None
        # An id() is a message's own only as long as the message lives.
        self._alive: list[Message] = []

    def begin(self, messages: Sequence[Message], places: Sequence[int] | None = None) -> None:
        """Take the messages that the rules will work on.

        Args:
            messages: The messages.
            places: Where in the context each stands; by default in the order given.
        """
        self.in_mistrals_form = False
        self._given = messages
        self._given_places = range(len(messages)) if places is None else places

    def callable_names(self) -> list[str] | None:
        """The functions that may be called, by the names that the user gave; None if unknown."""
        if not self.begun:
            return None
        return [self.names.get(name, name) for name in self.offered if self.has_tools]

    @property
    def begun(self) -> bool:
        """Whether the messages are known."""
        return bool(self._given)

    def note(self, rule: str, message: Message, reason: str) -> None:
        """Tell of a change to a message."""
        self.changes.append(Change(rule, self._place_of(message), reason))

    def record_change(self, rule: str, old: Message, reason: str, new: Message) -> Message:
        """Tell that one message takes the place of another, and return it."""
        self.note(rule, old, reason)
        return self.stands_for(old, new)

    def stands_for(self, old: Message, new: Message) -> Message:
        """Give a new message the place of the one that it was made from."""
        place = self._place_of(old)
        self._known()[id(new)] = place
        self._alive.append(new)
        return new

    def _place_of(self, message: Message) -> int:
        return self._known().get(id(message), 0)

    def _known(self) -> dict[int, int]:
        """Where messages stand; worked out when a rule first changes something."""
        if self._places is None:
            self._places = dict(zip(map(id, self._given), self._given_places, strict=True))
        return self._places


def without(message: Mapping[str, Any], *names: str) -> Message:
    """A copy of a message without some fields."""
    return {name: value for name, value in message.items() if name not in names}
