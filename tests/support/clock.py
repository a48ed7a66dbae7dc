"""An event loop whose clock a busy machine slows down as it slows down the test."""

import asyncio
import os
import selectors
import threading
import time
from collections.abc import Callable
from typing import ClassVar, TypeVar

T = TypeVar("T")

TICK = 0.01
LATE = 3 * TICK
"""Seconds after which a loop that has made no round is late: every one makes one a tick."""
SLOWER = 10


class FairLoop(asyncio.SelectorEventLoop):
    """Counts at most two ticks in each of its rounds, of which it makes one a tick.

    On a machine with time to spare that is the time of the wall. Where other processes take the
    processor, a round takes longer, and a second of this clock with it. So a test's deadlines wait
    for what the test itself is kept from doing: they measure order, not the machine.

    A test and its local endpoint have a loop each, in a thread each, and the machine may hold up
    one of them alone. While one is late, the time of the others nearly stands still.
    """

    _running: ClassVar[set["FairLoop"]] = set()

    def __init__(self) -> None:
        super().__init__(_Ticking(self))
        self._counted = self._seen = self._told = time.monotonic()
        self._selecting = False
        self._of_test = False

    def run_forever(self) -> None:
        self._seen = time.monotonic()
        self._of_test = threading.current_thread() is threading.main_thread()
        self._running.add(self)
        try:
            super().run_forever()
        finally:
            self._running.discard(self)

    def time(self) -> float:
        now = time.monotonic()
        passed = min(now - self._seen, 2 * TICK)
        if any(each is not self and each.late(now) for each in tuple(self._running)):
            passed /= SLOWER
        self._told = max(self._told, self._counted + passed)
        return self._told

    def late(self, now: float) -> bool:
        """Whether the machine holds it up: what a test itself does in its loop is no delay."""
        return now - self._seen > LATE and (self._selecting or not self._of_test)

    def select(self, look: Callable[[], T]) -> T:
        """Look at the sockets, and count the round that ends with it."""
        self._selecting = True
        try:
            return look()
        finally:
            self._counted, self._seen = self.time(), time.monotonic()
            self._selecting = False


os.register_at_fork(after_in_child=FairLoop._running.clear)  # a child has none of the threads


class _Ticking(selectors.DefaultSelector):
    def __init__(self, loop: FairLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        look = super().select
        return self._loop.select(lambda: look(TICK if timeout is None else min(timeout, TICK)))


class FairLoops(asyncio.DefaultEventLoopPolicy):
    """Makes every loop of the process a fair one."""

    _loop_factory = FairLoop


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer as soon as there is nothing else to do."""

    def __init__(self) -> None:
        super().__init__(_Jumping(self))
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        """Let so much time pass at once."""
        self._now += seconds


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout:
            self._loop.jump(timeout)
        return events
