"""Function calling on Pipecat's side: what the ledger planned becomes Pipecat's calls."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal, cast

from pipecat.frames.frames import (
    Frame,
    FunctionCallFromLLM,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage
from pipecat.services.llm_service import FunctionCallRunnerItem

from mistral_service.handlers import Handlers, settles
from mistral_service.reply.calls import Ledger, Plan, Planned
from mistral_service.reply.events import ToolCall
from mistral_service.settings import MistralLLMSettings
from mistral_service.slow_functions import SlowFunctions
from mistral_service.surroundings import Keeper, surroundings


class FunctionCalls(SlowFunctions, Handlers):
    """Runs the functions that a model calls: each call exactly once.

    Pipecat does what it does for every service: registry, parallel and sequential runs,
    cancellation, groups, events. What is added is the ledger, and an answer for falsy results.
    """

    _settings: MistralLLMSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, *, keeper: Keeper | Literal[False] | None = None, **kwargs: Any) -> None:
        self._keeper = surroundings.get().keeper if keeper is None else keeper or None
        self._ledger = Ledger()
        self._told: dict[str, str] = {}
        self._queued: set[str] = set()  # where one runs after the other: those that wait
        super().__init__(**kwargs)

    @property
    def ledger(self) -> Ledger:
        """What is remembered of this conversation's calls."""
        return self._ledger

    def plan_calls(self, context: LLMContext, calls: Sequence[ToolCall], left_out: int = 0) -> Plan:
        """Decide about the calls of one reply, as `Ledger.plan` does, knowing the context."""
        messages = [m for m in context.get_messages() if not isinstance(m, LLMSpecificMessage)]
        self._ledger.learn(cast("list[dict[str, Any]]", messages))
        running = {item.tool_call_id for item in self._calls_by_task.values()}
        return self._ledger.plan(calls, running | self._queued, left_out)

    async def start_calls(self, context: LLMContext, calls: Sequence[Planned]) -> None:
        """Hand planned calls to Pipecat as one group."""
        if not calls:
            return
        if self._speculation_gate.is_speculating:
            # Pipecat withdraws a speculative reply that calls; the confirmed turn calls anew.
            self._ledger.forget(calls)
        else:
            if self._keeper is not None:
                await self._keeper.calls([call for call in calls if call.told is None])
            self._told.update({call.id: call.told for call in calls if call.told is not None})
            if not self._run_in_parallel:
                self._queued.update(call.id for call in calls)
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

    async def run_function_calls(self, function_calls: Sequence[FunctionCallFromLLM]) -> None:
        """Run functions, but none whose call has its result in the context already.

        Args:
            function_calls: The calls, all of one context.
        """
        if not function_calls:
            return
        messages = cast("list[dict[str, Any]]", function_calls[0].context.get_messages())
        answered = {
            message.get("tool_call_id")
            for message in messages
            if not isinstance(message, LLMSpecificMessage) and message.get("role") == "tool"
        }
        await super().run_function_calls(
            [call for call in function_calls if call.tool_call_id not in answered]
        )

    async def _run_function_call(self, runner_item: FunctionCallRunnerItem) -> None:
        told = self._told.pop(runner_item.tool_call_id, None)
        try:
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
        finally:
            self._queued.discard(runner_item.tool_call_id)

    async def broadcast_frame(self, frame_cls: type[Frame], **kwargs: Any) -> None:
        """Broadcast a frame; a falsy result, unless it is news on the way, gets an answer.

        Args:
            frame_cls: The kind of frame.
            **kwargs: Its fields.
        """
        if frame_cls is FunctionCallResultFrame:
            is_final, result = settles(frame_cls, kwargs), kwargs.get("result")
            result = kwargs["result"] = readable(answerable(result) if is_final else result)
            if is_final and self._keeper is not None:
                await self._keeper.returned(str(kwargs.get("tool_call_id")), result)
        await super().broadcast_frame(frame_cls, **kwargs)
        if frame_cls is FunctionCallInProgressFrame:
            # The others of the group begin too, before this one can end: Pipecat asks the model
            # again as soon as nothing that has begun is left.
            await asyncio.sleep(0)


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
        return "COMPLETED" if result is None else json.dumps(result)
    except (TypeError, ValueError):
        return "COMPLETED"


def readable(result: Any) -> Any:
    """A result that Pipecat can write into the context, which it does as JSON.

    One that JSON cannot hold would be an error there, and the caller would hear nothing.

    Args:
        result: What the function returned.

    Returns:
        The same if JSON can hold it; otherwise the same with a text in place of what it cannot
        hold, such as a date; of a result that has no such parts, its text.
    """
    with suppress(Exception):  # a result may bring code of its own
        json.dumps(result)
        return result
    with suppress(Exception):
        return json.loads(json.dumps(result, default=str))
    return str(result)


def _true(kind: type) -> Any:
    def is_true(_self: object) -> bool:
        return True

    return type(f"True{kind.__name__.title()}", (kind,), {"__bool__": is_true})


_TRUE: dict[type, Any] = {kind: _true(kind) for kind in (int, float, str, list, dict)}
