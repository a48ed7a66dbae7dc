"""The functions of a reply one after the other, where `run_in_parallel` is False."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from pipecat.frames.frames import FunctionCallInProgressFrame
from pipecat.services.llm_service import FunctionCallRunnerItem

from mistral_service.pipecat.state import ServiceState


class CallSequence:
    """Lets functions run one after the other, in the order in which they were called.

    Pipecat begins a call when the one before it is done, and asks the model as soon as no call that
    has begun is left: after each of them. Here all calls of a reply begin at once, in a task each,
    and the handlers run in order. So the model is asked after the last, and what cancels a running
    call cancels one that waits.
    """

    def __init__(self, state: ServiceState) -> None:
        self._state = state
        self._lock = asyncio.Lock()
        self._pauses = 0
        self._resumed = asyncio.Event()
        self._resumed.set()
        # Calls that were announced, and whose handler has not begun.
        self._waiting: set[str] = set()

    async def run(self, call: FunctionCallRunnerItem, run: Callable[[], Awaitable[None]]) -> None:
        """Announce a call, and run it when those before it are done."""
        if self._state.runs_in_parallel or self._state.find_function(call.function_name) is None:
            await run()
            return
        await self._state.broadcast_call(
            FunctionCallInProgressFrame,
            call,
            cancel_on_interruption=call.registry_item.cancel_on_interruption,
            group_id=call.group_id,
        )
        self._waiting.add(call.tool_call_id)
        try:
            async with self._lock:
                await self._resumed.wait()
                await run()
        finally:
            self._waiting.discard(call.tool_call_id)

    def was_announced(self, call_id: str) -> bool:
        """Whether a call that begins was announced already; from now on it has begun."""
        if call_id not in self._waiting:
            return False
        self._waiting.discard(call_id)
        return True

    @contextmanager
    def paused(self) -> Generator[None]:
        """Have no call begin: several are cancelled, and the end of one lets the next begin."""
        self._pauses += 1
        self._resumed.clear()
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._resumed.set()

    async def cancel_waiting(self) -> None:
        """Cancel the calls that wait, on an interruption: Pipecat misses the unregistered ones."""
        await self._state.cancel_calls(
            lambda call: (
                call.tool_call_id in self._waiting and call.registry_item.cancel_on_interruption
            ),
            "interruption",
        )
