"""The bot of many calls without the shared rate budget: every process asks as if it were alone."""

import sys
from pathlib import Path

from pipecat.runner.types import RunnerArguments

from mistral_service.turn.shared_services import SharedServices, shared_services

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import many_calls_bot

TEXT = True


async def bot(runner_args: RunnerArguments) -> None:
    """Hold one call, which is kept."""
    shared_services.set(SharedServices(None, shared_services.get().recorder))
    await many_calls_bot.bot(runner_args)
