"""Records one call in Redis, so that another machine can take the conversation over.

A turn is recorded when it begins, its words while they are spoken, its functions before they start
and when they return. Only the start of a function waits for Redis. While Redis is down the
conversation goes on, and the first write after that writes everything.
"""

import asyncio
import secrets
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, cast

from loguru import logger
from pipecat.processors.aggregators.llm_context import LLMContext

from mistral_service.reply.calls import PlannedCall
from mistral_service.scale.after_takeover import Greeting, PendingContext
from mistral_service.scale.bounds import MAX_WORDS
from mistral_service.scale.client_report import ClientReport, Progress, verified_words
from mistral_service.scale.function_notes import ClientLink, FunctionNotes
from mistral_service.scale.incremental_json import iterencode
from mistral_service.scale.pipeline_taps import add_taps
from mistral_service.scale.record import Record, pack_field, to_thread_if_large
from mistral_service.scale.recordable_settings import recorded_settings, restored_settings
from mistral_service.scale.resume import (
    MAX_ASKED,
    last_asked,
    opening_digests,
    reconcile,
    resume,
    without_result,
)
from mistral_service.scale.sealing import Codec
from mistral_service.scale.snapshot import Journal, Snapshot
from mistral_service.scale.store import Claim, Store
from mistral_service.scale.writer import Writer
from mistral_service.turn.shared_services import RecordedService, ResumePoint


