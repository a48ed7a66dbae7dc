"""One turn: ask, say what comes, run what is called, and never end in silence."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from openai import AsyncStream
from pipecat.processors.aggregators.llm_context import LLMContext

from mistral_service.conversation.adapter import MistralLLMAdapter
from mistral_service.conversation.run import Run
from mistral_service.functions import FunctionCalls
from mistral_service.reply.calls import Plan
from mistral_service.reply.events import Finish, Text, Thought, ToolCall
from mistral_service.reply.prefix import RepeatedPrefix
from mistral_service.reply.reader import ReplyReader
from mistral_service.settings import MistralLLMSettings, given
from mistral_service.voice import Voice
from mistral_service.wire.chunks import Usage
from mistral_service.wire.client import read_chunks
from mistral_service.wire.errors import MistralError, Reason

# Ends of a reply without words that a second request would meet again.
_NOT_TRIED_AGAIN = ("length", "model_length", "content_filter")


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request has brought.

    Parameters:
        spoke: Whether words were said.
        plan: What is to be done about the calls.
        end: How it ended.
    """

    spoke: bool
    plan: Plan
    end: Finish


class Turns(Voice, FunctionCalls):
    """Answers turns with what `get_chat_completions` brings."""

    _settings: MistralLLMSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    async def answer(self, context: LLMContext) -> None:
        """Ask, and once more if the reply leads nowhere; however it ends, it is not in silence."""
        usages: list[Usage] = []
        self._ledger.repeated_calls = "reuse" if self._settings.repeated_calls == "reuse" else "run"
        await self.start_ttfb_metrics()
        asked = context
        try:
            for last in (False, True):
                reply = await self._ask(context, asked, usages)
                if reply.plan.error:
                    raise MistralError(Reason.CALL, reply.plan.error)
                await self.start_calls(context, reply.plan.calls)
                if reply.plan.leads_on or (reply.spoke and not reply.plan.repeated):
                    if reply.end.reason == "error":
                        raise MistralError(Reason.STREAM, "the reply ended with 'error'")
                    return
                if last or reply.end.reason in _NOT_TRIED_AGAIN:
                    await self._say_that_nothing_came(reply)
                    return
                asked = _reminded(context, reply.plan) if reply.plan.repeated else context
        finally:
            await self.measure_usage(usages)

    async def _ask(self, context: LLMContext, asked: LLMContext, usages: list[Usage]) -> Reply:
        """Send one request and say what comes, as it comes."""
        stream = await self.get_chat_completions(asked)
        run = self._rules_run
        reader, prefix = ReplyReader(), RepeatedPrefix(run.prefix)
        keep_thoughts = bool(given(self._settings.keep_thoughts))
        spoke = False
        try:
            async with aclosing(read_chunks(stream)) as chunks:
                async for chunk in chunks:
                    for event in reader.feed(chunk):
                        if isinstance(event, Text):
                            event = Text(prefix.feed(event.text))
                            spoke = spoke or bool(event.text.strip())
                        if isinstance(event, Text | Thought) and event.text:
                            await self.say(event, keep_thoughts=keep_thoughts)
                    if reader.calling:
                        await self.measure_call()
        finally:
            # An interruption cancels this task: the connection closes here, before anything else.
            await _close(stream)
            if reader.model:
                self.set_full_model_name(reader.model)
            if reader.usage:
                usages.append(reader.usage)
        if rest := prefix.finish():
            spoke = True
            await self.say(Text(rest))
        await self.end_thought()
        *calls, end = reader.finish()
        called = [_as_in_context(call, run) for call in calls if isinstance(call, ToolCall)]
        return Reply(spoke, self.plan_calls(context, called), cast(Finish, end))

    async def _say_that_nothing_came(self, reply: Reply) -> None:
        """The way out of a turn in which the model, asked twice, has said nothing new."""
        words = given(self._settings.empty_reply_text)
        if words and not reply.spoke:
            await self.say(Text(words))
            return
        if reply.plan.repeated:
            names = ", ".join(sorted({call.name for call in reply.plan.repeated}))
            raise MistralError(
                Reason.CALL, f"{names} was called again, although its result was there"
            )
        raise MistralError(Reason.EMPTY, f"the reply ended with {reply.end.reason!r}")

    @property
    def _rules_run(self) -> Run:
        adapter: object = self.get_llm_adapter()
        return adapter.run if isinstance(adapter, MistralLLMAdapter) else Run()


def _as_in_context(call: ToolCall, run: Run) -> ToolCall:
    """A call with the ids and names that the context has, where Mistral was told others."""
    arguments = call.arguments
    for sent, original in run.call_ids.items():
        # A call may name another, as Pipecat's `cancel_…` functions do.
        arguments = arguments.replace(f'"{sent}"', f'"{original}"')
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
