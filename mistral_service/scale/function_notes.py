"""The functions of a kept call: which have started, where that is noted, and what they gave.

A function starts only when a machine that takes the call over would learn of it. Redis is the first
place for the note. While Redis does not answer, the caller's client is the second one: it confirms
that it has the note, and brings it along if it has to call again. A client that has called another
machine meanwhile does not confirm, since it listens to the old line no more.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace

from loguru import logger

from mistral_service.reply.calls import PlannedCall
from mistral_service.scale.client_link import Line
from mistral_service.scale.sealing import Form, Unreadable
from mistral_service.scale.snapshot import Started, started_from_json
from mistral_service.scale.store import Taken
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.weight import weight

CONFIRMED_WITHIN_S = 1.0
"""Seconds that a caller's client has to confirm a note."""

LONGEST_NOTE = 16_000
"""Characters of a note. A proxy passes on a message of this size, and a client keeps it easily."""


class FunctionNotes:
    """Notes of the functions of one call.

    Attributes:
        started: The functions that have started, by the id of their call.
        line: The line to the caller's client; None where there is none that answers.
        asked: The words for which the functions were called that only the client knew.
        turn: The latest turn in which one of them was called; 0 if there is none.
    """

    def __init__(
        self,
        call_id: str,
        form: Form,
        lost: asyncio.Event,
        started: dict[str, Started],
        taken: Taken,
    ) -> None:
        """Begin with those that Redis has.

        Args:
            call_id: The call that the functions belong to.
            form: Seals what the client keeps.
            lost: Set when the call belongs to another machine, or is over.
            started: The functions that Redis knows of, by the id of their call.
            taken: What Redis said as the call was taken. Where replicas do not know of that, one of
                them may let the machine go on that had the call before: the client alone is not
                enough then.
        """
        self.started = started
        self.line: Line | None = None
        self.asked, self.turn = "", 0
        self._call_id = call_id
        self._form = form
        self._lost = lost
        self._is_ours = taken.is_copied or not taken.known
        # What the client has confirmed, and Redis may not know: the next note repeats it.
        self._confirmed: dict[str, Started] = {}

    async def start(
        self,
        calls: Sequence[PlannedCall],
        turn: int,
        asked: str,
        write: Callable[[], Awaitable[bool]],
        repeatable: Collection[str] = (),
    ) -> Collection[str]:
        """Note functions before they start.

        Args:
            calls: The calls.
            turn: The turn in which they are made.
            asked: The caller's words that the turn answers.
            write: Writes the notes to Redis, and tells whether they stand there.
            repeatable: Names of functions that may start without a note.

        Returns:
            The ids of calls that must not start, because their note is not safe.

        Raises:
            MistralError: If the call belongs to another machine by now.
        """
        if not calls:
            return ()
        for call in calls:
            self.started[call.id] = Started(
                call.name, call.arguments, turn, repetition=call.repetition
            )
        try:
            return await self._note(calls, asked, write, repeatable)
        except BaseException:  # an interruption: none of them starts
            for call in calls:
                self.started.pop(call.id, None)
            raise

    async def _note(
        self,
        calls: Sequence[PlannedCall],
        asked: str,
        write: Callable[[], Awaitable[bool]],
        repeatable: Collection[str],
    ) -> Collection[str]:
        need = [call for call in calls if call.name not in repeatable]
        if is_safe := await write():
            self._is_ours, self._confirmed = True, {}
        elif need and self._is_ours and not self._lost.is_set():
            is_safe = await self._kept_by_client(asked)
        if self._lost.is_set():
            raise MistralError(Reason.CALL, "the call is another machine's by now")
        if is_safe:
            return ()
        for call in need:
            del self.started[call.id]
        if need:
            names = ", ".join(sorted({call.name for call in need}))
            logger.warning(
                f"{names} did not start: Redis does not answer, and the caller's client did not "
                "confirm the note. Mark functions that are safe to run twice with @idempotent."
            )
        return [call.id for call in need]

    def learn(self, note: str | None, turn: int) -> None:
        """Take over what the last machine gave to the caller's client.

        Args:
            note: The note; None if the client has none.
            turn: The last turn that Redis knows: functions of earlier ones are settled.
        """
        found, asked = read_note(self._form, self._call_id, note)
        new = {call_id: call for call_id, call in found.items() if call.turn >= turn}
        for call_id, call in new.items():
            known = self.started.get(call_id)
            if known is None or known.result is None:
                self.started[call_id] = call
        self.asked = asked if new else ""
        self.turn = max((call.turn for call in new.values()), default=0)

    async def _kept_by_client(self, asked: str) -> bool:
        running = {k: call for k, call in self.started.items() if call.result is None}
        known = {**self._confirmed, **running}
        bare = {k: replace(call, result=None) for k, call in known.items()}
        notes = (write_note(self._form, self._call_id, calls, asked) for calls in (known, bare))
        note = next(filter(None, notes), None)
        if self.line is None or note is None:
            return False
        if confirmed := await self.line.confirm(note, CONFIRMED_WITHIN_S):
            self._confirmed = known
        return confirmed


def write_note(form: Form, call_id: str, started: Mapping[str, Started], asked: str) -> str | None:
    """Write a note for the client, which can neither read nor change it.

    Args:
        form: Seals the note.
        call_id: The call that it belongs to.
        started: The functions that have started, by the id of their call.
        asked: The caller's words that the functions were called for.

    Returns:
        The note; None where there is no key to seal it with, or where it would be too long.
    """
    values = [(call.arguments, call.result) for call in started.values()]
    size = weight([asked, *values], LONGEST_NOTE)
    if not form.sealed or size > LONGEST_NOTE:
        return None
    calls = {tool_call_id: asdict(call) for tool_call_id, call in started.items()}
    try:
        text = json.dumps({"call": call_id, "started": calls, "asked": asked})
    except (TypeError, ValueError):
        return None
    note = form.pack(text).decode()  # what is sealed is ASCII
    return note if len(note) <= LONGEST_NOTE else None


def read_note(form: Form, call_id: str, note: str | None) -> tuple[dict[str, Started], str]:
    """Read a note that a client brings along.

    Args:
        form: Opens the note.
        call_id: The call that the client asks for.
        note: What it brings; None if it has none.

    Returns:
        The functions that have started, and the words that they were called for; none of a note
        that we did not write for this call.
    """
    if not note or not form.sealed or len(note) > LONGEST_NOTE:
        return {}, ""
    try:
        said = form.unpack(note.encode())
        if said["call"] != call_id:
            return {}, ""
        started = said["started"].items()
        return {k: started_from_json(call) for k, call in started}, str(said["asked"])
    except (Unreadable, ValueError, TypeError, KeyError, AttributeError):
        return {}, ""
