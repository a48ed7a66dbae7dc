"""What an event loop's own thread spends on a callback: no matter of the machine, or of its load.

A busy machine adds nothing to the CPU time of a thread, but a slower processor does, and so does
one whose caches and memory others use. So the cost of a callback is compared with a piece of work
that the same thread does right after it, for as long as the callback took.
"""

import asyncio
import contextlib
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

GOAL, BOUND = 0.020, 0.060
"""Seconds for one callback: what is wanted, and what fails a test.

They are seconds of a processor that does a piece of work in `PIECE`.
"""

PIECE = 0.00045
"""Seconds that `piece` takes where the bounds were chosen, at its fastest."""

_VALUES = [{"role": "user", "content": f"What time is it? {n}", "n": [n, 1.5]} for n in range(300)]


def piece() -> int:
    """Do what a turn does: JSON, texts, values one by one, and memory that is copied."""
    words = 0
    for each in json.loads(json.dumps(_VALUES)):
        if isinstance(each["content"], str) and each["role"] == "user":
            words += len(each["content"].split(" "))
    return words + len(bytes(bytearray(256 * 1024)))


def comparable(spent: float, clock: Callable[[], float] = time.thread_time) -> float:
    """The seconds of CPU that were spent just now, as seconds of the processor of `PIECE`."""
    collects = gc.isenabled()
    gc.disable()
    try:
        begun, pieces, passed = clock(), 0, 0.0
        while passed < max(spent, 10 * PIECE):
            piece()
            pieces += 1
            passed = clock() - begun
    finally:
        if collects:
            gc.enable()
    return spent * PIECE * pieces / passed


@dataclass
class Watched:
    """What a loop's callbacks cost.

    Attributes:
        worst: Seconds of the most expensive one, comparable on every machine.
        what: Its name.
        spent: Seconds of CPU that it took here.
        late: Seconds that a timer of the loop came too late at most: says how busy the machine was.
    """

    worst: float = 0.0
    what: str = ""
    spent: float = 0.0
    late: float = 0.0
    _most: float = 0.0

    def note(self, spent: float, what: str) -> None:
        """Note what a callback took; call it right after."""
        # What is far below the worst is not compared, so that few pieces of work are done.
        if spent < min(self._most, GOAL / 2):
            return
        self._most = max(self._most, spent)
        cost = comparable(spent)
        if cost > self.worst:
            self.worst, self.what, self.spent = cost, what, spent


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
        seen.note(time.thread_time() - begun, what)

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
