"""Pipecat's functions and the calls that run, as it keeps them in private."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from pipecat.frames.frames import Frame
from pipecat.services.llm_service import FunctionCallRegistryItem, FunctionCallRunnerItem
from pipecat.services.openai.llm import OpenAILLMService

Running = dict["asyncio.Task[Any] | None", FunctionCallRunnerItem]


class FunctionRegistry:
    """What Pipecat knows of a service's functions."""

    def __init__(self, service: OpenAILLMService) -> None:
        self._service: Any = service

    def find(self, name: str) -> FunctionCallRegistryItem | None:
        """What is registered for a name: its function, or the one for all names."""
        functions = self._service._functions
        return functions.get(name) or functions.get(None)

    def is_cancel_tool(self, name: str) -> bool:
        """Whether a function is one of Pipecat's own, by which the model cancels another."""
        return name in self._service._cancel_tool_names

    def is_async(self, name: str) -> bool:
        """Whether the conversation goes on while a function runs."""
        return self._service._function_is_async(name)

    @property
    def running(self) -> Running:
        """The calls that run, by their task."""
        return cast(Running, self._service._function_call_tasks)

    def running_call(self, call_id: str) -> FunctionCallRunnerItem | None:
        """The call of an id, if it runs."""
        return next((item for item in self.running.values() if item.tool_call_id == call_id), None)

    def timeout_of(self, call: FunctionCallRunnerItem) -> float | None:
        """Seconds that a call may take; None where there is no limit."""
        default = self._service._function_call_timeout_secs
        return call.registry_item.timeout_secs or default or None

    @property
    def in_parallel(self) -> bool:
        """Whether the functions of a reply run in parallel."""
        return self._service._run_in_parallel

    @property
    def answers_each_result(self) -> bool:
        """Whether each result is answered as it comes, rather than all of a reply together."""
        return not self._service._group_parallel_tools

    @property
    def is_speculating(self) -> bool:
        """Whether the turn is speculative: Pipecat withdraws it if it calls."""
        return self._service._speculation_gate.is_speculating

    async def broadcast(
        self, frame_cls: type[Frame], call: FunctionCallRunnerItem, **fields: Any
    ) -> None:
        """Broadcast a frame about a call."""
        await self._service.broadcast_frame(frame_cls, **fields_of(call), **fields)

    async def cancel_calls(
        self, chosen: Callable[[FunctionCallRunnerItem], bool], reason: str
    ) -> None:
        """Cancel the calls that are chosen, as Pipecat cancels calls."""
        await self._service._cancel_function_call_tasks(chosen, reason=reason)

    async def time_out(self, call: FunctionCallRunnerItem) -> None:
        """End a call whose time is up, as the service does."""
        await self._service._timeout_function_call(call)


def fields_of(call: FunctionCallRunnerItem) -> dict[str, Any]:
    """The fields that frames about a call share."""
    return {
        "function_name": call.function_name,
        "tool_call_id": call.tool_call_id,
        "arguments": call.arguments,
    }
