"""Running one handler: what it returns counts, and a call that is not answered in time ends."""

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields
from typing import Any, cast

from loguru import logger
from pipecat.adapters.llm.schemas.direct_function import DirectFunctionWrapper
from pipecat.frames.frames import (
    Frame,
    FunctionCallCancelFrame,
    FunctionCallFromLLM,
    FunctionCallResultFrame,
    FunctionCallResultProperties,
)
from pipecat.processors.aggregators.llm_context import LLMSpecificMessage
from pipecat.services.llm_service import FunctionCallParams as PipecatFunctionCallParams
from pipecat.services.llm_service import FunctionCallRunnerItem
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.utils.types import NOT_GIVEN, NotGiven

from mistral_service.conversation.calls import WAS_CANCELLED
from mistral_service.pipecat.idempotency import FunctionCallParams, is_idempotent
from mistral_service.settings import BadSetting, given
from mistral_service.turn.deadline import now

FUNCTION_CALL_TIMEOUT = 30.0
"""Seconds within which a function answers, where neither the bot nor the function says otherwise.

It does not hold for asynchronous functions, whose work may take minutes while the bot talks on.
"""

_ASYNC = ":async"


class Handlers(OpenAILLMService):
    """Runs the handlers of functions, so that every call ends in a result or is cancelled.

    Pipecat waits for `result_callback` alone, and its time limit holds only while the handler runs.
    Here a returned value is a result too, and the time limit and the cancellation on an
    interruption hold until there is a result, also after the handler has returned.
    """

    FUNCTION_CALL_TIMEOUT_MESSAGE_TEMPLATE = (
        "The function `{function_name}` gave no result within {seconds:g} s, and none will follow. "
        "It is not known whether it had an effect."
    )

    def __init__(
        self,
        *,
        function_call_timeout_secs: float | None | NotGiven = NOT_GIVEN,
        **kwargs: Any,
    ) -> None:
        is_default = isinstance(function_call_timeout_secs, NotGiven)
        self._default_timeout = FUNCTION_CALL_TIMEOUT if is_default else None
        # Calls whose handler has returned, and that have no result yet.
        self._unanswered: dict[str, asyncio.Event] = {}
        self._warned_of_values: set[str] = set()
        # Of calls that run, by the call's id.
        self._idempotency_keys: dict[str, str] = {}
        limit = check_timeout(given(function_call_timeout_secs))
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            function_call_timeout_secs=limit, **kwargs
        )

    async def _run_function_call(self, runner_item: FunctionCallRunnerItem) -> None:
        self._prepare_call(runner_item)
        began = now()
        await super()._run_function_call(runner_item)
        if runner_item.settled:
            return
        # The handler may have kept the callback. A task takes its place among those that Pipecat
        # cancels, so that a queue of calls goes on with the next one.
        answered = self._unanswered[runner_item.tool_call_id] = asyncio.Event()
        limit = self._limit(runner_item)
        left = None if limit is None else began + limit - now()
        waits = self._wait_for_result(runner_item, answered, left)
        waiting = cast("asyncio.Task[None]", self.create_task(waits))  # pyright: ignore[reportUnknownMemberType]
        tasks = self._calls_by_task
        tasks.pop(asyncio.current_task(), None)
        tasks[waiting] = runner_item
        waiting.add_done_callback(lambda done: tasks.pop(done, None))

    def _prepare_call(self, runner_item: FunctionCallRunnerItem) -> None:
        """Prepare what is registered for a call, just before Pipecat looks it up."""
        item = self._functions.get(runner_item.function_name) or self._functions.get(None)
        if item is None:
            return  # Pipecat answers such a call itself.
        runner_item.registry_item = item
        if not isinstance(item.handler, ReturningHandler):
            item.handler = ReturningHandler(item.handler, self._returned, self._with_key)
        if item.cancel_on_interruption:
            item.timeout_secs = item.timeout_secs or self._default_timeout
        elif runner_item.group_id and not runner_item.group_id.endswith(_ASYNC):
            # A job in the background does not keep the others of its reply from being answered.
            runner_item.group_id += _ASYNC

    def _is_idempotent(self, name: str) -> bool:
        """Whether a function is safe to run twice: marked so, none at all, or one that cancels."""
        item = self._functions.get(name) or self._functions.get(None)
        return item is None or name in self._cancel_tool_names or is_idempotent(item.handler)

    def _with_key(self, params: PipecatFunctionCallParams) -> FunctionCallParams:
        """What a handler gets, with the call's idempotency key."""
        key = self._idempotency_keys.get(params.tool_call_id) or uuid.uuid4().hex
        given_by_pipecat: dict[str, Any] = {f.name: getattr(params, f.name) for f in fields(params)}
        given_by_pipecat["idempotency_key"] = key
        return FunctionCallParams(**given_by_pipecat)

    async def _returned(self, params: FunctionCallParams, value: object) -> None:
        """Take what a handler has returned for the result, unless there is one."""
        name, call_id = params.function_name, params.tool_call_id
        running = [item for item in self._calls_by_task.values() if item.tool_call_id == call_id]
        if any(item.settled for item in running):
            return
        if name not in self._warned_of_values:
            self._warned_of_values.add(name)
            logger.warning(
                f"{self}: the handler of {name} returned a value without calling "
                "result_callback. The value counts as the result. Pipecat's other services ignore "
                "it: call `await params.result_callback(value)` in the handler."
            )
        await params.result_callback(value)

    async def _wait_for_result(
        self, runner_item: FunctionCallRunnerItem, answered: asyncio.Event, left: float | None
    ) -> None:
        """Hold the place of a call whose handler has returned without a result."""
        try:
            async with asyncio.timeout(left):
                await answered.wait()
        except TimeoutError:
            if runner_item.settled:
                return
            # First of all, so that a result that comes now is refused.
            runner_item.settled = True
            logger.warning(
                f"{self}: the handler of {runner_item.function_name} returned without a result, "
                f"and none came within {self._limit(runner_item):g} s. A handler calls "
                "`await params.result_callback(value)`, or returns the value."
            )
            # In a task of its own: it cancels this one.
            self.create_task(  # pyright: ignore[reportUnknownMemberType]
                self._timeout_function_call(runner_item), "function_call_timeout"
            )

    async def _timeout_function_call(self, runner_item: FunctionCallRunnerItem) -> None:
        """End a call whose time is up, with a result from which the model can speak.

        Pipecat cancels the handler first and writes `CANCELLED` into the context. Here the result
        goes out first, since a handler may take its time to end, and says what has happened.
        """
        call: dict[str, Any] = {
            "function_name": runner_item.function_name,
            "tool_call_id": runner_item.tool_call_id,
            "arguments": runner_item.arguments,
        }
        limit = self._limit(runner_item) or 0.0
        said = self.FUNCTION_CALL_TIMEOUT_MESSAGE_TEMPLATE.format(
            function_name=runner_item.function_name, seconds=limit
        )
        await self.broadcast_frame(
            FunctionCallResultFrame,
            **call,
            result=said,
            run_llm=runner_item.run_llm,
            error=f"TimeoutError: no result in {limit:g} s",
        )
        tasks = self._calls_by_task
        for task in [task for task, item in tasks.items() if item is runner_item]:
            del tasks[task]
            if task is not None:
                await self.cancel_task(task)  # pyright: ignore[reportUnknownMemberType]
        await self._call_event_handler(  # pyright: ignore[reportUnknownMemberType]
            "on_function_calls_cancelled",
            [FunctionCallFromLLM(**call, context=runner_item.context)],
        )

    async def _broadcast_function_call_cancelled(
        self, runner_item: FunctionCallRunnerItem, *, run_llm: bool = False
    ) -> FunctionCallFromLLM:
        """Report that a call is cancelled, also where the context has no record of it yet.

        Words before a call are spoken before the context learns of it, and a cancellation overtakes
        them: it would be ignored there, and the call in progress for ever. A result stays behind.
        """
        has_begun = any(
            not isinstance(message, LLMSpecificMessage)
            and message.get("tool_call_id") == runner_item.tool_call_id
            for message in reversed(runner_item.context.get_messages())  # it is one of the last
        )
        cancelled = await super()._broadcast_function_call_cancelled(runner_item, run_llm=run_llm)
        if not has_begun:
            await self.broadcast_frame(
                FunctionCallResultFrame,
                function_name=runner_item.function_name,
                tool_call_id=runner_item.tool_call_id,
                arguments=runner_item.arguments,
                result=WAS_CANCELLED,
                properties=FunctionCallResultProperties(run_llm=run_llm),
            )
        return cancelled

    async def broadcast_frame(self, frame_cls: type[Frame], **kwargs: Any) -> None:
        """Broadcast a frame, and take note of a call that it settles.

        Args:
            frame_cls: The kind of frame.
            **kwargs: Its fields.
        """
        if settles(frame_cls, kwargs):
            self._idempotency_keys.pop(str(kwargs.get("tool_call_id")), None)
            answered = self._unanswered.pop(str(kwargs.get("tool_call_id")), None)
            if answered is not None:
                answered.set()
        await super().broadcast_frame(  # pyright: ignore[reportUnknownMemberType]
            frame_cls, **kwargs
        )

    def _limit(self, runner_item: FunctionCallRunnerItem) -> float | None:
        """Seconds that a call may take; None where there is no limit."""
        return runner_item.registry_item.timeout_secs or self._function_call_timeout_secs or None

    @property
    def _calls_by_task(self) -> dict[asyncio.Task[Any] | None, FunctionCallRunnerItem]:
        return cast(Any, self._function_call_tasks)  # pyright: ignore[reportUnknownMemberType]


