"""Bots as processes, and `pipecat eval` as their caller."""

import importlib.util
import os
import re
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from ports import free_port
from processes import listening

from mistral_service.local import LocalMistral, Script

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENT = str(Path(__file__).with_name("patient.py"))


def package_folder(name: str) -> Path:
    """The folder of an installed package."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed: run the tests with `make test`"
    assert spec.origin is not None
    return Path(spec.origin).parent


def printed(example: str, seconds: float = 240) -> str:
    """What an example prints offline."""
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / example), "--offline"],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def running(bot: Path, port: int, log: Path, **environment: str) -> AbstractContextManager[None]:
    """A bot with Pipecat's runner, for the time of a `with` block; it asks once in each turn."""
    command = [sys.executable, PATIENT, bot.name, "--host", "127.0.0.1", "--port", str(port)]
    return listening(command, port, log, 120, bot.parent, **environment)


def evaluate(scenario: Path, port: int, logs: Path, **environment: str) -> tuple[int, str]:
    """Have `pipecat eval` hold a conversation; returns its exit status and what it printed."""
    judged = subprocess.run(
        [sys.executable, "-m", "pipecat.cli.main", "eval", "run", str(scenario), "--verbose"]
        + ["--bot-url", f"ws://127.0.0.1:{port}/ws", "--logs-dir", str(logs), "--timeout", "60"],
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
