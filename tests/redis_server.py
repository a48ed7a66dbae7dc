"""A real Redis on a free port of this machine, for one test."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RedisServer:
    """A Redis that keeps nothing on disk.

    Attributes:
        url: Where it is.
    """

    def __init__(self) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self._port = s.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._directory = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["redis-server", "--port", str(self._port), "--bind", "127.0.0.1"]
            + ["--save", "", "--appendonly", "no", "--dir", self._directory.name],
            stdout=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"]},
        )
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 0.2).close()
            except OSError:
                assert time.monotonic() < until, "redis-server does not start"
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        """Kill it, as a power cut does: what it had is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
        assert Path(server._directory.name).exists()
        server._directory.cleanup()
