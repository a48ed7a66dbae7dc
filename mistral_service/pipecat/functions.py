"""Function calling on Pipecat's side: what the ledger planned becomes Pipecat's calls.

They run side by side or in turn.
"""

import asyncio
import json
import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, Literal, cast

from loguru import logger
from pipecat.frames.frames import (
    Frame,
    FunctionCallFromLLM,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage
from pipecat.services.llm_service import FunctionCallRunnerItem

from mistral_service.pipecat.client_results import ClientResults
from mistral_service.pipecat.handlers import settles
from mistral_service.pipecat.idempotency import idempotency_key
from mistral_service.pipecat.in_turn import InTurn
from mistral_service.pipecat.slow_functions import SlowFunctions
from mistral_service.reply.calls import CallLedger, Plan, PlannedCall
from mistral_service.reply.events import ToolCall
from mistral_service.settings import MistralLLMSettings
from mistral_service.turn.ports import ConversationRecorder, shared_services
from mistral_service.wire.weight import is_endless, weight

NOTHING_TO_READ = "COMPLETED"
"""What the model reads of a function that is done and has nothing to say, as Pipecat writes it."""

MAX_RESULT = 1_000_000
"""Characters that a result may have as JSON, about; a value counts 20 more. No model of Mistral's
takes a longer conversation, and every later turn would be refused."""

TOO_LARGE = (
    f"The result is too large to be read: it has more than the {MAX_RESULT:,} characters that are "
    "allowed."
)
"""What the model reads of a result that is larger."""

NOT_AVAILABLE = (
    "The function {name} did not run: it is not available now, because it is not certain that it "
    "would run only once. Say so. It may be tried again later."
)
"""What the model reads of a function that does not start, since its note is not safe."""


class FunctionCalls(SlowFunctions, InTurn):
    """Runs the functions that a model calls: each call exactly once.

    Pipecat does what it does for every service: registry, parallel and sequential runs,
    cancellation, groups, events. What is added is the ledger, and an answer for falsy results.
    """

    _settings: MistralLLMSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self, *, recorder: ConversationRecorder | Literal[False] | None = None, **kwargs: Any
    ) -> None:
        self._recorder = shared_services.get().recorder if recorder is None else recorder or None
        self._ledger = CallLedger()
        self._told: dict[str, str] = {}
        self._conversation = getattr(self._recorder, "id", "") or secrets.token_hex(16)
        self._client_results = ClientResults(self._running_call, self._take_client_result)
        super().__init__(**kwargs)

    @property
    def ledger(self) -> CallLedger:
        """What is remembered of this conversation's calls."""
        return self._ledger

    def plan_calls(
        self,
        context: LLMContext,
        calls: Sequence[ToolCall],
        left_out: int = 0,
        *,
        offered: Collection[str] | None = None,
    ) -> Plan:
        """Decide about the calls of one reply, as `CallLedger.plan` does, knowing the context."""
        messages = [m for m in context.get_messages() if not isinstance(m, LLMSpecificMessage)]
        self._ledger.learn(cast("list[dict[str, Any]]", messages))
        running = {item.tool_call_id for item in self._calls_by_task.values()}
        return self._ledger.plan(calls, running, left_out, offered=offered)

    async def start_calls(self, context: LLMContext, calls: Sequence[PlannedCall]) -> None:
        """Hand planned calls to Pipecat as one group."""
        if not calls:
            return
        if self._speculation_gate.is_speculating:
            # Pipecat withdraws a speculative reply that calls; the confirmed turn calls anew.
            self._ledger.forget(calls)
        else:
            await self._note_starts(calls)
        await self.run_function_calls(
            [
                FunctionCallFromLLM(
                    context=context,
                    tool_call_id=call.id,
                    function_name=call.name,
                    arguments=call.arguments,
                )
                for call in calls
            ]
        )

    async def _note_starts(self, calls: Sequence[PlannedCall]) -> None:
        """Take note of calls that start, and of what the model reads of those that do not."""
        await self._note_with_keeper([call for call in calls if call.synthetic_result is None])
        for call in calls:
            if call.synthetic_result is not None:
                self._told[call.id] = call.synthetic_result
            elif call.id not in self._told:
                self._idempotency_keys[call.id] = idempotency_key(
                    self._conversation, call.name, call.canonical, call.repetition
                )

    async def _note_with_keeper(self, calls: Sequence[PlannedCall]) -> None:
        if self._recorder is None or not calls:
            return
        repeatable = {call.name for call in calls if self._is_idempotent(call.name)}
        given = {"repeatable": repeatable} if repeatable else {}  # not all recorders know it
        refused = await self._recorder.on_function_calls(calls, **given) or ()
        names = {call.id: call.name for call in calls}
        self._told |= {i: NOT_AVAILABLE.format(name=names[i]) for i in refused}

    async def run_function_calls(self, function_calls: Sequence[FunctionCallFromLLM]) -> None:
        """Run functions, but none whose call has its result in the context already.

        Args:
            function_calls: The calls, all of one context.
        """
        if not function_calls:
            return
        self._client_results.watch(self.pipeline_worker.pipeline)
        messages = cast("list[dict[str, Any]]", function_calls[0].context.get_messages())
        answered = {
            message.get("tool_call_id")
            for message in messages
            if not isinstance(message, LLMSpecificMessage) and message.get("role") == "tool"
        }
        calls = [call for call in function_calls if call.tool_call_id not in answered]
        if not self._speculation_gate.is_speculating:
            known = {*self._told, *self._idempotency_keys}
            await self._note_with_keeper(  # those that the bot itself calls
                [
                    PlannedCall(call.tool_call_id, call.function_name, dict(call.arguments))
                    for call in calls
                    if call.tool_call_id not in known
                ]
            )
        await super().run_function_calls(calls)

    def _running_call(self, call_id: str) -> FunctionCallRunnerItem | None:
        calls = self._calls_by_task.values()
        return next((call for call in calls if call.tool_call_id == call_id), None)

    async def _take_client_result(self, call: FunctionCallRunnerItem, result: Any) -> None:
        await self.broadcast_frame(
            FunctionCallResultFrame,
            function_name=call.function_name,
            tool_call_id=call.tool_call_id,
            arguments=call.arguments,
            result=result,
            run_llm=call.run_llm,
        )

    async def _run_function_call(self, runner_item: FunctionCallRunnerItem) -> None:
        told = self._told.pop(runner_item.tool_call_id, None)
        if told is None:
            await super()._run_function_call(runner_item)
            return
        call: dict[str, Any] = {
            "function_name": runner_item.function_name,
            "tool_call_id": runner_item.tool_call_id,
            "arguments": runner_item.arguments,
        }
        await self.broadcast_frame(
            FunctionCallInProgressFrame,
            **call,
            cancel_on_interruption=True,
            group_id=runner_item.group_id,
        )
        await self.broadcast_frame(FunctionCallResultFrame, **call, result=told)

    async def broadcast_frame(self, frame_cls: type[Frame], **kwargs: Any) -> None:
        """Broadcast a frame; a falsy result, unless it is news on the way, gets an answer.

        Args:
            frame_cls: The kind of frame.
            **kwargs: Its fields.
        """
        if frame_cls is FunctionCallResultFrame:
            is_final, result = settles(frame_cls, kwargs), kwargs.get("result")
            result = kwargs["result"] = readable(answerable(result) if is_final else result)
            if result is TOO_LARGE:
                logger.warning(f"{self}: {kwargs['function_name']}: {TOO_LARGE}")
            if is_final:
                await self._take_result(result, kwargs)
        await super().broadcast_frame(frame_cls, **kwargs)
        if frame_cls is FunctionCallInProgressFrame:
            # The others of the group begin too, before this one can end: Pipecat asks the model
            # again as soon as nothing that has begun is left.
            await asyncio.sleep(0)

    async def _take_result(self, result: object, fields: dict[str, Any]) -> None:
        """Take note of a final result before anyone reads it."""
        call_id = str(fields.get("tool_call_id"))
        if call_id in self._idempotency_keys and fields.get("error") is None:
            self._ledger.settle(call_id, fields["function_name"], fields["arguments"])
        if self._recorder is not None:
            await self._recorder.on_function_result(call_id, result)


