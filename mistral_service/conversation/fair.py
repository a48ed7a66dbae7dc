"""Threads that work for all calls of a process in turn."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")

_SLOW_SECONDS = 1.0


class FairThreads:
    """A pool of threads with a queue for each session, served in turn.

    A session has one piece of work running at a time. One whose last piece was slow does not get
    the last free thread: the others find one, whatever it sends.

    A process that was forked has a pool of its own; what its parent had not finished is `lost`.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._name = name
        self._lock = threading.Lock()
        self._reset()
        if hasattr(os, "register_at_fork"):
            # With the lock, so that no thread that is not forked leaves half a change behind.
            os.register_at_fork(
                before=self._lock.acquire,
                after_in_parent=self._lock.release,
                after_in_child=self._after_fork,
            )

    def submit(self, session: object, work: Callable[..., T], *args: Any) -> Future[T]:
        """Have some work done when the session's turn comes.

        Args:
            session: Whose work it is; hashed by identity, and held until the work is done.
            work: What is done, in a thread.
            args: Its arguments.

        Returns:
            Its result to be; cancelled while it waits, it is left out.
        """
        future: Future[T] = Future()
        with self._lock:
            self._waiting.setdefault(session, deque()).append((future, work, args))
            self._start()
        return future

    def drop(self, session: object) -> None:
        """Cancel what a session has waiting."""
        with self._lock:
            waiting = self._waiting.pop(session, ())
        for future, _, _ in waiting:
            future.cancel()

    def lost(self, future: Future[Any]) -> bool:
        """Whether a result will never come, since it was to come in the parent of this process."""
        return future in self._lost

    def _reset(self) -> None:
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix=self._name)
        # In the order of their turns: who was served goes to the end.
        self._waiting: dict[object, deque[tuple[Future[Any], Callable[..., Any], Any]]] = {}
        self._running: dict[object, Future[Any]] = {}
        self._slow: WeakSet[object] = WeakSet()
        self._lost: frozenset[Future[Any]] = frozenset()

    def _after_fork(self) -> None:
        unfinished = {future for jobs in self._waiting.values() for future, _, _ in jobs}
        lost = self._lost.union(unfinished, self._running.values())
        self._reset()
        self._lost = lost
        self._lock.release()

    def _start(self) -> None:
        """Start what can be started; the lock is held."""
        while len(self._running) < self._threads and (session := self._next()) is not None:
            jobs = self._waiting.pop(session)
            job = jobs.popleft()
            if jobs:
                self._waiting[session] = jobs
            self._running[session] = job[0]
            try:
                self._pool.submit(self._run, session, *job)
            except RuntimeError:  # the process ends
                del self._running[session]
                job[0].cancel()

    def _next(self) -> object | None:
        slow = sum(session in self._slow for session in self._running)
        for session in self._waiting:
            free = session not in self._slow or slow < max(1, self._threads - 1)
            if session not in self._running and free:
                return session
        return None

    def _run(
        self, session: object, future: Future[Any], work: Callable[..., Any], args: Any
    ) -> None:
        began = time.monotonic()
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(work(*args))
        except BaseException as e:
            future.set_exception(e)
        finally:
            with self._lock:
                took = time.monotonic() - began
                (self._slow.add if took > _SLOW_SECONDS else self._slow.discard)(session)
                self._running.pop(session, None)
                self._start()
