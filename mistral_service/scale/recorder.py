"""The recorder of a call: what a conversation needs to survive its machine is written at once.

A turn is written when it begins, its words while they go out, its functions before they start and
when they return. Nothing but the start of a function waits for Redis, and nothing else fails with
it: while Redis is away the conversation goes on, and the first write after that writes everything.
"""

import asyncio
import re
import secrets
from collections.abc import Collection, Sequence
from typing import Any, cast

from loguru import logger
from pipecat.processors.aggregators.llm_context import LLMContext, LLMContextMessage

from mistral_service.reply.calls import PlannedCall
from mistral_service.scale.client_link import Line
from mistral_service.scale.function_notes import FunctionNotes
from mistral_service.scale.greeting import Greeting
from mistral_service.scale.incremental_json import pieces
from mistral_service.scale.pending_context import PendingContext
from mistral_service.scale.pipeline_taps import listen
from mistral_service.scale.progress import Claims, Progress, Sent, proven
from mistral_service.scale.record import packed, to_thread_if_large
from mistral_service.scale.recordable_settings import recorded_settings, settings_from
from mistral_service.scale.resume import (
    ASKED_LONGEST,
    believed,
    last_asked,
    opened_with,
    resume,
    unsettled,
)
from mistral_service.scale.sealing import Form
from mistral_service.scale.snapshot import LIMIT, WORDS_MOST, Journal, Snapshot
from mistral_service.scale.store import Store, StoreGone, Taken, fence_without_redis
from mistral_service.scale.takeover import Found, take
from mistral_service.scale.writer import Writer
from mistral_service.turn.ports import RecordedService, ResumePoint

# The door comes first, unless it is the web's: so an id of one door is none at another.
_CALL_ID = re.compile(r"(?:twilio:)?[A-Za-z0-9_-]{8,128}")


class UnknownCall(LookupError):
    """No call of this id is kept: it is over, was kept too long ago, or never was."""


class CallRecorders:
    """Opens calls, new ones and those that other machines had; one for each process."""

    def __init__(
        self,
        store: Store,
        *,
        keep_seconds: float = 60.0,
        form: Form | None = None,
        limit: int = LIMIT,
    ) -> None:
        """Make the recorders' place.

        Args:
            store: Where calls are kept.
            keep_seconds: How long a call is kept after its last sign of life.
            form: How it is written; by default sealed, see `Form.from_environment`.
            limit: Bytes that a conversation's messages may have.

        Raises:
            ValueError: If there is no key to seal with.
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
        note: str | None = None,
        create: bool = False,
    ) -> "CallRecorder":
        """Begin a call, or take one over: who had it can write no more from here on.

        What cannot be read here is not taken: its owner goes on, and its time is not renewed.

        Args:
            call_id: The call; None begins one with an id that cannot be guessed.
            heard: What the caller says to have heard of the last reply; None where that is not
                known. Words beyond those that were kept count where `sent` proves them.
            ended: Whether they have heard its end.
            asked: The last words of the caller's; None where they are not known.
            sent: What the caller was sent of it, as `CallRecorder.progress` signed it.
            note: What the last machine gave to the caller's client to keep; None if nothing.
            create: Whether an id that is not known begins a call, such as a telephone company's.
                One whose record cannot be read begins anew: the recorder is `begun_anew` then.

        Returns:
            The call's recorder. While Redis is away a new call goes on, and is recorded later.

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
            if new:
                taken = await self.store.take(call_id, self.keep_seconds, create=True)
                found = Found(taken) if taken is not None else None
            else:
                found = await take(
                    self.store, self.form, call_id, self.keep_seconds, self.limit, create=create
                )
        except StoreGone:
            if not (new or create):
                raise
            found = Found(Taken(fence_without_redis()))
        if found is None:
            raise UnknownCall("No such call is kept: it is over, or was kept too long ago.")
        return CallRecorder(self, call_id, found, Claims(heard, ended, asked or "", sent, note))


