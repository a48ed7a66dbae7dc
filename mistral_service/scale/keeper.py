"""The keeper of a call: what a conversation needs to survive its machine is written as it happens.

A turn is written when it begins, its words while they go out, its functions before they start and
when they return. Nothing but the start of a function waits for Redis, and nothing fails with it:
while Redis is away the conversation goes on, and the first write after that writes everything.
"""

import asyncio
import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, cast

from loguru import logger
from pipecat.processors.aggregators.llm_context import LLMContext, LLMContextMessage

from mistral_service.reply.calls import Planned
from mistral_service.scale.ear import listen
from mistral_service.scale.owed import Owed
from mistral_service.scale.past import (
    ASKED_LONGEST,
    believed,
    digest,
    is_reply,
    last_asked,
    opened_with,
    resume,
    unsettled,
)
from mistral_service.scale.progress import Progress, Sent, proven
from mistral_service.scale.snapshot import (
    LIMIT,
    Form,
    Journal,
    Snapshot,
    Started,
    journal_from_json,
    keepable,
    snapshot_from_json,
    snapshot_to_json,
    started_from_json,
)
from mistral_service.scale.store import Store, StoreGone, Taken, fence_without_redis
from mistral_service.scale.writer import Writer
from mistral_service.settings import UNSET
from mistral_service.surroundings import Past
from mistral_service.turn import Turns
from mistral_service.wire.errors import MistralError, Reason

# A bot that was told to greet does so within these seconds of a takeover.
_GREETS_WITHIN = 10.0

# A snapshot above this is made and compressed beside the event loop.
_LARGE = 100_000

# The door comes first, unless it is the web's: so an id of one door is none at another.
_CALL_ID = re.compile(r"(?:twilio:)?[A-Za-z0-9_-]{8,128}")


class UnknownCall(LookupError):
    """No call of this id is kept: it is over, was kept too long ago, or never was."""


class Keepers:
    """Opens calls, new ones and those that other machines had; one for each process."""

    def __init__(
        self,
        store: Store,
        *,
        keep_seconds: float = 60.0,
        form: Form | None = None,
        limit: int = LIMIT,
    ) -> None:
        """Make the keepers' place.

        Args:
            store: Where calls are kept.
            keep_seconds: How long a call is kept after its last sign of life.
            form: How it is written; by default sealed with the environment's key, if it has one.
            limit: Bytes that a conversation's messages may have.
        """
        self.store = store
        self.keep_seconds = keep_seconds
        self.form = form or Form.from_environment()
        self.limit = limit

    async def open(
        self,
        call_id: str | None = None,
        *,
        heard: str | None = None,
        ended: bool = False,
        asked: str | None = None,
        sent: Sent | None = None,
        create: bool = False,
    ) -> "CallKeeper":
        """Begin a call, or take one over: who had it can write no more from here on.

        Args:
            call_id: The call; None begins one with an id that cannot be guessed.
            heard: What the caller says to have heard of the last reply; None where that is not
                known. Words beyond those that were kept count where `sent` proves them.
            ended: Whether they have heard its end.
            asked: The last words of the caller's; None where they are not known.
            sent: What the caller was sent of it, as `CallKeeper.progress` signed it.
            create: Whether an id that is not known begins a call, such as a telephone company's.

        Returns:
            The call's keeper. While Redis is away a new call goes on, and is kept once it is back.

        Raises:
            UnknownCall: If no such call is kept, or the id has no form that an id may have.
            StoreGone: If a call is to be taken over and Redis does not answer.
            Unreadable: If what was kept cannot be read here (`TooNew`: a newer version could).
        """
        new = call_id is None
        call_id = secrets.token_urlsafe(24) if call_id is None else call_id
        if not _CALL_ID.fullmatch(call_id):
            raise UnknownCall("The call's id has no form that an id may have.")
        try:
            taken = await self.store.take(call_id, self.keep_seconds, create=new or create)
        except StoreGone:
            if not (new or create):
                raise
            taken = Taken(fence_without_redis())
        if taken is None:
            raise UnknownCall("No such call is kept: it is over, or was kept too long ago.")
        return CallKeeper(self, call_id, taken, heard, ended, asked, sent)


