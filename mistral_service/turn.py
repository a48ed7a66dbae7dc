"""One turn: ask, say what comes, run what is called, and never end in silence."""

import asyncio
import time
from typing import Any

from pipecat.frames.frames import LLMRunFrame, StartFrame
from pipecat.processors.aggregators.llm_context import LLMContext

from mistral_service.asking import Asking, Reply, Turn
from mistral_service.costs import total
from mistral_service.reply.attempts import Attempts, Handled
from mistral_service.reply.calls import Plan
from mistral_service.reply.events import Text
from mistral_service.settings import given
from mistral_service.surroundings import Keeper
from mistral_service.tracing import trace_turn
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
        attempts = Attempts(self._settings.limits(), time.monotonic())
        turn = Turn(context, attempts, self.choose_route(context), asked=context)
        self._ledger.repeated_calls = "reuse" if self._settings.repeated_calls == "reuse" else "run"
        if past is not None and past.cut:
            turn.cut, turn.said = past.cut, [past.cut]
            turn.asked = _continued(context, past.cut)
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
                plan = self.plan_calls(context, reply.calls)
                if plan.error:
                    raise MistralError(Reason.CALL, plan.error)
                await self.start_calls(context, plan.calls)
                # A continuation that brings nothing new: the sentence was complete when it was cut.
                spoke = reply.spoke or self.is_speech(turn.cut)
                complete = plan.leads_on or (spoke and not plan.repeated)
                if complete:
                    return
                if asked_again or reply.end.reason in _NOT_TRIED_AGAIN:
                    await self._say_that_nothing_came(reply, plan)
                    complete = True
                    return
                asked_again, turn.cut = True, ""
                turn.counts.attempts += 1
                turn.context = _reminded(context, plan) if plan.repeated else context
                turn.asked = turn.context
        finally:
            if self._keeper is not None:
                await self._keeper.ends(complete=complete)
            if self._tracing_enabled:
                trace_turn(turn)
            await self.measure_usage(turn.usages)
            await self.measure_turn(turn.counts, total(turn.costs))

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
        self._pace.budget(error.budget, time.monotonic())
        failed = turn.route
        turn.route, moved = self.failed(failed, error, turn.context)
        turn.cut = "".join(turn.said)
        spoke = bool(turn.cut.strip())
        turn.asked = _continued(turn.context, turn.cut) if spoke else turn.context
        again = turn.attempts.after(error, time.monotonic(), spoke=spoke, moved=moved)
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
        raise MistralError(Reason.EMPTY, f"the reply ended with {reply.end.reason!r}")


def _continued(context: LLMContext, words: str) -> LLMContext:
    """The context, for a reply that was cut after some words to go on from them.

    The rules send the words as a prefix where the API takes one. Beside functions it does not, and
    the model is asked to go on.
    """
    cut: Any = {"role": "assistant", "content": words}
    return LLMContext([*context.get_messages(), cut], context.tools, context.tool_choice)


def _reminded(context: LLMContext, plan: Plan) -> LLMContext:
    """The context, with a word to a model that calls again what has been answered."""
    names = ", ".join(sorted({call.name for call in plan.repeated}))
    note: Any = {
        "role": "developer",
        "content": f"You have called {names} already, and the result stands above. "
        "Do not call it again: answer from it.",
    }
    return LLMContext([*context.get_messages(), note], context.tools, context.tool_choice)
