"""Changes model, temperature, instruction and reply format during a call.

In the terminal::

    export MISTRAL_API_KEY=...
    python examples/update_settings.py

Offline, with a script instead of Mistral::

    python examples/update_settings.py --offline
"""

import argparse
import asyncio
import contextlib
import os

from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    LLMFullResponseEndFrame,
    LLMMessagesAppendFrame,
    LLMTextFrame,
    LLMUpdateSettingsFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

from mistral_service import MistralLLMService

Settings = MistralLLMService.Settings

TURNS: list[tuple[str, MistralLLMService.Settings | None]] = [
    ("Who are you?", None),
    ("And who are you now?", Settings(system_instruction="You are a pirate. Be brief.")),
    ("Say something new.", Settings(temperature=1.2, max_tokens=40)),
    ("Ask a larger mind.", Settings(model="mistral-large-latest", temperature=0.2)),
    ("Name a colour, as JSON.", Settings(response_format={"type": "json_object"})),
    ("Still there?", Settings(temperature=7.0)),  # refused with an error; the call goes on
]
OFFLINE = [
    "I am a helpful assistant.",
    "Arr, I be the captain.",
    "Tuesdays taste of violet.",
    "From up here the sea is small.",
    '{"colour": "orange"}',
    '{"answer": "Still here."}',
]


class Terminal(FrameProcessor):
    """Prints the words, and sets an event when a reply ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Print words, and pass every frame on."""
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame):
            print(frame.text, end="", flush=True)
        elif isinstance(frame, LLMFullResponseEndFrame):
            print()
            self.ended.set()
        await self.push_frame(frame, direction)


async def converse(*, offline: bool) -> None:
    """Run the conversation, with other settings in each turn."""
    # A script has one reply to each request: a hedge would take the next one.
    settings = Settings(system_instruction="You are kind. Be brief.", hedging=not offline)
    llm = MistralLLMService(settings=settings)
    user, assistant = LLMContextAggregatorPair(LLMContext())
    terminal = Terminal()
    worker = PipelineWorker(Pipeline([user, llm, terminal, assistant]), enable_rtvi=False)

    @worker.event_handler("on_pipeline_error")
    async def on_pipeline_error(worker: PipelineWorker, frame: ErrorFrame) -> None:
        print(f"  ! {frame.error}")

    runner = WorkerRunner()
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    for question, delta in TURNS:
        if delta is not None:
            changed = ", ".join(f"{name}={value!r}" for name, value in delta.given_fields().items())
            print(f"\n  ({changed})")
            await worker.queue_frame(LLMUpdateSettingsFrame(delta=delta))
        print(f"You: {question}\nBot: ", end="", flush=True)
        terminal.ended.clear()
        message = {"role": "user", "content": question}
        await worker.queue_frame(LLMMessagesAppendFrame([message], run_llm=True))
        await terminal.ended.wait()
    await worker.queue_frame(EndFrame())
    await running


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--offline", action="store_true", help="needs no key and no network")
    offline = parser.parse_args().offline
    logger.remove()
    with contextlib.ExitStack() as stack:
        if offline:
            from mistral_service.local import LocalMistral, Reply, Script

            script = Script(*(Reply(text, pause=0.05) for text in OFFLINE))
            mistral = stack.enter_context(LocalMistral(script))
            os.environ["MISTRAL_BASE_URL"] = mistral.base_url
            os.environ["MISTRAL_API_KEY"] = "any"
        asyncio.run(converse(offline=offline))


if __name__ == "__main__":
    main()
