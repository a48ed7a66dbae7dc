"""The ledger of function calls: which may run, and what becomes of those that may not.

A call runs exactly once in a conversation. The ledger is a state machine without I/O: it learns
from the context what has been called and answered, is asked for a plan for the calls of a reply,
and is told what was started.
"""

import re
import secrets
import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, cast

from mistral_service.reply.events import ToolCall
from mistral_service.reply.rounds import Key, Rounds, arguments_of, key_of

_ID_CHARACTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9

# What stands in place of a result: a call that is running, and one that was cancelled.
_NO_RESULT = ("IN_PROGRESS", "CANCELLED", '{"type": "async_tool"', '"No result: the call was')

# Ids of these forms are drawn at random, Mistral's own and those of providers that had the call
# before; others may be a server's that counts anew on every turn.
_RANDOM_ID = re.compile(r"[a-zA-Z0-9]{9}|.*[a-zA-Z0-9]{16}")

MAX_REMEMBERED = 1000
"""Calls that the ledger remembers; the oldest are forgotten first."""

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
        repetition: Which of several like calls it is, from 0. One that was lost, cancelled or
            failed leaves its number to the next.
        canonical: The arguments as text, the same for like calls.
    """

    id: str
    name: str
    arguments: dict[str, Any]
    told: str | None = None
    repetition: int = 0
    canonical: str = ""


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
    def continues(self) -> bool:
        """Whether something is under way that leads to another turn."""
        return bool(self.calls or self.waiting)


@dataclass
class _Entry:
    name: str
    arguments: str
    result: str | None = None
    in_context: bool = False
    this_turn: bool = True
    settled: bool = False
    repetition: int = -1  # not known of a call that only the context has
    floor: int = 0  # below it are the numbers of calls that are forgotten


@dataclass
class Ledger:
    """Remembers the calls of one conversation.

    Parameters:
        repeated_calls: `run` runs two calls of one turn that differ only by their id, `reuse`
            answers the second from the first one's result.
    """

    repeated_calls: RepeatedCalls = "run"
    _entries: dict[str, _Entry] = field(default_factory=dict[str, _Entry])
    _taken: set[str] = field(default_factory=set[str])
    _told_in_a_row: int = 0
    _rounds: Rounds = field(default_factory=Rounds)

    @property
    def rounds(self) -> Rounds:
        """How often functions were called since the caller spoke."""
        return self._rounds

    def learn(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Take note of what the context says has been called and answered.

        Args:
            messages: The context's messages.
        """
        spoken = max(
            (place for place, message in enumerate(messages) if message.get("role") == "user"),
            default=-1,
        )
        for entry in self._entries.values():
            entry.in_context = False
            entry.this_turn = entry.this_turn and spoken < 0
        self._taken = set()
        # What would be forgotten again is not learnt.
        old = sum(len(message.get("tool_calls") or ()) for message in messages) - MAX_REMEMBERED
        for place, message in enumerate(messages):
            role = message.get("role")
            for call in cast("list[Mapping[str, Any]]", message.get("tool_calls") or []):
                old -= 1
                if old >= 0:
                    continue
                call_id = str(call.get("id"))
                entry = self._entries.get(call_id)
                if entry is None:
                    function = cast("Mapping[str, Any]", call.get("function") or {})
                    name, arguments = str(function.get("name")), function.get("arguments")
                    entry = self._entries[call_id] = _Entry(*key_of(name, arguments))
                entry.in_context, entry.this_turn = True, place > spoken
            if role == "tool":
                call_id = str(message.get("tool_call_id"))
                self._taken.add(call_id)
                content = str(message.get("content"))
                if call_id in self._entries and not content.startswith(_NO_RESULT):
                    self._entries[call_id].result = content
        if messages and messages[-1].get("role") == "user":
            self._told_in_a_row = 0
        while len(self._entries) > MAX_REMEMBERED:
            oldest = self._entries.pop(next(iter(self._entries)))
            first = next(iter(self._entries.values()))
            first.floor = max(first.floor, oldest.floor, oldest.repetition + 1)

    def plan(
        self,
        calls: Sequence[ToolCall],
        in_flight: Collection[str] = (),
        left_out: int = 0,
        *,
        offered: Collection[str] | None = None,
    ) -> Plan:
        """Decide about the calls of one reply.

        Args:
            calls: The calls, in order, with the ids and names that stand in the context.
            in_flight: The ids of calls that are running, or wait for their turn, at this moment.
            left_out: How many further calls the reply had, which were not kept.
            offered: The names, as they stand in the context, of the functions that the request
                offered; None if that is not known. A call that was written in the text runs only
                if its function is among them.

        Returns:
            The plan. Its calls count as started from now on.
        """
        planned: list[Planned] = []
        repeated: list[ToolCall] = []
        waiting: list[ToolCall] = []
        told_again: str | None = None
        running = set(in_flight)
        for call in calls:
            key = key_of(call.name, call.arguments)
            entry = self._entries.get(call.id or "")
            known = entry is not None and (entry.name, entry.arguments) == key
            told: str | None = None
            if known and entry is not None and call.id is not None:
                if any(p.id == call.id for p in planned):
                    continue
                if call.id in in_flight:
                    waiting.append(call)
                    continue
                # A server that counts its ids anew on every turn means a new call.
                if entry.this_turn or _RANDOM_ID.fullmatch(call.id):
                    if entry.in_context:
                        repeated.append(call)
                        continue
                    told = entry.result or f"{call.name} was called before; its result is gone."
            told = told or _told_of(call, offered)
            if told is None and self._rounds.worn_out(key):
                repeated.append(call)
                continue
            if told is None and self.repeated_calls == "reuse":
                if any((p.name, p.canonical) == key for p in planned):
                    continue
                told = self._result_of(key)
            told_again = told_again or told
            free = call.id and entry is None and call.id not in self._taken
            call_id = call.id if call.id and free else self._new_id()
            arguments = arguments_of(call.arguments)
            if arguments is None:
                arguments = {"arguments": call.arguments}
            repetition = self._repetition(key, running)
            planned.append(Planned(call_id, call.name, arguments, told, repetition, key[1]))
            running.add(call_id)
            self._entries[call_id] = _Entry(*key, repetition=repetition)
        self._rounds.count((p.name, p.canonical) for p in planned)
        if left_out and calls:
            planned.append(self._too_many(len(calls), left_out, calls[-1].name))
        return self._bounded(planned, repeated, waiting, told_again)

    def kept(self, limit: int = 100_000) -> list[dict[str, Any]]:
        """What is remembered, as JSON can hold it: for another ledger to go on from.

        Args:
            limit: Characters of results; the newest are kept. Those that stand in the context are
                left out, for `learn` finds them there.
        """
        kept: list[dict[str, Any]] = []
        for call_id, entry in reversed(self._entries.items()):
            result = None if entry.in_context else entry.result
            limit -= len(result or "")
            kept.append({"id": call_id, **asdict(entry), "result": result if limit >= 0 else None})
        return kept[::-1]

    def go_on_from(self, kept: Iterable[Mapping[str, Any]]) -> None:
        """Remember what another ledger has remembered.

        Args:
            kept: What its `kept` returned.
        """
        for entry in kept:
            known = {f.name: entry[f.name] for f in fields(_Entry) if f.name in entry}
            self._entries[str(entry["id"])] = _Entry(**known)

    def settle(self, call_id: str, name: str, arguments: Mapping[str, Any]) -> None:
        """Take note that a function has given its result itself.

        A call whose result was lost, or that was cancelled, is not settled: who repeats it means
        the same call.

        Args:
            call_id: The call.
            name: The function.
            arguments: Its arguments.
        """
        if call_id not in self._entries:
            self._entries[call_id] = _Entry(*key_of(name, arguments))
        self._entries[call_id].settled = True

    def has_settled(self, call_id: str) -> bool:
        """Whether the function of a call has given its result itself."""
        entry = self._entries.get(call_id)
        return entry is not None and entry.settled

    def remember(
        self,
        call_id: str,
        name: str,
        arguments: Mapping[str, Any],
        repetition: int,
        settled: bool,
    ) -> None:
        """Take note of a call that another ledger has planned.

        Args:
            call_id: The call.
            name: The function.
            arguments: Its arguments.
            repetition: Which of several like calls it is.
            settled: Whether the function has given its result itself.
        """
        entry = self._entries.setdefault(call_id, _Entry(*key_of(name, arguments)))
        entry.repetition, entry.settled = repetition, entry.settled or settled

    def forget(self, calls: Iterable[Planned]) -> None:
        """Take back calls that were planned and not started."""
        for call in calls:
            self._entries.pop(call.id, None)
        self._told_in_a_row = 0

    def _repetition(self, key: Key, running: Collection[str]) -> int:
        """The number of a new call among those that are like it."""
        alike = [
            (call_id, entry)
            for call_id, entry in self._entries.items()
            if (entry.name, entry.arguments) == key and entry.repetition >= 0
        ]
        taken = {e.repetition for call_id, e in alike if e.settled or call_id in running}
        free = {entry.repetition for _, entry in alike} - taken
        floor = next((entry.floor for entry in self._entries.values()), 0)
        return min(free) if free else max(max(taken, default=-1) + 1, floor)

    def _too_many(self, kept: int, left_out: int, name: str) -> Planned:
        """The one result for all calls of a reply that were not kept."""
        told = (
            f"The reply called functions too often. The first {kept} calls ran, and at least "
            f"{left_out} more did not. Answer now, or call what is still needed."
        )
        planned = Planned(self._new_id(), name, {}, told)
        self._entries[planned.id] = _Entry(name, "{}")
        return planned

    def _result_of(self, key: Key) -> str | None:
        """The result of a like call of this turn."""
        return next(
            (
                entry.result
                for entry in self._entries.values()
                if entry.this_turn and (entry.name, entry.arguments) == key and entry.result
            ),
            None,
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
        self.forget(planned)
        wrong = f"The model heard what was wrong, and did it again: {told}"
        return Plan((), (), waiting, error=wrong)

    def _new_id(self) -> str:
        while True:
            call_id = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))
            if call_id not in self._entries and call_id not in self._taken:
                return call_id


def _told_of(call: ToolCall, offered: Collection[str] | None) -> str | None:
    """The result that the model reads of a call that cannot run as it is."""
    if call.written and offered is not None and call.name not in offered:
        can = "Call one that is, or answer in words." if offered else "Answer in words."
        return f"The function {call.name} did not run: it is not offered. {can}"
    if arguments_of(call.arguments) is not None:
        return None
    shown = call.arguments if len(call.arguments) <= 200 else call.arguments[:200] + "…"
    return (
        f"The function {call.name} did not run: its arguments are not a JSON object: {shown} "
        "Call it again with a JSON object."
    )
