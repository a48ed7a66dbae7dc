"""Several messages in one reply: where Mistral runs a tool itself, its result comes between words.

A delta says which message it belongs to by `index`, `role` and `tool_call_id`. What a tool has
found is for the model: it is no speech, and the call that it answers is none of ours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

_TOOL = "tool"
_ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a reply a delta belongs.

    Parameters:
        index: The number of its message; None where the server does not number them.
        role: Whose message it is; empty where the delta does not say.
        answers: The id of the call whose result it is; empty where it is none.
    """

    index: int | None = None
    role: str = ""
    answers: str = ""


_SPEAKS = Place(role=_ASSISTANT)


def place_of(delta: Mapping[str, Any]) -> Place | None:
    """What a delta says of its place; None where it says nothing.

    Args:
        delta: The delta, as it came.
    """
    index, role, answers = delta.get("index"), delta.get("role"), delta.get("tool_call_id")
    if index is None and not answers:
        if not role:
            return None
        if role == _ASSISTANT:
            return _SPEAKS
    return Place(
        index if isinstance(index, int) and not isinstance(index, bool) else None,
        role if isinstance(role, str) else "",
        answers if isinstance(answers, str) else "",
    )


class Messages:
    """The messages of one reply, while they come.

    Attributes:
        a_tool_speaks: Whether what came last belongs to a tool's result.
        answered: The ids of the calls that Mistral has answered itself.
    """

    def __init__(self) -> None:
        self.a_tool_speaks = False
        self.answered: set[str] = set()
        self._roles: dict[int, str] = {}

    def go_on(self, place: Place) -> bool:
        """Take note of where the next words belong.

        Args:
            place: What their delta says; without an index or a role they go on as before.

        Returns:
            Whether the assistant speaks again after a tool.
        """
        before = self.a_tool_speaks
        role = place.role or (_TOOL if place.answers else "")
        if place.index is not None:
            role = role or self._roles.get(place.index, _ASSISTANT)
            self._roles[place.index] = role
        if role:
            self.a_tool_speaks = role == _TOOL
        if self.a_tool_speaks and place.answers:
            self.answered.add(place.answers)
        return before and not self.a_tool_speaks


def joined(messages: Iterable[Any]) -> dict[str, Any]:
    """The messages of a whole reply as the one that a caller expects.

    Args:
        messages: The messages, as they came.

    Returns:
        The assistant's words in order, and the calls that no message has answered.
    """
    content: list[Any] = []
    calls: list[Any] = []
    told = Messages()
    for each in messages:
        message = cast("dict[str, Any]", each) if isinstance(each, dict) else {}
        place = place_of(message) or _SPEAKS
        again = told.go_on(place if place.role or place.answers else _SPEAKS)
        if told.a_tool_speaks:
            continue
        if again and content:
            content.append(" ")
        words = message.get("content")
        content += cast("list[Any]", words) if isinstance(words, list) else [words]
        made = message.get("tool_calls")
        calls += cast("list[Any]", made) if isinstance(made, list) else []
    open_ = [call for call in calls if not _is_answered(call, told.answered)]
    return {"role": _ASSISTANT, "content": content, "tool_calls": open_}


def _is_answered(call: Any, answered: set[str]) -> bool:
    held = cast("dict[str, Any]", call) if isinstance(call, dict) else {}
    call_id = held.get("id")
    return isinstance(call_id, str) and call_id in answered