class CallRecorder:
    """Records one call.

    Attributes:
        id: The call's id.
        resumed: Whether the call was taken over.
        history_lost: Whether the call was recorded, and the record could not be read.
        ownership_lost: Set when the call belongs to another machine, or is over.
        is_pending: Whether a call that was taken over has not resumed yet.
        client: The caller's client; None where it can store no note.
    """

    def __init__(
        self,
        call_id: str,
        claim: Claim,
        record: Record,
        report: ClientReport,
        *,
        store: Store,
        codec: Codec,
        keep_seconds: float,
        limit: int,
        history_lost: bool = False,
    ) -> None:
        self.id = call_id
        self.resumed = claim.known
        self.history_lost = history_lost
        self.ownership_lost = asyncio.Event()
        self.client: ClientLink | None = None
        self._codec = codec
        self._limit = limit
        self._report = report
        self._context: LLMContext | None = None
        self._service: RecordedService | None = None
        self._snapshot, self._journal = record.snapshot, record.journal
        self._recorded_asked = record.asked
        self._functions = FunctionNotes(call_id, codec, self.ownership_lost, record.started, claim)
        self._functions.restore(report.note, self._snapshot.turn)
        asked = "" if self._snapshot.turn else self._functions.asked
        self._asked = (report.asked or "").strip() or asked
        self._warned: set[str] = set()
        self._snapshot.proof_key = self._snapshot.proof_key or secrets.token_hex(16)
        self._progress = Progress(self._snapshot.proof_key, call_id)
        # A machine may die before the first turn is recorded: then the user's words are all of it.
        self.is_pending = self._snapshot.turn > 0 or (self.resumed and bool(self._asked))
        self._cut_reply: PendingContext | None = None
        self._has_taps = False
        self._unanswered = ""
        self._has_tts = self._llm_done = False
        self._greeting = Greeting()
        self._writer = Writer(
            store, call_id, claim.fence, keep_seconds, self._pack, self.ownership_lost
        )

    @property
    def asked(self) -> str | None:
        """The user's last words in the conversation, for the client to compare."""
        return self._asked or self._recorded_asked

    def progress(self) -> str | None:
        """The message to the client with the new words of the reply and their proof."""
        if self._context is None:
            return None  # The journal is still that of another machine's turn.
        return self._progress.message(self._journal.turn, self._journal.words)

    # Called by the service.

    def on_start(self, service: RecordedService) -> None:
        """Listen to the pipeline: the words that the first turn answers come before it."""
        if not self._has_taps:
            self._has_taps = True
            self._has_tts = add_taps(
                service.pipeline_worker.pipeline,
                on_user_text=self._on_user_text,
                on_bot_text=self._on_bot_text,
                on_bot_silent=self._on_bot_silent,
                on_context_updated=self._on_context_updated,
            )

    async def on_turn_start(
        self, service: RecordedService, context: LLMContext
    ) -> ResumePoint | None:
        """Record the beginning of a turn; after a takeover, restore the conversation."""
        complete = self._llm_done or self._journal.complete
        answered = complete and not self._unanswered and context is self._context
        opened = self._snapshot.opened_with
        if await self._greeting.drop_if_redundant(context, opened, answered=answered):
            return ResumePoint(must_answer=False)
        if self._cut_reply is not None:
            self._cut_reply.merge(final=True)
            self._cut_reply = None
        point: ResumePoint | None = None
        self.on_start(service)
        if service is not self._service and self._context not in (None, context):
            logger.warning(
                "Two services with contexts of their own share one recorder, which records the "
                "one that spoke last: give the one that the caller does not hear recorder=False"
            )
        self._service = service
        if not self._snapshot.turn:
            opening = list(context.get_messages())
            digests = await to_thread_if_large(lambda: opening_digests(opening), opening)
            self._snapshot.opened_with = digests
        if self.is_pending:
            point = await self._resume(service, context)
            self._greeting.on_resumed(list(context.get_messages()))
        self._context, turn = context, max(self._snapshot.turn, self._functions.turn) + 1
        messages = list(context.get_messages())
        self._functions.started = without_result(messages, self._functions.started, turn)
        self._snapshot = Snapshot(
            turn,
            messages,
            self._snapshot.opened_with,
            recorded_settings(cast(Any, service)._settings),
            service.ledger.snapshot(),
            self._snapshot.proof_key,
        )
        cut = point.spoken_so_far if point is not None else ""
        self._llm_done = False
        # Without new words, as after a function, the turn answers the same words.
        asked, self._unanswered = self._unanswered or self._journal.asked, ""
        complete = point is not None and not point.must_answer
        self._journal = Journal(turn, cut, complete, asked)
        if cut:
            self._cut_reply = PendingContext(context, messages[-1] if messages else None, cut)
        self._writer.write_soon("snapshot", "journal", "calls")
        return point

    def on_text(self, words: str) -> None:
        """Record words that were sent to the TTS service or the client."""
        if self._cut_reply is not None:
            self._cut_reply.on_continuation(words)
        if not self._has_tts:
            self._record_words(self._journal.words + words)

    async def on_function_calls(
        self, calls: Sequence[PlannedCall], *, repeatable: Collection[str] = ()
    ) -> Collection[str]:
        """Note functions before they start, see `FunctionNotes.start`."""
        return await self._functions.start(
            calls,
            self._snapshot.turn,
            self._journal.asked or last_asked(self._snapshot.messages) or "",
            lambda: self._writer.write_confirmed("calls", "journal"),
            self.client,
            repeatable,
        )

    async def on_function_result(self, call_id: str, result: object) -> None:
        """Record a function's result before the pipeline gets it."""
        if (call := self._functions.started.get(call_id)) is not None:
            # As Pipecat writes it into the context.
            call.result = (
                await to_thread_if_large(lambda: "".join(iterencode(result, ascii=False)), result)
                if result
                else "COMPLETED"
            )
            call.settled = self._service is not None and self._service.ledger.has_settled(call_id)
            await self._writer.write_now("calls")

    async def on_turn_end(self, *, complete: bool) -> None:
        """Record the end of a turn."""
        self._llm_done = complete
        if not self._has_tts:
            self._journal.complete = complete
        self._writer.write_soon("journal")

    # Called by the taps of the pipeline.

    def _on_user_text(self, words: str) -> None:
        """Record the user's words, which the next turn answers."""
        self._unanswered = f"{self._unanswered} {words.strip()}".strip()[-MAX_ASKED:]

    def _on_bot_text(self, text: str, spaced: bool) -> None:
        """Record words that were spoken; `spaced` ones contain the spaces between them."""
        if self._context is None:
            return  # Words before the first turn belong to no turn.
        before = self._journal.words
        needs_space = before and not spaced and not before[-1].isspace()
        self._journal.complete = False
        self._record_words(before + (" " if needs_space else "") + text)

    def _on_bot_silent(self) -> None:
        """Record that a complete reply has been spoken to its end."""
        if self._has_tts and self._llm_done and not self._journal.complete:
            self._journal.complete = True
            self._writer.write_soon("journal")

    def _on_context_updated(self) -> None:
        """Put the words of a cut reply before their continuation in the context."""
        if self._cut_reply is not None and self._cut_reply.merge(final=False):
            self._cut_reply = None

    async def close(self, *, over: bool) -> None:
        """Stop recording.

        The record of a call that is over is deleted. Otherwise it is written once more, for another
        machine.
        """
        await self._writer.close(finish=not over)
        if over:
            await self._writer.delete()

    async def _resume(self, service: RecordedService, context: LLMContext) -> ResumePoint:
        turn = self._snapshot.turn
        sent = verified_words(self._snapshot.proof_key, self.id, turn, self._report.sent)
        journal, heard = reconcile(self._journal, turn, self._report.heard, sent)
        while True:
            fresh = list(context.get_messages())
            work = partial(
                resume,
                self._snapshot,
                journal,
                self._functions.started,
                fresh,
                heard=heard,
                ended=self._report.ended,
                asked=self._asked,
                called_for=self._functions.asked,
            )
            messages, point = await to_thread_if_large(work, (self._snapshot, fresh))
            if list(map(id, context.get_messages())) == list(map(id, fresh)):
                break  # else the user has said something meanwhile
        self.is_pending = False
        self._journal.asked = self._asked or self._journal.asked
        context.set_messages(messages)
        service.ledger.restore(self._snapshot.ledger)
        remember = service.ledger.remember
        for call_id, call in self._functions.started.items():
            remember(call_id, call.name, call.arguments, call.repetition, call.settled)
        own: Any = service
        kind = cast("type[Any]", type(own._settings))
        await own._update_settings(restored_settings(self._snapshot.settings, kind))
        logger.info(f"Took over a call in its turn {self._snapshot.turn}")
        return point

    def _record_words(self, words: str) -> None:
        if len(words) > MAX_WORDS and "words" not in self._warned:
            self._warned.add("words")
            logger.warning(
                f"A reply is longer than is recorded ({MAX_WORDS} characters): a takeover would "
                "lose the rest of it"
            )
        self._journal.words = words[:MAX_WORDS]
        self._writer.write_throttled("journal")

    async def _pack(self, name: str) -> bytes:
        values = {
            "journal": self._journal,
            "calls": self._functions.started,
            "snapshot": self._snapshot,
        }
        return await pack_field(self._codec, values[name], self._limit, self._warned)
