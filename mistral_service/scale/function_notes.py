"""Notes of the functions of a recorded call, written before they start.

A function starts only if a machine that takes the call over would know of it. The note goes to
Redis. While Redis does not answer, the caller's client stores it: the client confirms that it has
the note, and sends it along when it calls again. A client that has called another machine meanwhile
does not confirm, because it does not answer on the old connection.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Protocol

from loguru import logger

from mistral_service.reply.calls import PlannedCall
from mistral_service.scale.sealing import Codec, Unreadable
from mistral_service.scale.snapshot import Started, started_from_json
from mistral_service.scale.store import Claim
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.weight import weight

CONFIRMED_WITHIN_S = 1.0
"""Seconds that a caller's client has to confirm a note."""

MAX_NOTE = 16_000
"""Characters of a note: a size that every proxy passes on, and every client can store."""


class ClientLink(Protocol):
    """The connection to a caller's client."""

    async def store_note(self, note: str, within: float) -> bool:
        """Have the client store a note, in place of the one before, and confirm it in time.

        Returns whether it has the note, and is still connected here.
        """
        ...


class FunctionNotes:
    """Notes of the functions of one call.

    Attributes:
        started: The functions that have started, by the id of their call.
        asked: The user's words for which the functions in the client's note were called.
        turn: The latest turn of those functions; 0 if there is none.
    """

    def __init__(
        self,
        call_id: str,
        codec: Codec,
        ownership_lost: asyncio.Event,
        started: dict[str, Started],
        claim: Claim,
    ) -> None:
        """Begin with the functions of the record."""
        self.started = started
        self.asked, self.turn = "", 0
        self._call_id = call_id
        self._codec = codec
        self._ownership_lost = ownership_lost
        # Where too few replicas have the claim, one of them may accept writes of the owner before:
        # then the client's word alone is not enough.
        self._claim_is_safe = claim.is_replicated or not claim.known
        # The client has these, and Redis may not: the next note repeats them.
        self._with_client: dict[str, Started] = {}

    async def start(
        self,
        calls: Sequence[PlannedCall],
        turn: int,
        asked: str,
        write: Callable[[], Awaitable[bool]],
        client: ClientLink | None,
        repeatable: Collection[str],
    ) -> Collection[str]:
        """Note functions before they start, with their turn and the words that it answers.

        `write` writes the notes to Redis, and returns whether it has them. `client` is None where
        it can store none. Functions whose names are `repeatable` may start without a note.

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
            return await self._note(calls, asked, write, client, repeatable)
        except BaseException:  # an interruption: none of them starts
            for call in calls:
                self.started.pop(call.id, None)
            raise

    async def _note(
        self,
        calls: Sequence[PlannedCall],
        asked: str,
        write: Callable[[], Awaitable[bool]],
        client: ClientLink | None,
        repeatable: Collection[str],
    ) -> Collection[str]:
        noted = [call for call in calls if call.name not in repeatable]
        if is_safe := await write():
            self._claim_is_safe, self._with_client = True, {}
        elif noted and client and self._claim_is_safe and not self._ownership_lost.is_set():
            is_safe = await self._store_with(client, asked)
        if self._ownership_lost.is_set():
            raise MistralError(Reason.CALL, "the call is another machine's by now")
        if is_safe:
            return ()
        for call in noted:
            del self.started[call.id]
        if noted:
            names = ", ".join(sorted({call.name for call in noted}))
            logger.warning(
                f"{names} did not start: Redis does not answer, and the caller's client did not "
                "confirm the note. Mark functions that are safe to run twice with @idempotent."
            )
        return [call.id for call in noted]

    def restore(self, note: str | None, turn: int) -> None:
        """Restore the functions of the client's note.

        Functions of turns before `turn`, the last one in Redis, are settled.
        """
        found, asked = self._read(note)
        new = {call_id: call for call_id, call in found.items() if call.turn >= turn}
        for call_id, call in new.items():
            known = self.started.get(call_id)
            if known is None or known.result is None:
                self.started[call_id] = call
        self.asked = asked if new else ""
        self.turn = max((call.turn for call in new.values()), default=0)

    async def _store_with(self, client: ClientLink, asked: str) -> bool:
        running = {k: call for k, call in self.started.items() if call.result is None}
        known = {**self._with_client, **running}
        bare = {k: replace(call, result=None) for k, call in known.items()}
        note = self._written(known, asked) or self._written(bare, asked)
        if note is None:
            return False
        if is_stored := await client.store_note(note, CONFIRMED_WITHIN_S):
            self._with_client = known
        return is_stored

    def _written(self, started: Mapping[str, Started], asked: str) -> str | None:
        """A note for the client, which can neither read nor change it.

        None where there is no key to seal it with, or where it would be too long.
        """
        values = [(call.arguments, call.result) for call in started.values()]
        if not self._codec.is_sealed or weight([asked, *values], MAX_NOTE) > MAX_NOTE:
            return None
        calls = {call_id: asdict(call) for call_id, call in started.items()}
        try:
            text = json.dumps({"call": self._call_id, "started": calls, "asked": asked})
        except (TypeError, ValueError):
            return None
        note = self._codec.pack(text).decode()  # sealed bytes are ASCII
        return note if len(note) <= MAX_NOTE else None

    def _read(self, note: str | None) -> tuple[dict[str, Started], str]:
        """The functions of a client's note, and the user's words for which they were called.

        Empty for a note that no machine has written for this call.
        """
        if not note or not self._codec.is_sealed or len(note) > MAX_NOTE:
            return {}, ""
        try:
            content = self._codec.unpack(note.encode())
            if content["call"] != self._call_id:
                return {}, ""
            started = content["started"].items()
            return {k: started_from_json(call) for k, call in started}, str(content["asked"])
        except (Unreadable, ValueError, TypeError, KeyError, AttributeError):
            return {}, ""
