"""A real Redis for tests: on a free port, stopped, killed, paused, and started again empty."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import pytest
from ports import free_port

from mistral_service.scale import shared_log


class RedisServer:
    """A `redis-server` process that keeps nothing on disk.

    Attributes:
        url: Its address, the same for every start.
    """

    def __init__(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.fail("These tests need redis-server: apt install redis-server", pytrace=False)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._home = tempfile.TemporaryDirectory(prefix="redis-")

    def start(self) -> "RedisServer":
        """Start it, empty; returns when it answers."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir"]
        self._process = subprocess.Popen(
            [self._program, *options, self._home.name], stdout=subprocess.DEVNULL
        )
        until = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, "Redis ended at once"
            assert time.monotonic() < until, "Redis did not answer"
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """Have it end in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Have it hold connections open and answer nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on after a pause."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def __enter__(self) -> "RedisServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()
        self._home.cleanup()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def slow_redis_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that a busy machine keeps from answering for half a second is not taken for down."""
    monkeypatch.setattr(shared_log, "_TIMEOUT_S", 10.0)
