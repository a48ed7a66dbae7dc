"""One turn: ask, say what comes, run what is called, and never end in silence."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from loguru import logger
from openai import AsyncStream
from pipecat.processors.aggregators.llm_context import LLMContext

from mistral_service.conversation.adapter import MistralLLMAdapter
from mistral_service.conversation.run import Run
from mistral_service.functions import FunctionCalls
from mistral_service.reply.attempts import Attempts
from mistral_service.reply.calls import Plan
from mistral_service.reply.events import Event, Finish, Text, Thought, ToolCall
from mistral_service.reply.overlap import Overlap
from mistral_service.reply.prefix import RepeatedPrefix
from mistral_service.reply.reader import ReplyReader
from mistral_service.settings import MistralLLMSettings, given
from mistral_service.voice import Voice
from mistral_service.wire.chunks import Usage
from mistral_service.wire.client import error_of, read_chunks
from mistral_service.wire.errors import MistralError, Reason

# How much longer a stream may pause where functions are offered: a call of some hundred tokens
# takes Mistral's models two or three seconds to write.
_CALLS_TAKE_LONGER = 3

# Ends of a reply without words that a second request would meet again.
_NOT_TRIED_AGAIN = ("length", "model_length", "content_filter")


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request has brought.

    Parameters:
        spoke: Whether words were said.
        calls: The functions that were called.
        end: How it ended.
    """

    spoke: bool
    calls: list[ToolCall]
    end: Finish


class Turns(Voice, FunctionCalls):
    """Answers turns with what `get_chat_completions` brings."""

    _settings: MistralLLMSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    async def answer(self, context: LLMContext) -> None:
        """Ask until the turn leads somewhere; however it ends, it is not in silence."""
        usages: list[Usage] = []
        said: list[str] = []
        attempts = Attempts(self._settings.limits(), time.monotonic())
        self._ledger.repeated_calls = "reuse" if self._settings.repeated_calls == "reuse" else "run"
        await self.start_ttfb_metrics()
        asked, cut, asked_again = context, "", False
        self._thinking = False  # an interrupted thought is over
        timed_out = False
        try:
            while True:
                try:
                    reply = await self._ask(context, asked, cut, said, usages, attempts)
                except Exception as e:
                    cut = "".join(said)
                    timed_out = await self._after_fault(e, cut, attempts, timed_out)
                    asked = _continued(context, cut) if cut.strip() else context
                    continue
                if reply.end.reason == "error":
                    raise MistralError(Reason.STREAM, "the reply ended with 'error'")
                plan = self.plan_calls(context, reply.calls)
                if plan.error:
                    raise MistralError(Reason.CALL, plan.error)
                await self.start_calls(context, plan.calls)
                # A continuation that brings nothing new: the sentence was complete when it was cut.
                spoke = reply.spoke or bool(cut.strip())
                if plan.leads_on or (spoke and not plan.repeated):
                    return
                if asked_again or reply.end.reason in _NOT_TRIED_AGAIN:
                    await self._say_that_nothing_came(reply, plan)
                    return
                asked_again, cut = True, ""
                asked = _reminded(context, plan) if plan.repeated else context
        finally:
            await self.measure_usage(usages)

    async def _ask(
        self,
        context: LLMContext,
        asked: LLMContext,
        cut: str,
        said: list[str],
        usages: list[Usage],
        attempts: Attempts,
    ) -> Reply:
        """Send one request and say what comes, as it comes."""
        loop = asyncio.get_running_loop()
        first_until = loop.time() + attempts.first_token_within(time.monotonic())
        began = False
        deadline: asyncio.Timeout | None = None
        stall = attempts.limits.stall
        try:
            async with asyncio.timeout_at(first_until) as deadline:
                stream = await self.get_chat_completions(asked)
                run = self._rules_run
                reader = ReplyReader()
                # Beside functions a stream is silent while the model writes a call: calls come
                # whole.
                stall = attempts.limits.stall * (_CALLS_TAKE_LONGER if run.has_tools else 1)
                before = len(said)
                new = _New(run.prefix, cut)
                try:
                    async with aclosing(read_chunks(stream)) as chunks:
                        async for chunk in chunks:
                            # What has come is said in peace: the deadlines are the server's.
                            deadline.reschedule(None)
                            for event in reader.feed(chunk):
                                began = True
                                await self._tell(event, new, said)
                            if reader.calling:
                                began = True
                                await self.measure_call()
                            until = loop.time() + stall if began else first_until
                            deadline.reschedule(until)
                finally:
                    # An interruption cancels this task: the connection closes here, first of all.
                    await _close(stream)
                    if reader.model:
                        self.set_full_model_name(reader.model)
                    if reader.usage:
                        usages.append(reader.usage)
        except TimeoutError:
            if deadline is None or not deadline.expired():
                raise  # a time limit of somebody else's
            waited = stall if began else attempts.limits.first_token
            what = "nothing more came" if began else "no first token came"
            raise MistralError(Reason.TIMEOUT, f"{what} in {waited:g} s") from None
        if rest := new.finish():
            said.append(rest)
            await self.say(Text(rest))
        await self.end_thought()
        *calls, end = reader.finish()
        called = [_as_in_context(call, run) for call in calls if isinstance(call, ToolCall)]
        return Reply(self._is_speech("".join(said[before:])), called, cast(Finish, end))

    def _is_speech(self, words: str) -> bool:
        """Whether a caller hears anything of these words."""
        if self._filter_incomplete_user_turns:
            # The marker of a complete turn is taken out on the way; one of an incomplete turn
            # stands for a silence that the framework asked for.
            words = words.replace(self._user_turn_completion_config.complete_marker, "")
        return bool(words.strip())

    async def _tell(self, event: Event, new: "_New", said: list[str]) -> None:
        """Say what is new in an event."""
        if isinstance(event, Text):
            event = Text(new.feed(event.text))
            said.append(event.text)
        if isinstance(event, Text | Thought) and event.text:
            keep_thoughts = bool(given(self._settings.keep_thoughts))
            await self.say(event, keep_thoughts=keep_thoughts)

    async def _after_fault(
        self, exception: Exception, cut: str, attempts: Attempts, timed_out: bool
    ) -> bool:
        """Wait until the next attempt after a fault; raise it where there is none.

        Returns whether the turn has met a timeout, which is told to handlers once.
        """
        error = error_of(exception, self._client.api_key)
        if error is None:
            raise exception
        if error.reason is Reason.TIMEOUT and not timed_out:
            await self._call_event_handler(  # pyright: ignore[reportUnknownMemberType]
                "on_completion_timeout"
            )
        await self.end_thought()
        again = attempts.after(error, time.monotonic(), spoke=bool(cut.strip()))
        if again is None:
            raise error from None
        logger.warning(f"{self}: attempt {attempts.made} in {again.delay:.2f} s, after: {error}")
        await self._call_event_handler(  # pyright: ignore[reportUnknownMemberType]
            "on_fault_handled", error, attempts.made
        )
        await asyncio.sleep(again.delay)
        return timed_out or error.reason is Reason.TIMEOUT

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

    @property
    def _rules_run(self) -> Run:
        adapter: object = self.get_llm_adapter()
        return adapter.run_of_this_task if isinstance(adapter, MistralLLMAdapter) else Run()


