"""The ledger of function calls: which may run, and what the model reads of those that may not.

A call runs exactly once in a conversation. The ledger is a state machine without I/O: it learns
from the context which calls there were and which have results, and plans the calls of each reply.
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

# The content of a tool message without a result: the call is running, or was cancelled.
_NO_RESULT = ("IN_PROGRESS", "CANCELLED", '{"type": "async_tool"', '"No result: the call was')

# Ids of these forms are random: Mistral's own, and those of providers that had the call before.
# Others may be of a server that counts its ids from 0 on every turn.
_RANDOM_ID = re.compile(r"[a-zA-Z0-9]{9}|.*[a-zA-Z0-9]{16}")

MAX_REMEMBERED = 1000
"""Calls that the ledger remembers; the oldest are forgotten first."""

RepeatedCalls = Literal["run", "reuse"]
"""What happens to a call that equals another of the same turn except for its id."""


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A call that goes to Pipecat.

    Parameters:
        id: The call's id, its own or a new one.
        name: The function's name.
        arguments: The arguments by name.
        synthetic_result: The result that the model reads instead of running the function; None
            runs it.
        repetition: Which of several equal calls it is, from 0. A call that was lost, was cancelled
            or failed leaves its number to the next.
        canonical: The arguments as text, the same for equal calls.
    """

    id: str
    name: str
    arguments: dict[str, Any]
    synthetic_result: str | None = None
    repetition: int = 0
    canonical: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with the calls of one reply.

    Parameters:
        calls: The calls that go to Pipecat, in the reply's order.
        repeated: Calls that have a result already, from which the model should continue.
        waiting: Calls that are still running: their result starts another turn.
        error: The error that ends the turn, because the model repeated a call that cannot run.
    """

    calls: Sequence[PlannedCall] = ()
    repeated: Sequence[ToolCall] = ()
    waiting: Sequence[ToolCall] = ()
    error: str | None = None

    @property
    def continues(self) -> bool:
        """Whether a call runs whose result starts another turn."""
        return bool(self.calls or self.waiting)


@dataclass
class _Entry:
    name: str
    arguments: str
    result: str | None = None
    in_context: bool = False
    this_turn: bool = True
    settled: bool = False
    repetition: int = -1  # unknown for a call that only the context has
    floor: int = 0  # lower repetition numbers belong to forgotten calls


@dataclass
class CallLedger:
    """Remembers the calls of one conversation.

    Parameters:
        repeated_calls: `run` runs two calls of one turn that differ only by their id, `reuse`
            answers the second with the result of the first.
        rounds: How often functions were called since the caller spoke.
    """

    repeated_calls: RepeatedCalls = "run"
    rounds: Rounds = field(default_factory=Rounds)
    _entries: dict[str, _Entry] = field(default_factory=dict[str, _Entry])
    _taken: set[str] = field(default_factory=set[str])
    _failures_in_a_row: int = 0

    def learn(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Update the ledger with the calls and results in the context."""
        last_user = max(
            (index for index, message in enumerate(messages) if message.get("role") == "user"),
            default=-1,
        )
        for entry in self._entries.values():
            entry.in_context = False
            entry.this_turn = entry.this_turn and last_user < 0
        self._taken = set()
        # Calls beyond the limit, which would be forgotten again, are skipped.
        old = sum(len(message.get("tool_calls") or ()) for message in messages) - MAX_REMEMBERED
        for index, message in enumerate(messages):
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
                entry.in_context, entry.this_turn = True, index > last_user
            if role == "tool":
                call_id = str(message.get("tool_call_id"))
                self._taken.add(call_id)
                content = str(message.get("content"))
                if call_id in self._entries and not content.startswith(_NO_RESULT):
                    self._entries[call_id].result = content
        if messages and messages[-1].get("role") == "user":
            self._failures_in_a_row = 0
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
        """Decide which calls of one reply run; those of the plan count as started from now on.

        Args:
            calls: The calls, in order, with their ids and names as in the context.
            in_flight: The ids of calls that are running or queued.
            left_out: How many further calls the reply had, beyond the limit.
            offered: The names, as in the context, of the functions that the request offered; None
                if that is not known. A call that was written in the text only runs if its function
                is among them.
        """
        planned: list[PlannedCall] = []
        repeated: list[ToolCall] = []
        waiting: list[ToolCall] = []
        failure: str | None = None  # the first one
        running = set(in_flight)
        for call in calls:
            key = key_of(call.name, call.arguments)
            entry = self._entries.get(call.id or "")
            synthetic: str | None = None
            if call.id and entry is not None and (entry.name, entry.arguments) == key:
                if any(p.id == call.id for p in planned):
                    continue
                if call.id in in_flight:
                    waiting.append(call)
                    continue
                # From a server that counts its ids from 0 on every turn, it is a new call.
                if entry.this_turn or _RANDOM_ID.fullmatch(call.id):
                    if entry.in_context:
                        repeated.append(call)
                        continue
                    synthetic = (
                        entry.result or f"{call.name} was called before; its result is gone."
                    )
            synthetic = synthetic or _failure_of(call, offered)
            if synthetic is None and self.rounds.repeated_too_often(key):
                repeated.append(call)
                continue
            if synthetic is None and self.repeated_calls == "reuse":
                if any((p.name, p.canonical) == key for p in planned):
                    continue
                equal = (e for e in self._entries.values() if (e.name, e.arguments) == key)
                synthetic = next((e.result for e in equal if e.this_turn and e.result), None)
            failure = failure or synthetic
            free = call.id and entry is None and call.id not in self._taken
            call_id = call.id if call.id and free else self._new_id()
            arguments = arguments_of(call.arguments)
            if arguments is None:
                arguments = {"arguments": call.arguments}
            repetition = self._repetition(key, running)
            planned.append(
                PlannedCall(call_id, call.name, arguments, synthetic, repetition, key[1])
            )
            running.add(call_id)
            self._entries[call_id] = _Entry(*key, repetition=repetition)
        self.rounds.record_calls((p.name, p.canonical) for p in planned)
        if left_out and calls:
            planned.append(self._too_many(len(calls), left_out, calls[-1].name))
        return self._bounded(planned, repeated, waiting, failure)

    def snapshot(self, limit: int = 100_000) -> list[dict[str, Any]]:
        """The ledger's state as JSON values, which `restore` reads.

        Args:
            limit: Characters of results; the newest are included. Results in the context are left
                out, since `learn` finds them there.
        """
        entries: list[dict[str, Any]] = []
        for call_id, entry in reversed(self._entries.items()):
            result = None if entry.in_context else entry.result
            limit -= len(result or "")
            result = result if limit >= 0 else None
            entries.append({"id": call_id, **asdict(entry), "result": result})
        return entries[::-1]

    def restore(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Add the state of another ledger: what its `snapshot` returned."""
        for entry in entries:
            known = {f.name: entry[f.name] for f in fields(_Entry) if f.name in entry}
            self._entries[str(entry["id"])] = _Entry(**known)

    def settle(self, call_id: str, name: str, arguments: Mapping[str, Any]) -> None:
        """Record that a function has returned a result itself.

        A call whose result was lost, or that was cancelled, is not settled: its repetition is the
        same call.
        """
        if call_id not in self._entries:
            self._entries[call_id] = _Entry(*key_of(name, arguments))
        self._entries[call_id].settled = True

    def has_settled(self, call_id: str) -> bool:
        """Whether the function of a call has returned a result itself."""
        return call_id in self._entries and self._entries[call_id].settled

    def remember(
        self,
        call_id: str,
        name: str,
        arguments: Mapping[str, Any],
        repetition: int,
        settled: bool,
    ) -> None:
        """Record a call that another ledger has planned, and whether it has settled there."""
        entry = self._entries.setdefault(call_id, _Entry(*key_of(name, arguments)))
        entry.repetition, entry.settled = repetition, entry.settled or settled

    def forget(self, calls: Iterable[PlannedCall]) -> None:
        """Remove calls that were planned but not started."""
        for call in calls:
            self._entries.pop(call.id, None)
        self._failures_in_a_row = 0

    def _repetition(self, key: Key, running: Collection[str]) -> int:
        """The number of a new call among its equals."""
        equal = [
            (call_id, entry)
            for call_id, entry in self._entries.items()
            if (entry.name, entry.arguments) == key and entry.repetition >= 0
        ]
        taken = {e.repetition for call_id, e in equal if e.settled or call_id in running}
        free = {entry.repetition for _, entry in equal} - taken
        floor = next((entry.floor for entry in self._entries.values()), 0)
        return min(free) if free else max(max(taken, default=-1) + 1, floor)

    def _too_many(self, kept: int, left_out: int, name: str) -> PlannedCall:
        """The one result for all calls of a reply beyond the limit."""
        result = (
            f"The reply called functions too often. The first {kept} calls ran, and at least "
            f"{left_out} more did not. Answer now, or call what is still needed."
        )
        planned = PlannedCall(self._new_id(), name, {}, result)
        self._entries[planned.id] = _Entry(name, "{}")
        return planned

    def _bounded(
        self,
        planned: list[PlannedCall],
        repeated: list[ToolCall],
        waiting: list[ToolCall],
        failure: str | None,
    ) -> Plan:
        """The plan; an error where no call of it runs for the second time in a row."""
        none_runs = bool(planned) and all(p.synthetic_result is not None for p in planned)
        self._failures_in_a_row = self._failures_in_a_row + 1 if none_runs else 0
        if self._failures_in_a_row <= 1:
            return Plan(planned, repeated, waiting)
        self.forget(planned)
        error = f"The model repeated a call that cannot run: {failure}"
        return Plan((), (), waiting, error=error)

    def _new_id(self) -> str:
        while True:
            call_id = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))
            if call_id not in self._entries and call_id not in self._taken:
                return call_id


def _failure_of(call: ToolCall, offered: Collection[str] | None) -> str | None:
    """The result that the model reads of a call that cannot run; None if it can run."""
    if call.written and offered is not None and call.name not in offered:
        advice = "Call one that is, or answer in words." if offered else "Answer in words."
        return f"The function {call.name} did not run: it is not offered. {advice}"
    if arguments_of(call.arguments) is not None:
        return None
    shown = call.arguments if len(call.arguments) <= 200 else call.arguments[:200] + "…"
    return (
        f"The function {call.name} did not run: its arguments are not a JSON object: {shown} "
        "Call it again with a JSON object."
    )
