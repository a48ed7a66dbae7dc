"""One turn: ask, say what comes, run what is called, and never end in silence."""

import asyncio
import math
from typing import Any, cast

from loguru import logger
from pipecat.frames.frames import LLMRunFrame, StartFrame
from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage
from pipecat.utils.string import match_endofsentence

from mistral_service.conversation.run import Run
from mistral_service.pipecat.attempt import Asking, Reply, Turn
from mistral_service.pipecat.tracing import trace_turn
from mistral_service.reply.calls import Plan
from mistral_service.reply.events import Text
from mistral_service.reply.speech import LAST_MOMENT_S, Sentences
from mistral_service.settings import given
from mistral_service.surroundings import Keeper
from mistral_service.turn.deadline import now
from mistral_service.turn.prices import total
from mistral_service.turn.retries import Attempts, Handled
from mistral_service.turn.silence import Silence
from mistral_service.wire.client import error_of
from mistral_service.wire.errors import MistralError, Reason

# Ends of a reply without words that a second request would meet again.
_NOT_TRIED_AGAIN = ("length", "model_length", "content_filter")


_BOT_BEGINS_WITHIN = 0.25
"""Seconds in which a bot that greets has asked for its first turn."""


class Turns(Asking):
    """Answers turns with what `get_chat_completions` brings."""

    async def start(self, frame: StartFrame) -> None:
        """Begin to work; a call that was taken over goes on by itself.

        Args:
            frame: The frame that starts the pipeline.
        """
        await super().start(frame)
        if self._keeper is None:
            return
        self._keeper.starts(self)
        if self._keeper.waits:
            self.create_task(  # pyright: ignore[reportUnknownMemberType]
                self._take_up(self._keeper), "take_up"
            )

    async def _take_up(self, keeper: Keeper) -> None:
        """Ask for the turn that was cut, where neither the bot nor the caller begins one."""
        await asyncio.sleep(_BOT_BEGINS_WITHIN)
        if keeper.waits:
            await self.pipeline_worker.queue_frame(LLMRunFrame())

    async def answer(self, context: LLMContext) -> None:
        """Ask until the turn leads somewhere; however it ends, it is not in silence."""
        past = None if self._keeper is None else await self._keeper.begins(self, context)
        if past is not None and not past.answer:
            return  # Another machine has answered.
        complete = False
        turn = self._begin(context)
        asked, attempts = turn.context, turn.attempts
        self._ledger.repeated_calls = "reuse" if self._settings.repeated_calls == "reuse" else "run"
        if past is not None and past.cut:
            turn.cut, turn.said = past.cut, [past.cut]
            turn.asked = _continued(asked, past.cut)
        await self.start_ttfb_metrics()
        asked_again = False
        self._thinking = False  # an interrupted thought is over
        try:
            while True:
                try:
                    reply = await self.ask(turn)
                except Exception as e:
                    await self._after_fault(e, turn)
                    continue
                # A continuation that brings nothing new: the sentence was complete when it was cut.
                spoke = reply.spoke or self.is_speech(turn.cut)
                plan = await self._run_calls(
                    context, reply, turn.run, spoke=spoke, may=asked is context
                )
                unfinished = plan.repeated or reply.unreadable
                complete = plan.leads_on or (spoke and not unfinished)
                if complete:
                    return
                over = asked_again or reply.end.reason in _NOT_TRIED_AGAIN
                if over or not attempts.again(now()):
                    await self._say_that_nothing_came(reply, plan)
                    complete = True
                    return
                asked_again, turn.cut = True, ""
                turn.counts.attempts += 1
                turn.context = self._reminded(asked, plan, reply, "".join(turn.said))
                turn.asked = turn.context
        finally:
            if self._admission is not None:
                self._admission.leave()
            if self._keeper is not None:
                await self._keeper.ends(complete=complete)
            if self._tracing_enabled:
                trace_turn(turn)
            await self.measure_usage(turn.usages)
            await self.measure_turn(turn.counts, total(turn.costs))

    def _begin(self, context: LLMContext) -> Turn:
        """A turn that begins now."""
        limits, began = self._settings.limits(), now()
        within = self._settings.sentence_within()
        spoken = not (self._skip_tts or math.isinf(within))
        # A voice gets its first sentence before the caller has waited too long.
        allowed = max(limits.turn, within + LAST_MOMENT_S) if spoken else limits.turn
        sentences = Sentences(within, match_endofsentence, began=began, silence=allowed)
        asked = self._to_be_asked(context)
        return Turn(
            asked,
            Attempts(limits, began),
            self.choose_route(context),
            asked,
            sentences if spoken else None,
            Silence(limits, began, allowed, sentences if spoken else None),
        )

    def _to_be_asked(self, context: LLMContext) -> LLMContext:
        """The context; without functions, where the model has called them too often in a row."""
        rounds = self._ledger.rounds
        rounds.begin(
            cast(
                "list[dict[str, Any]]",
                [m for m in context.get_messages() if not isinstance(m, LLMSpecificMessage)],
            )
        )
        if not rounds.over(self._settings.rounds()):
            return context
        logger.warning(f"{self}: functions were called again and again, so the model has to speak")
        return LLMContext(context.get_messages(), context.tools, "none")

    async def _run_calls(
        self, context: LLMContext, reply: Reply, run: Run, *, spoke: bool, may: bool
    ) -> Plan:
        """Start the calls of a reply, as far as they may run."""
        left_out = reply.end.calls_left_out
        plan = self.plan_calls(context, reply.calls, left_out, offered=run.callable_names())
        if plan.error:
            raise MistralError(Reason.CALL, plan.error)
        if plan.calls and not may:
            self._ledger.forget(plan.calls)
            if spoke:
                return Plan()
            names = ", ".join(sorted({call.name for call in plan.calls}))
            raise MistralError(
                Reason.CALL, f"{names} was called again and again, without a word to the caller"
            )
        if plan.calls:
            self._ledger.rounds.called(spoke=spoke)
        await self.start_calls(context, plan.calls)
        return plan

    async def _after_fault(self, exception: Exception, turn: Turn) -> None:
        """Wait until the next attempt after a fault; raise it where there is none."""
        error = error_of(exception, self.client_of(turn.route))
        if error is None:
            raise exception
        if error.reason is Reason.TIMEOUT and not turn.timed_out:
            turn.timed_out = True
            await self._call_event_handler(  # pyright: ignore[reportUnknownMemberType]
                "on_completion_timeout"
            )
        await self.end_thought()
        turn.correlation_id = error.correlation_id or turn.correlation_id
        self._pace.budget(error.budget, now())
        failed = turn.route
        turn.route, moved = self.failed(failed, error, turn.context)
        said = "".join(turn.said)
        spoke = self.is_speech(said)
        turn.cut = said if spoke else ""
        turn.asked = _continued(turn.context, said) if spoke else turn.context
        again = turn.attempts.after(
            error, now(), silent_since=turn.silence.since if spoke else None, moved=moved
        )
        if again is None:
            raise self.told(failed, error) from None
        done = "moved" if moved else "resumed" if spoke else "retried"
        await self.handled(
            turn, error, Handled(done, turn.attempts.made, again.delay, turn.route.model)
        )
        await asyncio.sleep(again.delay)

    async def _say_that_nothing_came(self, reply: Reply, plan: Plan) -> None:
        """The way out of a turn in which the model, asked twice, has said nothing new."""
        words = given(self._settings.empty_reply_text)
        if words and not reply.spoke:
            await self.say(Text(words))
            return
        if plan.repeated:
            names = ", ".join(sorted({call.name for call in plan.repeated}))
            raise MistralError(
                Reason.CALL, f"{names} was called again, although its result was there"
            )
        if reply.unreadable:
            markup = reply.unreadable[0].markup
            raise MistralError(Reason.CALL, f"the model wrote a call that cannot be read: {markup}")
        raise MistralError(Reason.EMPTY, f"the reply ended with {reply.end.reason!r}")

    def _reminded(self, context: LLMContext, plan: Plan, reply: Reply, said: str) -> LLMContext:
        """The context for the second request, with a word on what was wrong with the first."""
        if not plan.repeated and not reply.unreadable:
            return context
        names = ", ".join(sorted({call.name for call in plan.repeated}))
        note = (
            f"You have called {names} already, and the result stands above. "
            "Do not call it again: answer from it."
            if names
            else "Your last message held a function call that could not be read, so that nothing "
            "ran. Call the function again in the form that the system expects, or answer in words."
        )
        added: list[Any] = [{"role": "developer", "content": note}]
        if said.strip():
            added.insert(0, {"role": "assistant", "content": said})
        messages = [*context.get_messages(), *added]
        return LLMContext(messages, context.tools, context.tool_choice)


def _continued(context: LLMContext, words: str) -> LLMContext:
    """The context, for a reply that was cut after some words to go on from them.

    The rules send the words as a prefix where the API takes one. Beside functions it does not, and
    the model is asked to go on.
    """
    cut: Any = {"role": "assistant", "content": words}
    return LLMContext([*context.get_messages(), cut], context.tools, context.tool_choice)
