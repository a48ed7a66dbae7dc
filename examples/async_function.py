"""A booking that takes a while: the talk goes on, and the bot reports back when there is an answer.

It prints the talk in the terminal::

    export MISTRAL_API_KEY=...
    python examples/async_function.py

Offline, with a script in Mistral's place::

    python examples/async_function.py --offline
"""

import argparse
import asyncio
import contextlib
import os

from loguru import logger
from pipecat.adapters.llm.schemas.direct_function import tool_options
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    FunctionCallResultProperties,
    InterruptionFrame,
    LLMMessagesAppendFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    AssistantTurnStoppedMessage,
    LLMContextAggregatorPair,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.llm_service import FunctionCallParams
from pipecat.workers.runner import WorkerRunner

from mistral_service import MistralLLMService

INSTRUCTION = "You book tables for callers. Answer in one short sentence of plain words."
TURNS = ["Book a table for two on Friday, please.", "What should we wear there?"]


class Restaurant:
    """Takes a booking, and confirms it some time later."""

    def __init__(self) -> None:
        self._confirmed = asyncio.Event()

    async def book(self, day: str, guests: int) -> str:
        """Wait for the confirmation."""
        await self._confirmed.wait()
        return f"a table for {guests} on {day} at 20:00"

    def confirm(self) -> None:
        """Confirm the booking, as a webhook or an employee would."""
        self._confirmed.set()


# An interruption cancels other functions; this one goes on, and the bot can speak meanwhile.
@tool_options(cancel_on_interruption=False, timeout_secs=600)
async def book_table(params: FunctionCallParams, day: str, guests: int):
    """Book a table. The restaurant takes some minutes to confirm.

    Args:
        day: The day, as "Friday".
        guests: How many people come.
    """
    # The model answers an intermediate result, too. Without one the bot would say nothing yet.
    begun = FunctionCallResultProperties(is_final=False)
    await params.result_callback("The restaurant has the request.", properties=begun)
    booked = await params.app_resources.book(day, guests)
    await params.result_callback({"booked": booked})


async def converse(*, offline: bool) -> None:
    """Talk while the restaurant takes its time."""
    llm = MistralLLMService(
        settings=MistralLLMService.Settings(
            system_instruction=INSTRUCTION,
            hedging=not offline,  # a script has one answer to each question
        )
    )
    user, assistant = LLMContextAggregatorPair(LLMContext(tools=[book_table]))
    restaurant = Restaurant()
    worker = PipelineWorker(
        Pipeline([user, llm, assistant]), app_resources=restaurant, enable_rtvi=False
    )
    answered = asyncio.Event()

    @assistant.event_handler("on_assistant_turn_stopped")
    async def on_assistant_turn_stopped(
        aggregator: FrameProcessor, message: AssistantTurnStoppedMessage
    ) -> None:
        if message.content:
            print(f"Bot: {message.content}")
            answered.set()

    @worker.event_handler("on_pipeline_error")
    async def on_pipeline_error(worker: PipelineWorker, frame: ErrorFrame) -> None:
        print(f"! {frame.error}")
        answered.set()

    runner = WorkerRunner()
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    for question in TURNS:
        print(f"You: {question}")
        answered.clear()
        message = {"role": "user", "content": question}
        # A caller who speaks interrupts.
        await worker.queue_frame(InterruptionFrame())
        await worker.queue_frame(LLMMessagesAppendFrame([message], run_llm=True))
        await answered.wait()
    print("(the restaurant confirms)")
    answered.clear()
    restaurant.confirm()
    await answered.wait()
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

            call = {"name": "book_table", "arguments": {"day": "Friday", "guests": 2}}
            script = Script(
                Reply(tool_calls=[call]),
                Reply("I have asked them. May I help meanwhile?", when="has the request"),
                Reply("They do not mind: come as you are.", when="wear"),
                Reply("Your table for two is booked, on Friday at eight.", when="at 20:00"),
            )
            mistral = stack.enter_context(LocalMistral(script))
            os.environ["MISTRAL_BASE_URL"] = mistral.base_url
            os.environ["MISTRAL_API_KEY"] = "any"
        asyncio.run(converse(offline=offline))


if __name__ == "__main__":
    main()
