"""Run a bot whose service waits as long as a busy machine takes: `patient.py bot.py --port 7860`.

It hedges no request and gives none up, so every request is one that the conversation needs, and a
test can count them. Settings that the bot chooses stay, and all else is as if Python ran the file.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

from mistral_service.settings import SENTENCE_TIMEOUT, MistralLLMSettings

SECONDS = 60.0
CHOSEN: dict[str, Any] = {
    "hedging": False,
    "connect_timeout": SECONDS,
    "first_token_timeout": SECONDS,
    "stall_timeout": SECONDS,
    "turn_timeout": SECONDS,
    "inference_timeout": SECONDS,
    "sentence_timeout": SENTENCE_TIMEOUT,  # it would rise with that of the first token
}


def choose() -> None:
    """Give every service of this process patience where its bot has chosen nothing."""
    begin = MistralLLMSettings.initial

    def initial(model: str | None, given: Any) -> MistralLLMSettings:
        settings = begin(model, given)
        for name, value in CHOSEN.items():
            if getattr(settings, name) is None:
                setattr(settings, name, value)
        return settings

    setattr(MistralLLMSettings, "initial", initial)  # noqa: B010 - it is a class method


if __name__ == "__main__":
    choose()
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
