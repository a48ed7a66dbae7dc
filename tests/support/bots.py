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

from ports import free_port

from mistral_service.local import LocalMistral, Script

EXAMPLES = Path(__file__).parents[2] / "examples"


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


def evaluate_example(name: str, folder: Path) -> LocalMistral:
    """Run `examples/NAME.py`, and have `pipecat eval` hold the conversation of its scenario.

    Args:
        name: The example; `examples/evals` has its script and its scenario under the same name.
        folder: Where logs go.

    Returns:
        The endpoint that answered, closed by now.
    """
    script = Script.from_file(EXAMPLES / "evals" / f"{name}.json")
    port, log = free_port(), folder / "bot.log"
    with LocalMistral(script) as mistral:
        environment = {
            "MISTRAL_API_KEY": "any",
            "MISTRAL_BASE_URL": mistral.base_url,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        with running(EXAMPLES / f"{name}.py", port, log, **environment):
            scenario = EXAMPLES / "evals" / f"{name}.yaml"
            status, said = evaluate(scenario, port, folder, **environment)
    assert status == 0, said + log.read_text()
    assert "1/1 passed" in said
    return mistral