class _New:
    """What is new in a reply that may repeat what was said before it."""

    def __init__(self, prefix: str, cut: str) -> None:
        self._prefix = RepeatedPrefix(prefix)
        # With a prefix the repetition is exact; without, the model was asked in words to go on.
        self._overlap = Overlap("" if prefix else cut)

    def feed(self, text: str) -> str:
        return self._overlap.feed(self._prefix.feed(text))

    def finish(self) -> str:
        return self._overlap.feed(self._prefix.finish()) + self._overlap.finish()


def _continued(context: LLMContext, words: str) -> LLMContext:
    """The context, for a reply that was cut after some words to go on from them.

    The rules send the words as a prefix where the API takes one. Beside functions it does not, and
    the model is asked to go on.
    """
    cut: Any = {"role": "assistant", "content": words}
    return LLMContext([*context.get_messages(), cut], context.tools, context.tool_choice)


def _as_in_context(call: ToolCall, run: Run) -> ToolCall:
    """A call with the ids and names that the context has, where Mistral was told others."""
    arguments = call.arguments
    for sent, original in run.call_ids.items():
        # A call may name another, as Pipecat's `cancel_…` functions do.
        arguments = arguments.replace(f'"{sent}"', json.dumps(original))
    call_id = run.call_ids.get(call.id, call.id) if call.id else None
    return ToolCall(call_id, run.names.get(call.name, call.name), arguments)


def _reminded(context: LLMContext, plan: Plan) -> LLMContext:
    """The context, with a word to a model that calls again what has been answered."""
    names = ", ".join(sorted({call.name for call in plan.repeated}))
    note: Any = {
        "role": "developer",
        "content": f"You have called {names} already, and the result stands above. "
        "Do not call it again: answer from it.",
    }
    return LLMContext([*context.get_messages(), note], context.tools, context.tool_choice)


async def _close(stream: AsyncStream[Any] | AsyncIterator[Any]) -> None:
    for name in ("close", "aclose"):
        close = getattr(stream, name, None)
        if close is not None:
            await close()
            return
