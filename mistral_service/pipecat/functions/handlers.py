"""Handlers of functions: any kind, as Pipecat runs one; what a handler returns counts."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pipecat.adapters.llm.schemas.direct_function import DirectFunctionWrapper
from pipecat.services.llm_service import FunctionCallParams as PipecatFunctionCallParams
from pipecat.utils.types import NotGiven

from mistral_service.pipecat.functions.idempotency import FunctionCallParams
from mistral_service.settings import BadSetting

FUNCTION_CALL_TIMEOUT = 30.0
"""Seconds within which a function answers, where neither the bot nor the function says otherwise.

It does not hold for asynchronous functions, whose work may take minutes while the bot talks on.
"""


class ReturningHandler(DirectFunctionWrapper):
    """A handler of any kind, as Pipecat runs one; what it returns is handed on.

    Pipecat's base class is the one kind of handler that Pipecat compares by what it wraps, so that
    a handler that is advertised again is recognized.
    """

    def __init__(  # pyright: ignore[reportMissingSuperCall]
        self,
        handler: Any,
        returned: Callable[[Any, object], Awaitable[None]],
        with_key: Callable[[PipecatFunctionCallParams], FunctionCallParams],
    ) -> None:
        """Wrap a handler.

        Args:
            handler: A function of `FunctionCallParams`, or Pipecat's wrapper of a direct function;
                coroutine functions and plain ones alike.
            returned: What is called with a value that the handler has returned, unless it is None.
            with_key: What adds the idempotency key to Pipecat's parameters.
        """
        self._handler: Any = handler
        self._returned = returned
        self._with_key = with_key
        self._direct = isinstance(handler, DirectFunctionWrapper)
        self.function: Any = handler.function if self._direct else handler

    async def invoke(self, args: Mapping[str, Any], params: PipecatFunctionCallParams) -> None:
        """Run the handler.

        Raises:
            RuntimeError: If something else than the call itself cancelled the handler, or it raises
                what Pipecat does not catch or cannot print.
            TypeError: If the handler is a generator.
            Exception: What the handler raises.
        """
        task = _current_task()
        params = self._with_key(params)
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


def default_timeout(seconds: float | None | NotGiven) -> float | None:
    """The limit of functions that an interruption cancels, where the bot and they set none."""
    return FUNCTION_CALL_TIMEOUT if isinstance(seconds, NotGiven) else None


def check_timeout(seconds: Any) -> float | None:
    """Check a time limit of functions; None and 0 stand for none, as in Pipecat.

    Raises:
        BadSetting: If it is anything but a number of seconds from 0.
    """
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is None or (is_number and seconds >= 0):
        return seconds or None
    raise BadSetting(
        "function_call_timeout_secs", seconds, "a number of seconds, or None for no limit"
    )
