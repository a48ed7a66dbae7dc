"""One machine as a process: the ingress, the bot of many calls, and Redis behind a wire."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import uvicorn

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

import many_calls_bot  # noqa: E402

from mistral_service.scale.calls import Calls  # noqa: E402
from mistral_service.scale.ingress import create_app  # noqa: E402
from mistral_service.scale.recorders import CallRecorders  # noqa: E402
from mistral_service.scale.store import Store  # noqa: E402


def serve(port: int, redis: str, environment: Mapping[str, str], log: str) -> None:
    """Take calls until the process is ended.

    Args:
        port: Where, on loopback.
        redis: The address of Redis.
        environment: What the bot reads: the key, the endpoint, the file of bookings.
        log: The path of the process's log.
    """
    os.environ.update(environment)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    calls = Calls(many_calls_bot.bot, limit=50, recorders=CallRecorders(Store(redis)))
    app = create_app(calls, {"engine": "a test"})
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", ws_ping_interval=None)
