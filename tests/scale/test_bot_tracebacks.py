"""A bot that fails is logged with its stack, and without the values that it held."""

import os
import subprocess
import sys
from pathlib import Path

KEY = "sk-very-secret-0123456789"

BOT = """
import asyncio

async def bot(runner_args):
    api_key = "sk-very-" + "secret-0123456789"
    await asks(api_key, headers={"Authorization": "Bearer " + api_key})

async def asks(key, headers):
    client = {"key": key}
    try:
        await connects(client)
    except ValueError as e:
        raise RuntimeError("the backend is away") from e

async def connects(client):
    raise ValueError("no route")
"""

HOLDS = """
import asyncio
from types import SimpleNamespace
import failing_bot
from mistral_service.scale.calls import Calls

class Socket:
    application_state = client_state = client_code = None
    has_hung_up = False
    def detach(self): pass
    async def end(self, *args): pass

calls = Calls(failing_bot.bot, limit=1)
asyncio.run(calls.run(Socket(), SimpleNamespace(), None))
"""

EXCEPTION = """
from loguru import logger
def fails(api_key):
    raise ValueError(len(api_key))
try:
    fails("sk-very-" + "secret-0123456789")
except ValueError:
    logger.exception("as Pipecat logs it")
"""


def logged(code: str, folder: Path, **environment: str) -> str:
    """What a process writes with the sink that loguru has from the start."""
    (folder / "main.py").write_text(code)  # values are shown only where the source is found
    found = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, str(folder / "main.py")],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": found, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_traceback_of_a_bot_has_its_stack_and_no_key(tmp_path: Path):
    (tmp_path / "failing_bot.py").write_text(BOT)
    lines = logged(HOLDS, tmp_path)
    assert KEY not in lines
    for part in ("failing_bot.py", "in asks", "in connects", "no route", "the backend is away"):
        assert part in lines


def test_what_pipecat_logs_in_a_replica_has_no_values_either(tmp_path: Path):
    from mistral_service.scale.app import app

    deployment = app({"bot": "a:b"})._bound_deployment
    actor = deployment.ray_actor_options
    environment = actor["runtime_env"]["env_vars"]
    assert KEY in logged(EXCEPTION, tmp_path)  # what loguru does by itself
    lines = logged(EXCEPTION, tmp_path, **environment)
    assert KEY not in lines
    assert "in fails" in lines
