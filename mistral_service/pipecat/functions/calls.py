"""The functions that a model calls: what the ledger planned becomes Pipecat's calls."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    Frame,
    FunctionCallFromLLM,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
)
from pipecat.services.llm_service import FunctionCallRunnerItem

from mistral_service.pipecat.conversation import ContextConversation, messages_of
from mistral_service.pipecat.functions.client_results import ClientResults
from mistral_service.pipecat.functions.idempotency import idempotency_key, is_idempotent
from mistral_service.pipecat.functions.pending import PendingCalls
from mistral_service.pipecat.functions.results import TOO_LARGE, answerable, readable, settles
from mistral_service.pipecat.functions.sequence import CallSequence
from mistral_service.pipecat.functions.slow import SlowFunctions
from mistral_service.pipecat.state import ServiceState
from mistral_service.reply.calls import CallLedger, Plan, PlannedCall
from mistral_service.reply.events import ToolCall
from mistral_service.turn.shared_services import ConversationRecorder
from mistral_service.turn.state import TurnOptions

NOT_AVAILABLE = (
    "The function {name} did not run: it is not available now, because it is not certain that it "
    "would run only once. Say so. It may be tried again later."
)
"""What the model reads of a function that does not start, since its record is not safe."""


class FunctionCalls:
    """Runs the functions that a model calls: each call exactly once.

    Pipecat does what it does for every service: registry, parallel and sequential runs,
    cancellation, groups, events. What is added is the ledger, an answer for falsy results, and a
    result in time.
    """

    def __init__(
        self,
        state: ServiceState,
        recorder: ConversationRecorder | None,
        default_timeout: float | None,
    ) -> None:
        """Run the functions of a service; `default_timeout` is that of `PendingCalls`."""
        self._state = state
        self._service = state.service
        self._recorder = recorder
        self.ledger = CallLedger()
        self.slow = SlowFunctions(state)
        self.sequence = CallSequence(state)
        self.pending = PendingCalls(state, default_timeout)
        # What the model reads of calls that do not run, by the call's id.
        self._synthetic_results: dict[str, str] = {}
        self._conversation_id = getattr(recorder, "id", "") or secrets.token_hex(16)
        self._client_results = ClientResults(state.running_call, self._take_client_result)

    # What a turn asks for.

    def begin(self, conversation: ContextConversation, options: TurnOptions) -> bool:
        """Begin a turn; returns whether the model may call functions in it."""
        self.ledger.repeated_calls = options.repeated_calls
        self.ledger.rounds.begin(conversation.messages)
        return not self.ledger.rounds.over(options.most_rounds)

    def plan(
        self,
        conversation: ContextConversation,
        calls: Sequence[ToolCall],
        left_out: int = 0,
        *,
        offered: Collection[str] | None = None,
    ) -> Plan:
        """Decide about the calls of one reply, as `CallLedger.plan` does, knowing the context."""
        self.ledger.learn(conversation.messages)
        running = {item.tool_call_id for item in self._state.running_calls.values()}
        return self.ledger.plan(calls, running, left_out, offered=offered)

    def forget(self, calls: Sequence[PlannedCall]) -> None:
        """Learn that planned calls do not run."""
        self.ledger.forget(calls)

    async def start(
        self,
        conversation: ContextConversation,
        calls: Sequence[PlannedCall],
        *,
        spoke: bool = False,
    ) -> None:
        """Hand planned calls to Pipecat as one group."""
        if not calls:
            return
        self.ledger.rounds.called(spoke=spoke)
        if self._state.is_speculating:
            # Pipecat withdraws a speculative reply that calls; the confirmed turn calls anew.
            self.ledger.forget(calls)
        else:
            await self._record_starts(calls)
        await self._service.run_function_calls(
            [
                FunctionCallFromLLM(
                    context=conversation.context,
                    tool_call_id=call.id,
                    function_name=call.name,
                    arguments=call.arguments,
                )
                for call in calls
            ]
        )

    async def _record_starts(self, calls: Sequence[PlannedCall]) -> None:
        """Record calls that start, and what the model reads of those that do not."""
        await self._record([call for call in calls if call.synthetic_result is None])
        for call in calls:
            if call.synthetic_result is not None:
                self._synthetic_results[call.id] = call.synthetic_result
            elif call.id not in self._synthetic_results:
                self.pending.idempotency_keys[call.id] = idempotency_key(
                    self._conversation_id, call.name, call.canonical, call.repetition
                )

    async def _record(self, calls: Sequence[PlannedCall]) -> None:
        if self._recorder is None or not calls:
            return
        repeatable = {call.name for call in calls if self._is_idempotent(call.name)}
        given = {"repeatable": repeatable} if repeatable else {}  # not all recorders know it
        refused = await self._recorder.on_function_calls(calls, **given) or ()
        names = {call.id: call.name for call in calls}
        self._synthetic_results |= {i: NOT_AVAILABLE.format(name=names[i]) for i in refused}

    def _is_idempotent(self, name: str) -> bool:
        """Whether a function is safe to run twice: marked so, none at all, or one that cancels."""
        item = self._state.find_function(name)
        return item is None or self._state.is_cancel_tool(name) or is_idempotent(item.handler)

    # What Pipecat's hooks do.

    async def run_all(
        self,
        calls: Sequence[FunctionCallFromLLM],
        run: Callable[[Sequence[FunctionCallFromLLM]], Awaitable[None]],
    ) -> None:
        """Run calls of one context, but none that has its result there already."""
        if not calls:
            return
        self._client_results.watch(self._service.pipeline_worker.pipeline)
        answered = {
            message.get("tool_call_id")
            for message in messages_of(calls[0].context)
            if message.get("role") == "tool"
        }
        calls = [call for call in calls if call.tool_call_id not in answered]
        if not self._state.is_speculating:
            known = {*self._synthetic_results, *self.pending.idempotency_keys}
            await self._record(  # those that the bot itself calls
                [
                    PlannedCall(call.tool_call_id, call.function_name, dict(call.arguments))
                    for call in calls
                    if call.tool_call_id not in known
                ]
            )
        await run(calls)

    async def run(
        self,
        call: FunctionCallRunnerItem,
        run: Callable[[FunctionCallRunnerItem], Awaitable[None]],
    ) -> None:
        """Run one call as Pipecat does, or answer it without its handler."""
        result = self._synthetic_results.pop(call.tool_call_id, None)
        if result is None:
            self.pending.prepare(call)
            await self.sequence.run(call, lambda: self.pending.run(call, lambda: run(call)))
            return
        await self._state.broadcast_call(
            FunctionCallInProgressFrame, call, cancel_on_interruption=True, group_id=call.group_id
        )
        await self._state.broadcast_call(FunctionCallResultFrame, call, result=result)

    async def broadcast(
        self,
        frame_cls: type[Frame],
        fields: dict[str, Any],
        broadcast: Callable[..., Awaitable[None]],
    ) -> None:
        """Broadcast a frame; a falsy result, unless it is an update on the way, gets an answer."""
        call_id = str(fields.get("tool_call_id"))
        if frame_cls is FunctionCallResultFrame:
            is_final, result = settles(frame_cls, fields), fields.get("result")
            result = fields["result"] = readable(answerable(result) if is_final else result)
            if result is TOO_LARGE:
                logger.warning(f"{self._service}: {fields['function_name']}: {TOO_LARGE}")
            if is_final:
                await self._take_result(call_id, result, fields)
        self.slow.on_broadcast(frame_cls, fields)
        if settles(frame_cls, fields):
            self.pending.settle(call_id)
        begins = frame_cls is FunctionCallInProgressFrame
        if not (begins and self.sequence.was_announced(call_id)):
            await broadcast(frame_cls, **fields)
        if begins:
            # The others of the group begin too, before this one can end: Pipecat asks the model
            # again as soon as nothing that has begun is left.
            await asyncio.sleep(0)

    async def _take_result(self, call_id: str, result: object, fields: dict[str, Any]) -> None:
        """Record a final result before anything reads it."""
        if call_id in self.pending.idempotency_keys and fields.get("error") is None:
            self.ledger.settle(call_id, fields["function_name"], fields["arguments"])
        if self._recorder is not None:
            await self._recorder.on_function_result(call_id, result)

    async def _take_client_result(self, call: FunctionCallRunnerItem, result: Any) -> None:
        await self._state.broadcast_call(
            FunctionCallResultFrame, call, result=result, run_llm=call.run_llm
        )
