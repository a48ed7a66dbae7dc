"""A deadline that moves with every token.

`asyncio.timeout` sets a timer anew each time it is moved. At fifty tokens a second, in each of
hundreds of calls, that is most of what it costs to watch a stream; here the timer is left running,
and looks at the deadline when it fires.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from mistral_service.wire.errors import MistralError, Reason

T = TypeVar("T")


def now() -> float:
    """The time in seconds on the running event loop's clock, which all deadlines go by."""
    return asyncio.get_running_loop().time()


class Deadline:
    """Cancels what is done in its block when the time is over, and raises TimeoutError then.

    Use it as `asyncio.timeout_at`, once. Move it by setting `until`.
    """

    def __init__(self, until: float | None) -> None:
        self.expired = False
        self._loop = asyncio.get_running_loop()
        self._until = until
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0

    @property
    def until(self) -> float | None:
        """When it is over, on the event loop's clock; None for never."""
        return self._until

    @until.setter
    def until(self, until: float | None) -> None:
        self._until = until
        if until is not None and self._task is not None:
            timer = self._timer
            if timer is None or until < timer.when():
                self._set(until)

    def __enter__(self) -> "Deadline":
        self._task = task = asyncio.current_task()
        assert task is not None  # noqa: S101 - an event loop runs nothing else
        self._cancelling = task.cancelling()
        self.until = self._until
        return self

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        task, self._task = self._task, None
        # Cancelled by other code too, it stays cancelled.
        ours = self.expired and task is not None and task.uncancel() <= self._cancelling
        if ours and type(exc) is asyncio.CancelledError:
            raise TimeoutError from exc

    def _set(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._until is None or self._task is None:
            return
        if self._until > self._loop.time():
            self._set(self._until)
        else:
            self.expired = True
            self._task.cancel()


async def within(seconds: float, answer: Awaitable[T], what: str) -> T:
    """Wait for an answer; one that takes longer is cancelled, and the error says `what` failed."""
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            return await answer
    except TimeoutError:
        if not timeout.expired():
            raise  # another time limit, not this one
        raise MistralError(Reason.TIMEOUT, f"{what} in {seconds:g} s") from None
