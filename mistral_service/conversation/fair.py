"""A thread pool that serves the calls of a process in turn (fair queueing)."""

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

    At most one job of a session runs at a time. A session whose last job was slow does not get the
    last free thread, so that one is left for the other sessions.

    A forked process has a pool of its own; jobs that its parent had not finished are `lost`.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._name = name
        self._lock = threading.Lock()
        self._lost: frozenset[Future[Any]] = frozenset()
        self._reset()
        if hasattr(os, "register_at_fork"):
            # With the lock held, so that the child does not inherit a half-made change.
            os.register_at_fork(
                before=self._lock.acquire,
                after_in_parent=self._lock.release,
                after_in_child=self._after_fork,
            )

    def submit(self, session: object, work: Callable[..., T], *args: Any) -> Future[T]:
        """Queue a job of a session, which is hashed by identity.

        A job that is cancelled while it waits does not run.
        """
        future: Future[T] = Future()
        with self._lock:
            self._waiting.setdefault(session, deque()).append((future, work, args))
            self._start()
        return future

    def drop(self, session: object) -> None:
        """Cancel the waiting jobs of a session."""
        with self._lock:
            waiting = self._waiting.pop(session, ())
        for future, _, _ in waiting:
            future.cancel()

    def lost(self, future: Future[Any]) -> bool:
        """Whether a future will never complete, since its job belongs to the parent process."""
        return future in self._lost

    def _reset(self) -> None:
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix=self._name)
        # In round-robin order: a session that was served goes to the end.
        self._waiting: dict[object, deque[tuple[Future[Any], Callable[..., Any], Any]]] = {}
        self._running: dict[object, Future[Any]] = {}
        self._slow: WeakSet[object] = WeakSet()

    def _after_fork(self) -> None:
        unfinished = {future for jobs in self._waiting.values() for future, _, _ in jobs}
        self._lost = self._lost.union(unfinished, self._running.values())
        self._reset()
        self._lock.release()

    def _start(self) -> None:
        """Start the jobs for which there is a thread; the lock is held."""
        while len(self._running) < self._threads and (session := self._next()) is not None:
            jobs = self._waiting.pop(session)
            job = jobs.popleft()
            if jobs:
                self._waiting[session] = jobs
            self._running[session] = job[0]
            try:
                self._pool.submit(self._run, session, *job)
            except RuntimeError:  # the interpreter shuts down
                del self._running[session]
                job[0].cancel()

    def _next(self) -> object | None:
        slow = sum(session in self._slow for session in self._running)
        for session in self._waiting:
            free = session not in self._slow or slow < max(1, self._threads - 1)
            if session not in self._running and free:
                return session
        return None

    def _run(self, session: object, future: Future[T], work: Callable[..., T], args: Any) -> None:
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
