"""Programs that run for the time of a block."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def listening(
    command: Sequence[str],
    port: int,
    log: Path,
    seconds: float,
    folder: Path | None = None,
    **environment: str,
) -> Iterator[None]:
    """Run a program until the end of the block, which begins when it listens.

    Args:
        command: The program and its arguments.
        port: Its port, on the loopback.
        log: Where its words go.
        seconds: How long it may take to listen.
        folder: Where it runs; by default where its log is.
        **environment: What to add to the environment.
    """
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder or log.parent,
        )
    try:
        deadline = time.monotonic() + seconds
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=60)
