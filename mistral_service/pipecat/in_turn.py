"""The functions of a reply one after the other, where `run_in_parallel` is False."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from pipecat.frames.frames import (
    Frame,
    FunctionCallFromLLM,
    FunctionCallInProgressFrame,
    InterruptionFrame,
)
from pipecat.services.llm_service import FunctionCallRunnerItem

from mistral_service.pipecat.handlers import Handlers


class OneByOne:
    """Lets functions run one after the other, in the order in which they were called."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._stops = 0
        self._goes_on = asyncio.Event()
        self._goes_on.set()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait until all that came before are done, and keep those behind waiting."""
        async with self._turn:
            await self._goes_on.wait()
            yield

    @contextmanager
    def stopped(self) -> Generator[None]:
        """Have nothing begin: several are cancelled, and one gives its turn to the next."""
        self._stops += 1
        self._goes_on.clear()
        try:
            yield
        finally:
            self._stops -= 1
            if not self._stops:
                self._goes_on.set()


class InTurn(Handlers):
    """Runs the functions of a reply one after the other, where `run_in_parallel` is False.

    Pipecat begins a call when the one before it is done, and asks the model as soon as no call that
    has begun is left: after each of them. Here all calls of a reply begin at once, in a task each,
    and the handlers run in turn. So the model is asked after the last, and what cancels a running
    call cancels one that waits for its turn.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._one_by_one = OneByOne()
        # Calls that have begun for everybody else, and whose handler waits for its turn.
        self._waiting: set[str] = set()
        super().__init__(**kwargs)

    async def _run_sequential_function_calls(
        self, runner_items: Sequence[FunctionCallRunnerItem]
    ) -> None:
        await self._run_parallel_function_calls(runner_items)

    async def _run_function_call(self, runner_item: FunctionCallRunnerItem) -> None:
        self._prepare_call(runner_item)
        if self._run_in_parallel or not self.has_function(runner_item.function_name):
            await super()._run_function_call(runner_item)
            return
        call_id = runner_item.tool_call_id
        await self.broadcast_frame(
            FunctionCallInProgressFrame,
            function_name=runner_item.function_name,
            tool_call_id=call_id,
            arguments=runner_item.arguments,
            cancel_on_interruption=runner_item.registry_item.cancel_on_interruption,
            group_id=runner_item.group_id,
        )
        self._waiting.add(call_id)
        try:
            async with self._one_by_one.turn():
                await super()._run_function_call(runner_item)
        finally:
            self._waiting.discard(call_id)

    async def _handle_interruptions(self, _: InterruptionFrame) -> None:
        with self._one_by_one.stopped():
            await super()._handle_interruptions(_)
            # Pipecat passes over functions that are registered no more.
            await self._cancel_function_call_tasks(
                lambda item: (
                    item.tool_call_id in self._waiting and item.registry_item.cancel_on_interruption
                ),
                reason="interruption",
            )

    async def cancel_function_calls(
        self, *, reason: str = "cancelled"
    ) -> list[FunctionCallFromLLM]:
        """Cancel every call in flight, as Pipecat does; those that wait for their turn included.

        Args:
            reason: What leads to it, for the log.

        Returns:
            The calls that were cancelled.
        """
        with self._one_by_one.stopped():
            return await super().cancel_function_calls(reason=reason)

    async def _cancel_all_function_call_tasks(self) -> None:
        with self._one_by_one.stopped():
            await super()._cancel_all_function_call_tasks()

    async def _cancel_sequential_runner_task(self) -> None:
        # At the end of the pipeline Pipecat ends its queue with this; the queue here are tasks.
        await super()._cancel_sequential_runner_task()
        await self._cancel_all_function_call_tasks()

    async def broadcast_frame(self, frame_cls: type[Frame], **kwargs: Any) -> None:
        """Broadcast a frame, unless it tells again that a call has begun.

        Args:
            frame_cls: The kind of frame.
            **kwargs: Its fields.
        """
        if frame_cls is FunctionCallInProgressFrame and kwargs["tool_call_id"] in self._waiting:
            # Its turn has come, and Pipecat tells it.
            self._waiting.discard(kwargs["tool_call_id"])
            return
        await super().broadcast_frame(frame_cls, **kwargs)
