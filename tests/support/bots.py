"""Bots as processes, and `pipecat eval` as their caller."""

import contextlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def package_folder(name: str) -> Path:
    """The folder of an installed package."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed: run the tests with `make test`"
    assert spec.origin is not None
    return Path(spec.origin).parent


@contextlib.contextmanager
def running(bot: Path, port: int, log: Path, **environment: str) -> Iterator[None]:
    """A bot with Pipecat's runner, for the time of a `with` block."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, bot.name, "--host", "127.0.0.1", "--port", str(port)],
            cwd=bot.parent,
            env={**os.environ, **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        deadline = time.monotonic() + 90
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()


def evaluate(scenario: Path, port: int, logs: Path, **environment: str) -> tuple[int, str]:
    """Have `pipecat eval` hold a conversation; returns its exit status and what it printed."""
    judged = subprocess.run(
        [sys.executable, "-m", "pipecat.cli.main", "eval", "run", str(scenario), "--verbose"]
        + ["--bot-url", f"ws://127.0.0.1:{port}/ws", "--logs-dir", str(logs), "--timeout", "30"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "COLUMNS": "120"},
    )
    return judged.returncode, re.sub(r"\x1b\[[0-9;]*m", "", judged.stdout + judged.stderr)
