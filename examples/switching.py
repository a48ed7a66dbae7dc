"""Two providers in one call: Mistral and OpenAI alternate, and one takes over from the other.

In the terminal, with a function that both can call::

    export MISTRAL_API_KEY=... OPENAI_API_KEY=...
    python examples/switching.py

`OPENAI_BASE_URL` names another endpoint with OpenAI's API. Offline, with a script instead of each
provider::

    python examples/switching.py --offline
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
    LLMMessagesAppendFrame,
    LLMRunFrame,
    LLMTextFrame,
    ManuallySwitchServiceFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.service_switcher import ServiceSwitcherStrategyFailover
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.llm_service import FunctionCallParams
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.workers.runner import WorkerRunner

from mistral_service import MistralError, MistralLLMService

INSTRUCTION = "You give weather reports. Be brief."
TURNS = [
    ("mistral", "How warm is it in Paris, and how warm in Rome?"),
    ("openai", "And in Oslo?"),
    ("mistral", "Where was it warmest?"),
    ("mistral", "And coldest?"),  # offline, Mistral is overloaded here, and OpenAI takes over
]


class TakeOver(ServiceSwitcherStrategyFailover):
    """Switches to the other service when a turn ends in an error.

    Pipecat's strategy only switches after a permanent error, such as a wrong key.
    `MistralLLMService` reports an error after its own retries, so any error is a reason to switch.
    Event handler: `on_turn_lost(strategy, service)`, which should run the turn again.
    """

    def __init__(self, services: list[FrameProcessor]) -> None:
        super().__init__(services)
        self._register_event_handler("on_turn_lost")

    async def handle_error(self, error: ErrorFrame) -> FrameProcessor | None:
        """Switch, if the error ended a turn and there is another service."""
        service = await super().handle_error(error)
        if service is None and isinstance(error.exception, MistralError):
            others = [s for s in self.usable_services if s is not self.active_service]
            service = await self._set_active_if_available(others[0]) if others else None
        if service is not None:
            await self._call_event_handler("on_turn_lost", service)
        return service


async def temperature(params: FunctionCallParams, city: str):
    """Get the temperature in a city.

    Args:
        city: The city, as "Paris".
    """
    print(f"  (temperature of {city})")
    degrees = {"Paris": 18, "Rome": 24, "Oslo": 9}
    await params.result_callback({"city": city, "celsius": degrees.get(city, 15)})


class Terminal(FrameProcessor):
    """Prints the words."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Print words, and pass every frame on."""
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame):
            print(frame.text, end="", flush=True)
        await self.push_frame(frame, direction)


async def converse(*, offline: bool) -> None:
    """Run the conversation, with the provider of each turn."""
    services = {
        "mistral": MistralLLMService(
            settings=MistralLLMService.Settings(
                system_instruction=INSTRUCTION,
                hedging=not offline,  # a script has one reply to each request
            )
        ),
        "openai": OpenAILLMService(
            base_url=os.getenv("OPENAI_BASE_URL"),
            settings=OpenAILLMService.Settings(
                model=os.getenv("OPENAI_MODEL", "gpt-4.1-mini"), system_instruction=INSTRUCTION
            ),
        ),
    }
    llm = LLMSwitcher(list(services.values()), strategy_type=TakeOver)
    # Functions in the context are registered with both.
    context = LLMContext(tools=[temperature])
    user, assistant = LLMContextAggregatorPair(context)
    worker = PipelineWorker(Pipeline([user, llm, Terminal(), assistant]), enable_rtvi=False)
    answered = asyncio.Event()

    @llm.strategy.event_handler("on_turn_lost")
    async def on_turn_lost(strategy: TakeOver, service: FrameProcessor) -> None:
        # A wrong key is reported before the first turn.
        if context.get_messages():
            print("(the other takes over) ", end="", flush=True)
            await worker.queue_frame(LLMRunFrame())

    @assistant.event_handler("on_assistant_turn_stopped")
    async def on_assistant_turn_stopped(aggregator: FrameProcessor, message: object) -> None:
        if getattr(message, "content", ""):
            answered.set()

    @worker.event_handler("on_pipeline_error")
    async def on_pipeline_error(worker: PipelineWorker, frame: ErrorFrame) -> None:
        print(f"! {frame.error}")
        answered.set()

    runner = WorkerRunner()
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    for name, question in TURNS:
        await worker.queue_frame(ManuallySwitchServiceFrame(service=services[name]))
        print(f"You: {question}\n{name}: ", end="", flush=True)
        answered.clear()
        message = {"role": "user", "content": question}
        await worker.queue_frame(LLMMessagesAppendFrame([message], run_llm=True))
        await answered.wait()
        print()
    await worker.queue_frame(EndFrame())
    await running


def start_scripts(stack: contextlib.ExitStack) -> None:
    """Start a script for each provider, and set the environment to their addresses."""
    from mistral_service.local import Checks, LocalMistral, Reply, Script

    class NoChecks(Checks):
        """Accepts OpenAI's requests."""

        def validate(self, body: object) -> None:
            return None

    def look_up(*cities: str) -> list[dict]:
        return [{"name": "temperature", "arguments": {"city": city}} for city in cities]

    full = {"message": "Service tier capacity exceeded for this model", "code": "3505"}
    mistral = Script(
        Reply(tool_calls=look_up("Paris", "Rome")),
        Reply("Eighteen degrees in Paris, twenty-four in Rome.", pause=0.03),
        Reply("In Rome, at twenty-four.", pause=0.03),
        Reply(status=503, body=full, times=None),
    )
    openai = Script(
        Reply(tool_calls=look_up("Oslo")),
        Reply("Nine degrees in Oslo.", pause=0.03),
        Reply("In Oslo, at nine.", pause=0.03),
    )
    for name, script, checks in (("MISTRAL", mistral, None), ("OPENAI", openai, NoChecks())):
        endpoint = stack.enter_context(LocalMistral(script, checks))
        os.environ[f"{name}_BASE_URL"] = endpoint.base_url
        os.environ[f"{name}_API_KEY"] = "any"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--offline", action="store_true", help="needs no key and no network")
    offline = parser.parse_args().offline
    logger.remove()
    with contextlib.ExitStack() as stack:
        if offline:
            start_scripts(stack)
        asyncio.run(converse(offline=offline))


if __name__ == "__main__":
    main()
