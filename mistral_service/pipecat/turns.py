"""One turn: ask, say what comes, run what is called, and never end in silence."""

import asyncio
import math
from typing import Any, cast

from loguru import logger
from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage
from pipecat.utils.string import match_endofsentence

from mistral_service.pipecat.attempt import Attempt
from mistral_service.pipecat.needs import needs_of
from mistral_service.pipecat.ports import TurnPorts
from mistral_service.pipecat.tracing import trace_turn
from mistral_service.pipecat.turn_state import AttemptResult, TurnState
from mistral_service.reply.calls import Plan
from mistral_service.reply.speech import LAST_MOMENT_S, Sentences
from mistral_service.settings import given
from mistral_service.turn.deadline import now
from mistral_service.turn.prices import total
from mistral_service.turn.retries import Attempts, Handled
from mistral_service.turn.silence import Silence
from mistral_service.wire.client import error_of
from mistral_service.wire.errors import MistralError, Reason

# Ends of a reply without words that a second request would meet again.
_NOT_TRIED_AGAIN = ("length", "model_length", "content_filter")


class TurnRunner:
    """Runs the turns of one service."""

    def __init__(self, ports: TurnPorts) -> None:
        """Run turns.

        Args:
            ports: What they are given.
        """
        self._ports = ports
        self._attempt = Attempt(ports)
        self._router = ports.router
        self._frames = ports.frames
        self._recorder = ports.recorder

    async def run(self, context: LLMContext) -> None:
        """Ask until there is speech or an action.

        Args:
            context: The conversation.

        Raises:
            MistralError: If there is neither within the turn's budget.
        """
        recorder, ledger = self._recorder, self._ports.functions.ledger
        past = (
            None if recorder is None else await recorder.on_turn_start(self._ports.owner, context)
        )
        if past is not None and not past.must_answer:
            return  # Another machine has answered.
        complete = False
        turn = self._begin(context)
        asked, attempts = turn.context, turn.attempts
        reuses = self._ports.settings().repeated_calls == "reuse"
        ledger.repeated_calls = "reuse" if reuses else "run"
        if past is not None and past.spoken_so_far:
            turn.cut, turn.said = past.spoken_so_far, [past.spoken_so_far]
            turn.asked = _continued(asked, past.spoken_so_far)
        self._frames.begin()
        await self._ports.start_ttfb()
        asked_again = False
        try:
            while True:
                try:
                    reply = await self._attempt.make(turn)
                except Exception as e:
                    await self._after_fault(e, turn)
                    continue
                # A continuation that brings nothing new: the sentence was complete when it was cut.
                spoke = reply.spoke or self._attempt.is_speech(turn.cut)
                plan = await self._run_calls(context, reply, spoke=spoke, may=asked is context)
                unfinished = plan.repeated or reply.unreadable
                complete = plan.continues or (spoke and not unfinished)
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
            if self._ports.admission is not None:
                self._ports.admission.release()
            if self._recorder is not None:
                await self._recorder.on_turn_end(complete=complete)
            if self._ports.is_traced():
                trace_turn(turn)
            await self._frames.measure_usage(turn.usages)
            model = str(self._ports.settings().model)
            await self._frames.measure_turn(turn.counts, model, total(turn.costs))

    def _begin(self, context: LLMContext) -> TurnState:
        """A turn that begins now."""
        limits, began = self._ports.settings().limits(), now()
        within = self._ports.settings().sentence_within()
        spoken = self._ports.has_voice() and not math.isinf(within)
        # A voice gets its first sentence before the caller has waited too long.
        allowed = max(limits.turn, within + LAST_MOMENT_S) if spoken else limits.turn
        sentences = Sentences(within, match_endofsentence, began=began, silence=allowed)
        asked = self._to_be_asked(context)
        return TurnState(
            asked,
            Attempts(limits, began),
            self._router.choose(needs_of(context)),
            asked,
            sentences if spoken else None,
            Silence(limits, began, allowed, sentences if spoken else None),
        )

    def _to_be_asked(self, context: LLMContext) -> LLMContext:
        """The context; without functions, where the model has called them too often in a row."""
        rounds = self._ports.functions.ledger.rounds
        rounds.begin(
            cast(
                "list[dict[str, Any]]",
                [m for m in context.get_messages() if not isinstance(m, LLMSpecificMessage)],
            )
        )
        if not rounds.over(self._ports.settings().rounds()):
            return context
        logger.warning(
            f"{self._ports.name}: functions were called again and again, so the model has to speak"
        )
        return LLMContext(context.get_messages(), context.tools, "none")

    async def _run_calls(
        self, context: LLMContext, reply: AttemptResult, *, spoke: bool, may: bool
    ) -> Plan:
        """Start the calls of a reply, as far as they may run."""
        left_out = reply.end.calls_left_out
        plan = self._ports.functions.plan_calls(
            context, reply.calls, left_out, offered=reply.conversion.callable_names()
        )
        if plan.error:
            raise MistralError(Reason.CALL, plan.error)
        if plan.calls and not may:
            self._ports.functions.ledger.forget(plan.calls)
            if spoke:
                return Plan()
            names = ", ".join(sorted({call.name for call in plan.calls}))
            raise MistralError(
                Reason.CALL, f"{names} was called again and again, without a word to the caller"
            )
        if plan.calls:
            self._ports.functions.ledger.rounds.called(spoke=spoke)
        await self._ports.functions.start_calls(context, plan.calls)
        return plan

    async def _after_fault(self, exception: Exception, turn: TurnState) -> None:
        """Wait until the next attempt after a fault; raise it where there is none."""
        error = error_of(exception, self._router.client(turn.route))
        if error is None:
            raise exception
        if error.reason is Reason.TIMEOUT and not turn.timed_out:
            turn.timed_out = True
            await self._ports.emit("on_completion_timeout")
        await self._frames.end_thought()
        turn.correlation_id = error.correlation_id or turn.correlation_id
        self._attempt.pace.budget(error.budget, now())
        failed = turn.route
        turn.route, moved = self._router.failed(failed, error, needs_of(turn.context))
        said = "".join(turn.said)
        spoke = self._attempt.is_speech(said)
        turn.cut = said if spoke else ""
        turn.asked = _continued(turn.context, said) if spoke else turn.context
        again = turn.attempts.after(
            error, now(), silent_since=turn.silence.since if spoke else None, moved=moved
        )
        if again is None:
            raise self._router.final_error(failed, error) from None
        done = "moved" if moved else "resumed" if spoke else "retried"
        await self._attempt.handled(
            turn, error, Handled(done, turn.attempts.made, again.delay, turn.route.model)
        )
        await asyncio.sleep(again.delay)

    async def _say_that_nothing_came(self, reply: AttemptResult, plan: Plan) -> None:
        """The way out of a turn in which the model, asked twice, has said nothing new."""
        words = given(self._ports.settings().empty_reply_text)
        if words and not reply.spoke:
            await self._attempt.write(words)
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

    def _reminded(
        self, context: LLMContext, plan: Plan, reply: AttemptResult, said: str
    ) -> LLMContext:
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
