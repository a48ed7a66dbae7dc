"""An event loop whose clock a busy machine slows down as it slows down the test."""

import asyncio
import selectors
import time

TICK = 0.01


class FairLoop(asyncio.SelectorEventLoop):
    """Counts at most two ticks in each of its rounds, of which it makes one a tick.

    On a machine with time to spare that is the time of the wall. Where other processes take the
    processor, a round takes longer, and a second of this clock with it. So a test's deadlines wait
    for what the test itself is kept from doing: they measure order, not the machine.
    """

    def __init__(self) -> None:
        super().__init__(_Ticking(self))
        self._counted = self._seen = time.monotonic()

    def time(self) -> float:
        return self._counted + min(time.monotonic() - self._seen, 2 * TICK)

    def count(self) -> None:
        """Count the round that ends."""
        self._counted, self._seen = self.time(), time.monotonic()


class _Ticking(selectors.DefaultSelector):
    def __init__(self, loop: FairLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(TICK if timeout is None else min(timeout, TICK))
        self._loop.count()
        return events


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
