"""Several messages in one reply: if Mistral runs a tool itself, the tool's result is among them.

A delta has the `index`, `role` and `tool_call_id` of its message. A tool's result is for the model:
it is not spoken, and the call that it answers must not run again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from mistral_service.wire.trees import list_of, object_of

_TOOL = "tool"
_ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Place:
    """The message of a reply to which a delta belongs.

    Parameters:
        index: The index of the message; None if the server sends none.
        role: The role of the message; empty if the delta does not say.
        answers: The id of the call whose result it is; empty if it is no result.
    """

    index: int | None = None
    role: str = ""
    answers: str = ""


_ASSISTANT_PLACE = Place(role=_ASSISTANT)


def place_of(delta: Mapping[str, Any]) -> Place | None:
    """The place of a delta; None if the delta does not say."""
    index, role, answers = delta.get("index"), delta.get("role"), delta.get("tool_call_id")
    if index is None and not answers:
        if not role:
            return None
        if role == _ASSISTANT:
            return _ASSISTANT_PLACE
    return Place(
        index if isinstance(index, int) and not isinstance(index, bool) else None,
        role if isinstance(role, str) else "",
        answers if isinstance(answers, str) else "",
    )


class Messages:
    """The messages of one reply, while they arrive.

    Attributes:
        in_tool_result: Whether the last delta belongs to a tool's result.
        answered: The ids of the calls that Mistral has answered itself.
    """

    def __init__(self) -> None:
        self.in_tool_result = False
        self.answered: set[str] = set()
        self._roles: dict[int, str] = {}

    def advance(self, place: Place) -> bool:
        """Record the place of the next delta; returns whether the assistant continues after a tool.

        Without an index or a role, the message is the same as before.
        """
        before = self.in_tool_result
        role = place.role or (_TOOL if place.answers else "")
        if place.index is not None:
            role = role or self._roles.get(place.index, _ASSISTANT)
            self._roles[place.index] = role
        if role:
            self.in_tool_result = role == _TOOL
        if self.in_tool_result and place.answers:
            self.answered.add(place.answers)
        return before and not self.in_tool_result


def joined(messages: Iterable[Any]) -> dict[str, Any]:
    """Join the messages of a whole reply: the assistant's content, and calls without an answer."""
    content: list[Any] = []
    calls: list[Any] = []
    progress = Messages()
    for message in map(object_of, messages):
        place = place_of(message) or _ASSISTANT_PLACE
        again = progress.advance(place if place.role or place.answers else _ASSISTANT_PLACE)
        if progress.in_tool_result:
            continue
        if again and content:
            content.append(" ")
        part = message.get("content")
        content += cast("list[Any]", part) if isinstance(part, list) else [part]
        calls += list_of(message.get("tool_calls"))
    pending = [call for call in calls if not _is_answered(call, progress.answered)]
    return {"role": _ASSISTANT, "content": content, "tool_calls": pending}


def _is_answered(call: Any, answered: set[str]) -> bool:
    call_id = object_of(call).get("id")
    return isinstance(call_id, str) and call_id in answered