class CallRecorder:
    """Keeps one call.

    Attributes:
        id: The call's id.
        resumed: Whether the call was taken over.
        begun_anew: Whether it was kept, and what was kept could not be read.
        lost: Set when the call belongs to another machine, or is over.
    """

    def __init__(
        self,
        recorders: CallRecorders,
        call_id: str,
        found: Found,
        claims: Claims,
    ) -> None:
        self.id = call_id
        self.resumed = found.taken.known
        self.begun_anew = found.anew
        self.lost = asyncio.Event()
        self._recorders = recorders
        self._form = recorders.form
        self._claims = claims
        self._context: LLMContext | None = None
        self._service: RecordedService | None = None
        was = found.record
        self._snapshot, self._journal, self._was_asked = was.snapshot, was.journal, was.asked
        self._functions = FunctionNotes(call_id, self._form, self.lost, was.started, found.taken)
        self._functions.learn(claims.note, self._snapshot.turn)
        asked = "" if self._snapshot.turn else self._functions.asked
        self._asked = claims.asked.strip() or asked
        self._warned: set[str] = set()
        self._snapshot.proof_key = self._snapshot.proof_key or secrets.token_hex(16)
        self._progress = Progress(self._snapshot.proof_key, call_id)
        # A call may be over before its first turn was kept: then its caller's words are all of it.
        self._resumes = self._snapshot.turn > 0 or (self.resumed and bool(self._asked))
        self._pending: PendingContext | None = None
        self._listens = False
        self._unanswered = ""
        self._has_voice = self._llm_done = False
        self._greeting = Greeting()
        self._writer = Writer(
            recorders.store,
            call_id,
            found.taken.fence,
            recorders.keep_seconds,
            self._packed,
            self.lost,
        )

    @property
    def line(self) -> Line | None:
        """The line to the caller's client; None where there is none that answers."""
        return self._functions.line

    @line.setter
    def line(self, line: Line | None) -> None:
        self._functions.line = line

    @property
    def is_pending(self) -> bool:
        """Whether a call that was taken over has not gone on yet."""
        return self._resumes

    @property
    def asked(self) -> str | None:
        """The caller's last words that the conversation has, for their client to know of it."""
        return self._asked or self._was_asked

    def progress(self) -> str | None:
        """What was sent of the reply since this was last asked, signed for the client."""
        if self._context is None:
            return None  # The journal is still that of another machine's turn.
        return self._progress.of(self._journal.turn, self._journal.words)

    # What the service tells.

    def on_start(self, service: RecordedService) -> None:
        """Listen to the pipeline from now on: what the first turn answers is said before it."""
        if not self._listens:
            self._listens = True
            self._has_voice = listen(service.pipeline_worker.pipeline, self)

    async def on_turn_start(
        self, service: RecordedService, context: LLMContext
    ) -> ResumePoint | None:
        """Take note of a turn that begins; after a takeover, put the past in its place."""
        whole = self._llm_done or self._journal.complete  # else the caller has not had it all
        answered = whole and not self._unanswered and context is self._context
        opened = self._snapshot.opened_with
        if await self._greeting.comes_too_late(context, opened, answered=answered):
            return ResumePoint(must_answer=False)
        if self._pending is not None:
            self._pending.pay(finally_=True)
            self._pending = None
        past: ResumePoint | None = None
        self.on_start(service)
        if service is not self._service and self._context not in (None, context):
            logger.warning(
                "Two services with contexts of their own are kept as one conversation, that of "
                "whichever spoke last: give the one that is not the caller's recorder=False"
            )
        self._service = service
        if not self._snapshot.turn:
            opening = list(context.get_messages())
            marks = await to_thread_if_large(lambda: opened_with(opening), opening)
            self._snapshot.opened_with = marks
        if self._resumes:
            past = await self._resume(service, context)
            self._greeting.went_on(list(context.get_messages()))
        self._context, turn = context, max(self._snapshot.turn, self._functions.turn) + 1
        messages = list(context.get_messages())
        self._functions.started = unsettled(messages, self._functions.started, turn)
        self._snapshot = Snapshot(
            turn,
            messages,
            self._snapshot.opened_with,
            recorded_settings(cast(Any, service)._settings),
            service.ledger.snapshot(),
            self._snapshot.proof_key,
        )
        cut = past.spoken_so_far if past is not None else ""
        self._llm_done = False
        # Where nothing was said since, as after a function, the turn answers the same words still.
        asked, self._unanswered = self._unanswered or self._journal.asked, ""
        complete = past is not None and not past.must_answer
        self._journal = Journal(turn, cut, complete, asked)
        if cut:
            self._pending = PendingContext(context, messages[-1] if messages else None, cut)
        self._writer.soon("snapshot", "journal", "calls")
        return past

    def on_text(self, words: str) -> None:
        """Take note of words that were just handed to the voice."""
        if self._pending is not None:
            self._pending.goes_on(words)
        if not self._has_voice:
            self._says(self._journal.words + words)

    async def on_function_calls(
        self, calls: Sequence[PlannedCall], *, repeatable: Collection[str] = ()
    ) -> Collection[str]:
        """Take note of functions before they start, see `FunctionNotes.start`."""
        return await self._functions.start(
            calls,
            self._snapshot.turn,
            self._journal.asked or last_asked(self._snapshot.messages) or "",
            lambda: self._writer.noted("calls", "journal"),
            repeatable,
        )

    async def on_function_result(self, call_id: str, result: object) -> None:
        """Take note of a function's result before anyone else learns of it.

        Args:
            call_id: The call.
            result: What the model reads.
        """
        if (call := self._functions.started.get(call_id)) is not None:
            # As Pipecat writes it into the context.
            call.result = (
                await to_thread_if_large(lambda: "".join(pieces(result, ascii=False)), result)
                if result
                else "COMPLETED"
            )
            call.settled = self._service is not None and self._service.ledger.has_settled(call_id)
            await self._writer.now("calls")

    async def on_turn_end(self, *, complete: bool) -> None:
        """Take note of the end of a turn."""
        self._llm_done = complete
        if not self._has_voice:
            self._journal.complete = complete
        self._writer.soon("journal")

    # What the pipeline shows.

    def on_user_text(self, words: str) -> None:
        """Take note of the caller's words, which the next turn answers."""
        self._unanswered = f"{self._unanswered} {words.strip()}".strip()[-ASKED_LONGEST:]

    def on_bot_text(self, text: str, spaced: bool) -> None:
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

    def on_bot_silent(self) -> None:
        """Take note that nothing is spoken any more: a reply that is at its end has ended."""
        if self._has_voice and self._llm_done and not self._journal.complete:
            self._journal.complete = True
            self._writer.soon("journal")

    def on_context_updated(self) -> None:
        """Take note that the words of a turn have come into the context."""
        if self._pending is not None and self._pending.pay(finally_=False):
            self._pending = None

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

    async def _resume(self, service: RecordedService, context: LLMContext) -> ResumePoint:
        turn = self._snapshot.turn
        sent = proven(self._snapshot.proof_key, self.id, turn, self._claims.sent)
        journal, heard = believed(self._journal, turn, self._claims.heard, sent)
        while True:
            fresh = list(context.get_messages())
            known = self._snapshot, fresh

            def work(fresh: list[LLMContextMessage] = fresh) -> tuple[Any, ResumePoint]:
                return resume(
                    self._snapshot,
                    journal,
                    self._functions.started,
                    fresh,
                    heard=heard,
                    ended=self._claims.ended,
                    asked=self._asked,
                    called_for=self._functions.asked,
                )

            messages, past = await to_thread_if_large(work, known)
            if list(map(id, context.get_messages())) == list(map(id, fresh)):
                break  # else words of the caller's have come meanwhile
        self._resumes = False
        self._journal.asked = self._asked or self._journal.asked
        context.set_messages(messages)
        service.ledger.restore(self._snapshot.ledger)
        remember = service.ledger.remember
        for call_id, call in self._functions.started.items():
            remember(call_id, call.name, call.arguments, call.repetition, call.settled)
        own: Any = service
        kind = cast("type[Any]", type(own._settings))
        await own._update_settings(settings_from(self._snapshot.settings, kind))
        logger.info(f"Took over a call in its turn {self._snapshot.turn}")
        return past

    # What is written.

    def _says(self, words: str) -> None:
        if len(words) > WORDS_MOST and "words" not in self._warned:
            self._warned.add("words")
            logger.warning(
                f"A reply is longer than is kept ({WORDS_MOST} characters): the rest of it would "
                "not survive its machine"
            )
        self._journal.words = words[:WORDS_MOST]
        self._writer.in_a_while("journal")

    async def _packed(self, name: str) -> bytes:
        kept = {
            "journal": self._journal,
            "calls": self._functions.started,
            "snapshot": self._snapshot,
        }
        return await packed(self._form, kept[name], self._recorders.limit, self._warned)