class ReturningHandler(DirectFunctionWrapper):
    """A handler of any kind, as Pipecat runs one; what it returns is handed on.

    Pipecat's base class is the one kind of handler that Pipecat compares by what it wraps, so that
    a handler that is advertised again is recognized.
    """

    def __init__(  # pyright: ignore[reportMissingSuperCall]
        self,
        handler: Any,
        returned: Callable[[Any, object], Awaitable[None]],
        with_key: Callable[[PipecatFunctionCallParams], FunctionCallParams] | None = None,
    ) -> None:
        """Wrap a handler.

        Args:
            handler: A function of `FunctionCallParams`, or Pipecat's wrapper of a direct function;
                coroutine functions and plain ones alike.
            returned: What is called with a value that the handler has returned, unless it is None.
            with_key: What adds the idempotency key to Pipecat's parameters; None adds none.
        """
        self._handler: Any = handler
        self._returned = returned
        self._with_key = with_key
        self._direct = isinstance(handler, DirectFunctionWrapper)
        self.function: Any = handler.function if self._direct else handler

    async def invoke(self, args: Mapping[str, Any], params: PipecatFunctionCallParams) -> None:
        """Run the handler.

        Args:
            args: The arguments of the call.
            params: What Pipecat gives to handlers.

        Raises:
            RuntimeError: If something else than the call itself cancelled the handler, or it raises
                what Pipecat does not catch or cannot print.
            TypeError: If the handler is a generator.
            Exception: What the handler raises.
        """
        task = _current_task()
        params = self._with_key(params) if self._with_key else params
        try:
            value: object = (
                self._handler.invoke(args, params) if self._direct else self._handler(params)
            )
            while inspect.isawaitable(value):
                value = await value
        except asyncio.CancelledError:
            if task is None or task.cancelling():
                raise
            # Pipecat takes it for the end of the call, and would wait for its result for ever.
            raise RuntimeError("what it waited for was cancelled") from None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as e:
            if isinstance(e, GeneratorExit) and _current_task() is not task:
                raise  # It is not the handler's: the coroutine is thrown away.
            if isinstance(e, Exception) and _printed(e) is not None:
                raise
            # Pipecat would end without a result, and without a word.
            raise RuntimeError(f"{type(e).__name__}: {_printed(e) or 'no message'}") from e
        if inspect.isgenerator(value) or inspect.isasyncgen(value):
            raise TypeError("a handler may not be a generator: it returns its result or calls back")
        if value is not None:
            await self._returned(params, value)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # the loop has ended
        return None


def _printed(error: BaseException) -> str | None:
    """An error's message; None for one that cannot be printed."""
    try:
        return str(error)
    except Exception:
        return None


def settles(frame_cls: type[Frame], fields: Mapping[str, Any]) -> bool:
    """Whether a frame ends a call.

    Args:
        frame_cls: The kind of frame.
        fields: Its fields.

    Returns:
        True for a cancellation and a result, False for news of a function that goes on.
    """
    if frame_cls is FunctionCallResultFrame:
        properties = fields.get("properties")
        return properties is None or properties.is_final
    return frame_cls is FunctionCallCancelFrame


def check_timeout(seconds: Any) -> float | None:
    """Hold a time limit of functions against what it may be.

    Args:
        seconds: The limit; None and 0 stand for none, as in Pipecat.

    Returns:
        The limit.

    Raises:
        BadSetting: If it is anything but a number of seconds from 0.
    """
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is None or (is_number and seconds >= 0):
        return seconds or None
    raise BadSetting(
        "function_call_timeout_secs", seconds, "a number of seconds, or None for no limit"
    )
