"""What the parts of a service see of it: the one place that reads Pipecat's private state."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from inspect import signature
from typing import Any, cast

from loguru import logger
from pipecat.frames.frames import Frame
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.llm_service import FunctionCallRegistryItem, FunctionCallRunnerItem
from pipecat.services.openai.llm import OpenAILLMService

from mistral_service.settings import MistralLLMSettings

RunningCalls = dict["asyncio.Task[Any] | None", FunctionCallRunnerItem]


class ServiceState:
    """A service as its parts see it; everything is looked up when it is asked for.

    What is public of it, its parts find at `service`.
    """

    def __init__(self, service: OpenAILLMService) -> None:
        self.service = service
        self._private: Any = service

    def __str__(self) -> str:
        return str(self.service)

    @property
    def settings(self) -> MistralLLMSettings:
        """The settings as they are now."""
        return cast(MistralLLMSettings, self._private._settings)

    @property
    def has_voice(self) -> bool:
        """Whether a voice speaks the words."""
        return not self._private._skip_tts

    @property
    def is_traced(self) -> bool:
        """Whether spans are written."""
        return self._private._tracing_enabled

    @property
    def is_speculating(self) -> bool:
        """Whether the turn that runs may not have ended: Pipecat withdraws it if it calls."""
        return self._private._speculation_gate.is_speculating

    @property
    def turn_markers(self) -> Sequence[str] | None:
        """The markers of a complete turn of the user, then those of incomplete ones.

        None where the model writes none.
        """
        if not self._private._filter_incomplete_user_turns:
            return None
        return self._private._user_turn_completion_config.markers

    async def push_text(self, text: str) -> None:
        """Push words of a reply, as Pipecat's services do."""
        await self._private._push_llm_text(text)

    async def emit(self, event: str, *arguments: Any) -> None:
        """Call the handlers of an event."""
        await self._private._call_event_handler(event, *arguments)

    def create_task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run work in a task of the service."""
        return self._private.create_task(work, name)

    async def cancel_task(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task of the service, and wait for its end."""
        await self._private.cancel_task(task)

    # Its functions, and the calls that run.

    def find_function(self, name: str) -> FunctionCallRegistryItem | None:
        """What is registered for a name: its function, or the one for all names."""
        functions = self._private._functions
        return functions.get(name) or functions.get(None)

    def is_cancel_tool(self, name: str) -> bool:
        """Whether a function is one of Pipecat's own, by which the model cancels another."""
        return name in self._private._cancel_tool_names

    def is_async(self, name: str) -> bool:
        """Whether the conversation goes on while a function runs."""
        return self._private._function_is_async(name)

    @property
    def running_calls(self) -> RunningCalls:
        """The calls that run, by their task."""
        return cast(RunningCalls, self._private._function_call_tasks)

    def running_call(self, call_id: str) -> FunctionCallRunnerItem | None:
        """The call of an id, if it runs."""
        return next(
            (item for item in self.running_calls.values() if item.tool_call_id == call_id), None
        )

    def timeout_of(self, call: FunctionCallRunnerItem) -> float | None:
        """Seconds that a call may take; None where there is no limit."""
        default = self._private._function_call_timeout_secs
        return call.registry_item.timeout_secs or default or None

    @property
    def runs_in_parallel(self) -> bool:
        """Whether the functions of a reply run in parallel."""
        return self._private._run_in_parallel

    @property
    def answers_each_result(self) -> bool:
        """Whether each result is answered as it comes, rather than all of a reply together."""
        return not self._private._group_parallel_tools

    async def broadcast_call(
        self, frame_cls: type[Frame], call: FunctionCallRunnerItem, **fields: Any
    ) -> None:
        """Broadcast a frame about a call."""
        await self._private.broadcast_frame(frame_cls, **fields_of(call), **fields)

    async def cancel_calls(
        self, chosen: Callable[[FunctionCallRunnerItem], bool], reason: str
    ) -> None:
        """Cancel the calls that are chosen, as Pipecat cancels calls."""
        await self._private._cancel_function_call_tasks(chosen, reason=reason)

    async def time_out(self, call: FunctionCallRunnerItem) -> None:
        """End a call whose time is up, as the service does."""
        await self._private._timeout_function_call(call)


def fields_of(call: FunctionCallRunnerItem) -> dict[str, Any]:
    """The fields that frames about a call share."""
    return {
        "function_name": call.function_name,
        "tool_call_id": call.tool_call_id,
        "arguments": call.arguments,
    }


def all_processors(processor: FrameProcessor) -> Iterator[FrameProcessor]:
    """A processor, such as a pipeline, and all that are in it."""
    yield processor
    for part in processor.processors:
        yield from all_processors(part)


def warn_of_unknown_arguments(service: type[OpenAILLMService], names: Iterable[str]) -> None:
    """Warn of arguments of a service that nothing takes: Pipecat ignores them in silence."""
    known = _arguments_of(service)
    for name in sorted(set(names) - known):
        meant = "".join(f" Did you mean {each!r}?" for each in get_close_matches(name, known, 1))
        logger.warning(f"{service.__name__} has no argument {name!r}, and ignores it.{meant}")


@cache
def _arguments_of(service: type[OpenAILLMService]) -> frozenset[str]:
    """The arguments of a service: of its class, of those under it, and of `create_client`."""
    takers: list[Any] = [getattr(service, "create_client")]  # noqa: B009 - half typed
    takers += [vars(each)["__init__"] for each in service.__mro__ if "__init__" in vars(each)]
    return frozenset(name for each in takers for name in signature(each).parameters)
