"""The bot of many calls, of which a process can be made to stand still: its event loop blocks."""

import asyncio
import os
import sys
import time
from pathlib import Path

from pipecat.runner.types import RunnerArguments

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import many_calls_bot

TEXT = True
STICKS = Path(os.environ["BOOK_FILE"]).with_name(f"stick-{os.getpid()}")
_watching: list[asyncio.Task[None]] = []


async def bot(runner_args: RunnerArguments) -> None:
    """Hold one call, until the process sticks."""
    if not _watching:
        _watching.append(asyncio.create_task(_watch()))
    await many_calls_bot.bot(runner_args)


async def _watch() -> None:
    while not STICKS.exists():  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    time.sleep(120)  # noqa: ASYNC251
