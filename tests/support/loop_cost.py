"""What an event loop's own thread spends on a callback, in CPU time: a busy machine adds none."""

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

GOAL, BOUND = 0.020, 0.060
"""Seconds of CPU for one callback: what is wanted, and what fails a test."""


@dataclass
class Watched:
    """What a loop's callbacks cost.

    Attributes:
        worst: Seconds of CPU of the most expensive one.
        what: Its name.
        late: Seconds that a timer of the loop came too late at most: says how busy the machine was.
    """

    worst: float = 0.0
    what: str = ""
    late: float = 0.0


@contextlib.contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """Watch the running loop for the time of a `with` block."""
    seen, here, run = Watched(), threading.get_ident(), asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        if threading.get_ident() != here:
            return run(handle)
        what = repr(handle)  # afterwards a task's step tells nothing of itself
        begun = time.thread_time()
        run(handle)
        spent = time.thread_time() - begun
        if spent > seen.worst:
            seen.worst, seen.what = spent, what

    async def look() -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            seen.late = max(seen.late, time.perf_counter() - begun - 0.001)

    # As in a replica: what was there before is not looked through again and again.
    gc.collect()
    gc.freeze()
    looks = asyncio.create_task(look())
    with monkeypatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", measured)
        yield seen
    looks.cancel()
    gc.unfreeze()