class CallKeeper:
    """Keeps one call.

    Attributes:
        id: The call's id.
        resumed: Whether the call was taken over.
        lost: Set when the call belongs to another machine, or is over.
    """

    def __init__(
        self,
        keepers: Keepers,
        call_id: str,
        taken: Taken,
        heard: str | None,
        ended: bool,
        asked: str | None,
        sent: Sent | None = None,
    ) -> None:
        self.id = call_id
        self.resumed = taken.known
        self.lost = asyncio.Event()
        self._keepers = keepers
        self._form = keepers.form
        self._heard, self._ended, self._asked = heard, ended, (asked or "").strip()
        self._context: LLMContext | None = None
        self._service: Turns | None = None
        self._snapshot = Snapshot()
        self._journal = Journal()
        self._started: dict[str, Started] = {}
        self._read(taken)
        self._snapshot.proof_key = self._snapshot.proof_key or secrets.token_hex(16)
        self._sent = sent
        self._progress = Progress(self._snapshot.proof_key, call_id)
        # A call may be over before its first turn was kept: then its caller's words are all of it.
        self._resumes = self._snapshot.turn > 0 or (self.resumed and bool(self._asked))
        self._owed: Owed | None = None
        self._listens = False
        self._unanswered = ""
        self._has_voice = False
        self._went_on: tuple[float, list[LLMContextMessage]] | None = None
        self._llm_done = False
        self._writer = Writer(
            keepers.store, call_id, taken.fence, keepers.keep_seconds, self._packed, self.lost
        )

    @property
    def waits(self) -> bool:
        """Whether a call that was taken over has not gone on yet."""
        return self._resumes

    @property
    def asked(self) -> str | None:
        """The caller's last words that the conversation has, for their client to know of it."""
        return self._asked or last_asked(self._snapshot.messages)

    def progress(self) -> str | None:
        """What was sent of the reply since this was last asked, signed for the client."""
        if self._context is None:
            return None  # The journal is still that of another machine's turn.
        return self._progress.of(self._journal.turn, self._journal.words)

    # What the service tells.

    def starts(self, service: Turns) -> None:
        """Listen to the pipeline from now on: what the first turn answers is said before it."""
        if not self._listens:
            self._listens = True
            self._has_voice = listen(service.pipeline_worker.pipeline, self)

    async def begins(self, service: Turns, context: LLMContext) -> Past | None:
        """Take note of a turn that begins; after a takeover, put the past in its place."""
        if self._greets_again(context):
            return Past(answer=False)
        if self._owed is not None:
            self._owed.pay(finally_=True)
            self._owed = None
        past: Past | None = None
        self.starts(service)
        if service is not self._service and self._context not in (None, context):
            logger.warning(
                "Two services with contexts of their own are kept as one conversation, that of "
                "whichever spoke last: give the one that is not the caller's keeper=False"
            )
        self._service = service
        if not self._snapshot.turn:
            self._snapshot.opened_with = opened_with(context.get_messages())
        if self._resumes:
            self._resumes = False
            past = await self._resume(service, context)
            self._went_on = time.monotonic(), list(context.get_messages())
        self._context, turn = context, self._snapshot.turn + 1
        messages = list(context.get_messages())
        self._started = unsettled(messages, self._started, turn)
        opened, key = self._snapshot.opened_with, self._snapshot.proof_key
        settings, ledger = _settings(service), service.ledger.kept()
        self._snapshot = Snapshot(turn, messages, opened, settings, ledger, key)
        cut = past.cut if past is not None else ""
        self._llm_done = False
        # Where nothing was said since, as after a function, the turn answers the same words still.
        asked, self._unanswered = self._unanswered or self._journal.asked, ""
        complete = past is not None and not past.answer
        self._journal = Journal(turn, cut, complete, asked)
        if cut:
            self._owed = Owed(context, messages[-1] if messages else None, cut)
        self._writer.soon("snapshot", "journal", "calls")
        return past

    def says(self, words: str) -> None:
        """Take note of words that were just handed to the voice."""
        if self._owed is not None:
            self._owed.goes_on(words)
        if not self._has_voice:
            self._says(self._journal.words + words)

    async def calls(self, calls: Sequence[Planned]) -> None:
        """Take note of functions before they start, and wait until that is written.

        Raises:
            MistralError: If the call belongs to another machine by now.
        """
        for call in calls:
            self._started[call.id] = Started(call.name, call.arguments, self._snapshot.turn)
        if calls:
            await self._writer.now("calls", "journal")
        if self.lost.is_set():
            raise MistralError(Reason.CALL, "the call is another machine's by now")

    async def returned(self, call_id: str, result: object) -> None:
        """Take note of a function's result before anybody else is told."""
        if call_id in self._started:
            # As Pipecat writes it into the context.
            text = json.dumps(result, ensure_ascii=False, default=str) if result else "COMPLETED"
            self._started[call_id].result = text
            await self._writer.now("calls")

    async def ends(self, *, complete: bool) -> None:
        """Take note of the end of a turn."""
        self._llm_done = complete
        if not self._has_voice:
            self._journal.complete = complete
        self._writer.soon("journal")

    # What the pipeline shows.

    def hears(self, words: str) -> None:
        """Take note of the caller's words, which the next turn answers."""
        self._unanswered = f"{self._unanswered} {words.strip()}".strip()[-ASKED_LONGEST:]

    def spoke(self, text: str, spaced: bool) -> None:
        """Take note of words that were spoken aloud.

        Args:
            text: The words.
            spaced: Whether they bring the spaces between them.
        """
        if self._context is None:
            return  # What a bot says before its first turn belongs to none.
        before = self._journal.words
        apart = before and not spaced and not before[-1].isspace()
        self._journal.complete = False
        self._says(before + (" " if apart else "") + text)

    def fell_silent(self) -> None:
        """Take note that nothing is spoken any more: a reply that is at its end has ended."""
        if self._has_voice and self._llm_done and not self._journal.complete:
            self._journal.complete = True
            self._writer.soon("journal")

    def settled(self) -> None:
        """Take note that the words of a turn have come into the context."""
        if self._owed is not None and self._owed.pay(finally_=False):
            self._owed = None

    async def close(self, *, over: bool) -> None:
        """End the keeping here.

        Args:
            over: Whether the caller has hung up: what was kept is deleted then. Otherwise it is
                written once more, for another machine.
        """
        await self._writer.close(finish=not over)
        if over:
            await self._writer.delete()

    # Taking over.

    def _read(self, taken: Taken) -> None:
        read = {name: self._form.unpack(data) for name, data in taken.fields.items()}
        if "snapshot" in read:
            self._snapshot = snapshot_from_json(read["snapshot"])
            self._journal = journal_from_json(read.get("journal", {}))
            calls = cast("dict[str, dict[str, Any]]", read.get("calls", {}))
            self._started = {call_id: started_from_json(call) for call_id, call in calls.items()}

    def _greets_again(self, context: LLMContext) -> bool:
        """Whether a turn is the bot's greeting, which came when the call had been answered already.

        What stands there of it is taken away: nobody asked anything.
        """
        if self._went_on is None or context is not self._context:
            return False
        (when, before), self._went_on = self._went_on, None
        messages = context.get_messages()
        known = {id(message) for message in before}
        new = [m for m in messages if id(m) not in known and not is_reply(m)]
        late = time.monotonic() > when + _GREETS_WITHIN
        whole = self._llm_done or self._journal.complete  # else the caller has not had it all
        if (
            late
            or not whole
            or self._unanswered
            or any(digest(message) not in self._snapshot.opened_with for message in new)
        ):
            return False
        context.set_messages(
            [message for message in messages if all(message is not m for m in new)]
        )
        return True

    async def _resume(self, service: Turns, context: LLMContext) -> Past:
        turn = self._snapshot.turn
        sent = proven(self._snapshot.proof_key, self.id, turn, self._sent)
        journal, heard = believed(self._journal, turn, self._heard, sent)
        messages, past = resume(
            self._snapshot,
            journal,
            self._started,
            context.get_messages(),
            heard=heard,
            ended=self._ended,
            asked=self._asked,
        )
        self._journal.asked = self._asked or self._journal.asked
        context.set_messages(messages)
        service.ledger.go_on_from(self._snapshot.ledger)
        settings = cast(Any, service)._settings
        delta = type(settings)()
        for f in fields(delta):
            if f.name in self._snapshot.settings:
                setattr(delta, f.name, self._snapshot.settings[f.name])
        await cast(Any, service)._update_settings(delta)
        logger.info(f"Took over a call in its turn {self._snapshot.turn}")
        return past

    # What is written.

    def _says(self, words: str) -> None:
        self._journal.words = words
        self._writer.in_a_while("journal")

    async def _packed(self, name: str) -> bytes:
        if name == "journal":
            return self._form.pack(json.dumps(asdict(self._journal)))
        if name == "calls":
            calls = {call_id: asdict(call) for call_id, call in self._started.items()}
            return self._form.pack(json.dumps(calls, default=str))
        snapshot, limit = self._snapshot, self._keepers.limit

        def pack() -> bytes:
            return self._form.pack(snapshot_to_json(snapshot, limit))

        large = len(snapshot.messages) > 200 or any(map(_is_large, snapshot.messages))
        return await asyncio.to_thread(pack) if large else pack()


def _settings(service: Turns) -> dict[str, Any]:
    settings = cast(Any, service)._settings
    values = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "extra"}
    extra = {name: v for name, v in settings.extra.items() if not _SECRET.search(name)}
    given = {name: v for name, v in values.items() if not isinstance(v, UNSET)}
    return keepable({**given, "extra": extra})


_SECRET = re.compile(r"(?i)(api|secret|access|private)_?-?key|password|authorization|secret")


def _is_large(message: Any) -> bool:
    content: Any = cast(Any, message).get("content") if isinstance(message, dict) else None
    return isinstance(content, list) or (isinstance(content, str) and len(content) > _LARGE)
