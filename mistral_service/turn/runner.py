"""One turn: ask, write what comes, run what is called, and never end in silence."""

import asyncio
import math
from typing import Generic, Literal

from loguru import logger

from mistral_service.reply.calls import Plan
from mistral_service.reply.speech import LAST_MOMENT_S, Sentences
from mistral_service.turn.attempt import Attempt
from mistral_service.turn.deadline import now
from mistral_service.turn.ports import TurnPorts
from mistral_service.turn.retries import Attempts, Handled
from mistral_service.turn.silence import Silence
from mistral_service.turn.state import AttemptResult, C, TurnState
from mistral_service.wire.client import error_of
from mistral_service.wire.errors import MistralError, Reason

# Ends of a reply without words that a second request would meet again.
_LIMITED = ("length", "model_length", "content_filter")


class TurnRunner(Generic[C]):
    """Runs the turns of one service."""

    def __init__(self, ports: TurnPorts[C]) -> None:
        self._ports = ports
        self._attempt = Attempt(ports)
        self._router = ports.router
        self._output = ports.output
        self._functions = ports.functions
        self._recorder = ports.recorder

    async def run(self, conversation: C) -> AttemptResult | None:
        """Ask until there is speech or an action; a `MistralError` if the budget ends before.

        Returns:
            The reply that ended the turn; None where another machine has answered already.
        """
        resumed = None if self._recorder is None else await self._recorder.begin(conversation)
        if resumed is not None and not resumed.must_answer:
            return None
        turn = self._begin(conversation)
        asked, may_call = turn.conversation, turn.conversation is conversation
        if resumed is not None and resumed.spoken_so_far:
            turn.said = [resumed.spoken_so_far]
            self._go_on(turn)
        self._output.begin()
        await self._ports.observer.on_begin()
        complete = asked_again = False
        try:
            while True:
                try:
                    reply = await self._attempt.make(turn)
                except Exception as e:
                    await self._after_fault(e, turn)
                    continue
                # A continuation that brings nothing new: the sentence was complete when it was cut.
                spoke = reply.spoke or self._output.is_speech(turn.cut)
                plan = await self._run_calls(conversation, reply, spoke=spoke, may_call=may_call)
                unfinished = plan.repeated or reply.unreadable
                complete = plan.continues or (spoke and not unfinished)
                if complete or (not unfinished and _may_be_empty(reply, turn)):
                    return reply
                over = asked_again or reply.end.reason in _LIMITED
                if over or not turn.attempts.again(now()):
                    await self._end_without_answer(reply, plan, turn)
                    complete = True
                    return reply
                if not reply.spoke and self._output.discard():
                    turn.said.clear()
                asked_again, turn.cut = True, ""
                turn.counts.attempts += 1
                turn.conversation = turn.asked = _reminded(asked, plan, reply, "".join(turn.said))
        finally:
            self._output.end()
            if self._ports.admission is not None:
                self._ports.admission.release()
            if self._recorder is not None:
                await self._recorder.end(complete=complete)
            await self._ports.observer.on_end(turn)

    def _begin(self, conversation: C) -> TurnState[C]:
        """A turn that begins now."""
        options, began = self._ports.options(), now()
        limits, within = options.limits, options.sentence_within
        spoken = self._output.has_voice and not math.isinf(within)
        # A voice gets its first sentence before the caller has waited too long.
        allowed = max(limits.turn, within + LAST_MOMENT_S) if spoken else limits.turn
        sentences = None
        if spoken:
            ends = self._output.end_of_sentence
            sentences = Sentences(within, ends, began=began, silence=allowed)
        asked = conversation
        if not self._functions.begin(conversation, options):
            asked = conversation.without_functions()
            logger.warning(
                f"{self._ports.name}: functions were called again and again, so the model has to "
                "speak"
            )
        return TurnState(
            options,
            asked,
            Attempts(limits, began),
            self._router.choose(conversation.needs),
            asked,
            sentences,
            Silence(limits, began, allowed, sentences),
        )

    def _go_on(self, turn: TurnState[C]) -> Literal["resumed", "retried"] | None:
        """Ask for the rest of a reply that was cut, or for all of it; None where neither can be."""
        said = "".join(turn.said)
        turn.cut, turn.asked = "", turn.conversation
        spoke = self._output.is_speech(said)
        rest = turn.conversation.continued(said) if spoke else None
        if rest is not None:
            turn.cut, turn.asked = said, rest
            return "resumed"
        if self._output.discard():
            turn.said.clear()
        elif spoke:
            return None
        return "retried"

    async def _run_calls(
        self, conversation: C, reply: AttemptResult, *, spoke: bool, may_call: bool
    ) -> Plan:
        """Start the calls of a reply, as far as they may run."""
        plan = self._functions.plan(
            conversation,
            reply.calls,
            reply.end.calls_left_out,
            offered=reply.conversion.callable_names(),
        )
        if plan.error:
            raise MistralError(Reason.CALL, plan.error)
        if plan.calls and not may_call:
            self._functions.forget(plan.calls)
            if spoke:
                return Plan()
            names = ", ".join(sorted({call.name for call in plan.calls}))
            raise MistralError(
                Reason.CALL, f"{names} was called again and again, without a word to the caller"
            )
        await self._functions.start(conversation, plan.calls, spoke=spoke)
        return plan

    async def _after_fault(self, exception: Exception, turn: TurnState[C]) -> None:
        """Wait until the next attempt after a fault; raise it where there is none."""
        await self._output.flush()
        error = error_of(exception, self._router.client(turn.route))
        if error is None:
            raise exception
        if error.reason is Reason.TIMEOUT and not turn.timed_out:
            turn.timed_out = True
            await self._ports.observer.on_timeout()
        turn.correlation_id = error.correlation_id or turn.correlation_id
        self._ports.pace.budget(error.budget, now())
        failed, needs = turn.route, turn.conversation.needs
        turn.route, moved = self._router.failed(failed, error, needs)
        done = self._go_on(turn)
        silent_since = turn.silence.since if done == "resumed" else None
        delay = turn.attempts.after(error, now(), silent_since=silent_since, moved=moved)
        if done is None or delay is None:
            raise self._router.final_error(failed, error) from None
        await self._attempt.handled(
            turn,
            error,
            Handled("moved" if moved else done, turn.attempts.made, delay, turn.route.model),
        )
        await asyncio.sleep(delay)

    async def _end_without_answer(
        self, reply: AttemptResult, plan: Plan, turn: TurnState[C]
    ) -> None:
        """The way out of a turn in which the model, asked twice, has said nothing new."""
        if turn.options.empty_reply_text and not reply.spoke:
            await self._output.write_text(turn.options.empty_reply_text)
            await self._output.flush()
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


def _may_be_empty(reply: AttemptResult, turn: TurnState[C]) -> bool:
    """Whether a reply without words is an answer."""
    allowed = turn.options.empty_replies
    return allowed == "all" or (allowed == "limited" and reply.end.reason in _LIMITED)


def _reminded(conversation: C, plan: Plan, reply: AttemptResult, said: str) -> C:
    """The conversation for the second request, with what was wrong with the first reply."""
    if not plan.repeated and not reply.unreadable:
        return conversation
    names = ", ".join(sorted({call.name for call in plan.repeated}))
    note = (
        f"You have called {names} already, and the result stands above. "
        "Do not call it again: answer from it."
        if names
        else "Your last message held a function call that could not be read, so that nothing "
        "ran. Call the function again in the form that the system expects, or answer in words."
    )
    return conversation.reminded(note, said)
