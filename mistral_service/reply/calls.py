"""The ledger of function calls: which may run, and what becomes of those that may not.

A call runs exactly once in a conversation. The ledger is a state machine without I/O: it learns
from the context what has been called and answered, is asked for a plan for the calls of a reply,
and is told what was started.
"""

import json
import secrets
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from mistral_service.reply.events import ToolCall

_ID_CHARACTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9

# What Pipecat writes in place of a result while there is none.
_RUNNING = ("IN_PROGRESS", '"status": "running"')

RepeatedCalls = Literal["run", "reuse"]
"""What happens to a call that is like another of the same turn but for its id."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A call that goes to Pipecat.

    Parameters:
        id: The call's id, its own or one made for it.
        name: The function's name.
        arguments: The arguments by name.
        told: What the model is told as the result, in place of running the function; None runs it.
    """

    id: str
    name: str
    arguments: dict[str, Any]
    told: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about the calls of one reply.

    Parameters:
        calls: The calls that go to Pipecat, in the reply's order.
        repeated: Calls that have their result already: the model is to go on from it.
        waiting: Calls that are still running: their result will lead to another turn.
        error: What has to be told, because the model was told before and did it again.
    """

    calls: Sequence[Planned] = ()
    repeated: Sequence[ToolCall] = ()
    waiting: Sequence[ToolCall] = ()
    error: str | None = None

    @property
    def leads_on(self) -> bool:
        """Whether something is under way that leads to another turn."""
        return bool(self.calls or self.waiting)


@dataclass
class _Entry:
    name: str
    arguments: str
    running: bool = True


@dataclass
class Ledger:
    """Remembers the calls of one conversation.

    Parameters:
        repeated_calls: `run` runs two calls of one turn that differ only by their id, `reuse`
            answers the second from the first one's result.
    """

    repeated_calls: RepeatedCalls = "run"
    _entries: dict[str, _Entry] = field(default_factory=dict[str, _Entry])
    _results: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    _told_in_a_row: int = 0

    def learn(self, messages: Iterable[Mapping[str, Any]]) -> None:
        """Take note of what the context says has been called and answered.

        Args:
            messages: The context's messages; those without a role are passed over.
        """
        self._results = {}
        asked: dict[str, tuple[str, str]] = {}
        for message in messages:
            role = message.get("role")
            if role == "user":
                self._results = {}
            for call in cast("list[Mapping[str, Any]]", message.get("tool_calls") or []):
                function = cast("Mapping[str, Any]", call.get("function") or {})
                key = (str(function.get("name")), _canonical(function.get("arguments")))
                asked[str(call.get("id"))] = key
                self._entries.setdefault(str(call.get("id")), _Entry(*key))
            call_id = str(message.get("tool_call_id"))
            if role == "tool" and call_id in asked:
                content = str(message.get("content"))
                running = content == _RUNNING[0] or _RUNNING[1] in content[:80]
                self._entries[call_id].running = running
                if not running:
                    self._results[asked[call_id]] = content

    def plan(self, calls: Sequence[ToolCall]) -> Plan:
        """Decide about the calls of one reply.

        Args:
            calls: The calls, in order, with the ids and names that stand in the context.

        Returns:
            The plan. Its calls count as started from now on.
        """
        planned: list[Planned] = []
        repeated: list[ToolCall] = []
        waiting: list[ToolCall] = []
        told_again: str | None = None
        in_this_reply: set[tuple[str, str]] = set()
        for call in calls:
            key = (call.name, _canonical(call.arguments))
            entry = self._entries.get(call.id or "")
            if entry is not None and (entry.name, entry.arguments) == key:
                started_here = any(p.id == call.id for p in planned)
                if not started_here:
                    (waiting if entry.running else repeated).append(call)
                continue
            # An id that names another call is a server's that counts anew on every turn.
            call_id = call.id if call.id and entry is None else self._new_id()
            told = self._told(call, key)
            if told is None and self.repeated_calls == "reuse":
                if key in in_this_reply:
                    continue
                told = self._results.get(key)
            in_this_reply.add(key)
            if told is not None:
                told_again = told_again or told
            arguments = _object(call.arguments)
            planned.append(
                Planned(
                    call_id,
                    call.name,
                    {"arguments": call.arguments} if arguments is None else arguments,
                    told,
                )
            )
            self._entries[call_id] = _Entry(*key)
        return self._bounded(planned, repeated, waiting, told_again)

    def settled(self, call_id: str) -> None:
        """Take note that a call has its result, or never will have one."""
        if call_id in self._entries:
            self._entries[call_id].running = False

    def _told(self, call: ToolCall, key: tuple[str, str]) -> str | None:
        """What is told of a call whose arguments are no JSON object."""
        if _object(call.arguments) is not None:
            return None
        shown = call.arguments if len(call.arguments) <= 200 else call.arguments[:200] + "…"
        return (
            f"The function {call.name} did not run: its arguments are not a JSON object: {shown} "
            "Call it again with a JSON object."
        )

    def _bounded(
        self,
        planned: list[Planned],
        repeated: list[ToolCall],
        waiting: list[ToolCall],
        told: str | None,
    ) -> Plan:
        """The plan, unless all that is left of it has been tried before without effect."""
        only_told = bool(planned) and all(p.told is not None for p in planned)
        self._told_in_a_row = self._told_in_a_row + 1 if only_told else 0
        if self._told_in_a_row <= 1:
            return Plan(planned, repeated, waiting)
        for p in planned:
            self._entries[p.id].running = False
        self._told_in_a_row = 0
        return Plan((), (), waiting, error=f"The model was told, and did it again: {told}")

    def _new_id(self) -> str:
        while True:
            call_id = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))
            if call_id not in self._entries:
                return call_id


def _object(text: str) -> dict[str, Any] | None:
    try:
        arguments: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else None


def _canonical(arguments: Any) -> str:
    """Arguments in a form in which like ones are equal."""
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments)
    found = _object(arguments)
    return arguments if found is None else json.dumps(found, sort_keys=True)