def answerable(result: Any) -> Any:
    """A result that gets a spoken answer, falsy or not.

    Pipecat runs the model again only for a result that is true, so that a caller who asks how many
    messages there are hears nothing where there are none. A falsy result is given a type that is
    true and otherwise equal to it. A function that wants no answer says so as always, with
    `FunctionCallResultProperties(run_llm=False)`.

    Args:
        result: What the function returned.

    Returns:
        The same if it is true; otherwise something true that reads the same in the context. What
        has no true form of its own reads as its JSON text (`False` as `"false"`), what has none
        either, and `None`, as `"COMPLETED"`.
    """
    try:
        if result:
            return result
    except Exception:  # an array of several values is neither true nor false
        return result
    for kind in _TRUE:
        if type(result) is kind:
            return _TRUE[kind](result)
    try:
        return NOTHING_TO_READ if result is None else json.dumps(result)
    except Exception:
        return NOTHING_TO_READ


def readable(result: Any) -> Any:
    """A result that Pipecat can write into the context, which it does as JSON.

    One that JSON cannot hold would be an error there, and the caller would hear nothing.

    Args:
        result: What the function returned.

    Returns:
        The same if JSON can hold it; otherwise the same with a text in place of what it cannot
        hold, such as a date; of a result that has no such parts, its text. Where nothing is left
        to read, `"COMPLETED"`, so that the model is asked in any case. One that is larger than
        `MAX_RESULT` reads as `TOO_LARGE`.
    """
    if weight(result, MAX_RESULT, objects=False) > MAX_RESULT and not is_endless(result):
        return TOO_LARGE
    with suppress(Exception):  # a result may bring code of its own
        json.dumps(result)
        bool(result)
        return result
    with suppress(Exception):
        return json.loads(json.dumps(result, default=_text)) or NOTHING_TO_READ
    return _text(result) or NOTHING_TO_READ


def _text(value: object) -> str:
    """A value's text; empty for one that cannot be printed."""
    try:
        return str(value)
    except Exception:
        return ""


def _true(kind: type) -> Any:
    def is_true(_self: object) -> bool:
        return True

    return type(f"True{kind.__name__.title()}", (kind,), {"__bool__": is_true})


_TRUE: dict[type, Any] = {kind: _true(kind) for kind in (int, float, str, list, dict)}
