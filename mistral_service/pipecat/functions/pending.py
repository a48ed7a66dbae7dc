"""Calls without a result: each gets one in time, also where its handler returned without any."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import fields
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    FunctionCallFromLLM,
    FunctionCallResultFrame,
    FunctionCallResultProperties,
)
from pipecat.services.llm_service import FunctionCallParams as PipecatFunctionCallParams
from pipecat.services.llm_service import FunctionCallRunnerItem

from mistral_service.conversation.calls import WAS_CANCELLED
from mistral_service.pipecat.conversation import messages_of
from mistral_service.pipecat.functions.handlers import ReturningHandler
from mistral_service.pipecat.functions.idempotency import FunctionCallParams
from mistral_service.pipecat.state import ServiceState, fields_of
from mistral_service.turn.deadline import now

NO_RESULT_IN_TIME = (
    "The function `{function_name}` gave no result within {seconds:g} s, and none will follow. "
    "It is not known whether it had an effect."
)
"""What the model reads of a call whose time is up, by default."""

_ASYNC = ":async"


class PendingCalls:
    """Runs handlers, and ends every call in a result or a cancellation.

    Pipecat waits for `result_callback` alone, and its time limit holds only while the handler runs.
    Here a returned value is a result too, and the time limit and the cancellation on an
    interruption hold until there is a result, also after the handler has returned.

    Attributes:
        idempotency_keys: The keys of the calls that run, by the call's id.
    """

    def __init__(self, state: ServiceState, default_timeout: float | None) -> None:
        """Prepare; `default_timeout` is that of `handlers.default_timeout`, in seconds."""
        self.idempotency_keys: dict[str, str] = {}
        self._state = state
        self._default_timeout = default_timeout
        # Calls whose handler has returned, and that have no result yet.
        self._unanswered: dict[str, asyncio.Event] = {}
        self._warned_of_values: set[str] = set()

    def prepare(self, call: FunctionCallRunnerItem) -> None:
        """Prepare what is registered for a call, just before Pipecat looks it up."""
        item = self._state.find_function(call.function_name)
        if item is None:
            return  # Pipecat answers such a call itself.
        call.registry_item = item
        if not isinstance(item.handler, ReturningHandler):
            item.handler = ReturningHandler(item.handler, self._returned, self._with_key)
        if item.cancel_on_interruption:
            item.timeout_secs = item.timeout_secs or self._default_timeout
        elif call.group_id and not call.group_id.endswith(_ASYNC):
            # A job in the background does not keep the others of its reply from being answered.
            call.group_id += _ASYNC

    async def run(self, call: FunctionCallRunnerItem, run: Callable[[], Awaitable[None]]) -> None:
        """Run a call, and wait for its result where the handler returns without one."""
        self.prepare(call)  # a flow may have registered the function anew while the call waited
        began = now()
        await run()
        if call.settled:
            return
        # The handler may have kept the callback. A task takes its place among those that Pipecat
        # cancels, so that a queue of calls goes on with the next one.
        answered = self._unanswered[call.tool_call_id] = asyncio.Event()
        limit = self._state.timeout_of(call)
        left = None if limit is None else began + limit - now()
        waiting = self._state.create_task(
            self._wait_for_result(call, answered, left), "wait_for_result"
        )
        tasks = self._state.running_calls
        tasks.pop(asyncio.current_task(), None)
        tasks[waiting] = call
        waiting.add_done_callback(lambda done: tasks.pop(done, None))

    def settle(self, call_id: str) -> None:
        """Learn that a call has its result, or is cancelled."""
        self.idempotency_keys.pop(call_id, None)
        answered = self._unanswered.pop(call_id, None)
        if answered is not None:
            answered.set()

    async def time_out(self, call: FunctionCallRunnerItem, message: str) -> None:
        """End a call whose time is up, with a result from which the model can speak.

        Pipecat cancels the handler first and writes `CANCELLED` into the context. Here the result
        goes out first, since a handler may take its time to end, and says what has happened.

        In `message`, `{function_name}` and `{seconds}` are filled in.
        """
        limit = self._state.timeout_of(call) or 0.0
        await self._state.broadcast_call(
            FunctionCallResultFrame,
            call,
            result=message.format(function_name=call.function_name, seconds=limit),
            run_llm=call.run_llm,
            error=f"TimeoutError: no result in {limit:g} s",
        )
        tasks = self._state.running_calls
        for task in [task for task, item in tasks.items() if item is call]:
            del tasks[task]
            if task is not None:
                await self._state.cancel_task(task)
        await self._state.emit(
            "on_function_calls_cancelled",
            [FunctionCallFromLLM(**fields_of(call), context=call.context)],
        )

    async def cancelled(
        self,
        call: FunctionCallRunnerItem,
        report: Callable[..., Awaitable[FunctionCallFromLLM]],
        *,
        run_llm: bool,
    ) -> FunctionCallFromLLM:
        """Report that a call is cancelled, also where the context has no record of it yet.

        Words before a call are spoken before the context learns of it, and a cancellation overtakes
        them: it would be ignored there, and the call in progress for ever. A result stays behind.

        """
        has_begun = any(
            message.get("tool_call_id") == call.tool_call_id
            for message in reversed(messages_of(call.context))  # it is one of the last
        )
        cancelled = await report(call, run_llm=run_llm)
        if not has_begun:
            await self._state.broadcast_call(
                FunctionCallResultFrame,
                call,
                result=WAS_CANCELLED,
                properties=FunctionCallResultProperties(run_llm=run_llm),
            )
        return cancelled

    def _with_key(self, params: PipecatFunctionCallParams) -> FunctionCallParams:
        """What a handler gets, with the call's idempotency key."""
        key = self.idempotency_keys.get(params.tool_call_id) or uuid.uuid4().hex
        with_key: dict[str, Any] = {f.name: getattr(params, f.name) for f in fields(params)}
        with_key["idempotency_key"] = key
        return FunctionCallParams(**with_key)

    async def _returned(self, params: FunctionCallParams, value: object) -> None:
        """Take what a handler has returned for the result, unless there is one."""
        name = params.function_name
        call = self._state.running_call(params.tool_call_id)
        if call is not None and call.settled:
            return
        if name not in self._warned_of_values:
            self._warned_of_values.add(name)
            logger.warning(
                f"{self._state}: the handler of {name} returned a value without calling "
                "result_callback. The value counts as the result. Pipecat's other services ignore "
                "it: call `await params.result_callback(value)` in the handler."
            )
        await params.result_callback(value)

    async def _wait_for_result(
        self, call: FunctionCallRunnerItem, answered: asyncio.Event, left: float | None
    ) -> None:
        """Hold the place of a call whose handler has returned without a result."""
        try:
            async with asyncio.timeout(left):
                await answered.wait()
        except TimeoutError:
            if call.settled:
                return
            # First of all, so that a result that comes now is refused.
            call.settled = True
            logger.warning(
                f"{self._state}: the handler of {call.function_name} returned without a result, "
                f"and none came within {self._state.timeout_of(call):g} s. A handler calls "
                "`await params.result_callback(value)`, or returns the value."
            )
            # In a task of its own: it cancels this one.
            self._state.create_task(self._state.time_out(call), "function_call_timeout")
