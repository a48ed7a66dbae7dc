"""A bot for many calls at once: the same file on one machine, and on a cluster of Ray Serve.

On a cluster (docs/scale.md)::

    serve run --name calls mistral_service.scale.app:app bot=examples/many_calls_bot.py

Alone, through Pipecat's own runner::

    export MISTRAL_API_KEY=...
    SPEECH=mistral python examples/many_calls_bot.py -t webrtc

Without `SPEECH=mistral` the call is in writing: RTVI's `send-text` comes in, `bot-llm-text` goes
out. Nothing below speaks of machines; what it does of calls taken over is not to greet twice.
"""

import asyncio
import os
from pathlib import Path

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import LLMRunFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.services.llm_service import FunctionCallParams
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
from pipecat.workers.runner import WorkerRunner

from mistral_service import MistralLLMService

SYSTEM_INSTRUCTION = (
    "You answer for the Trattoria Aurora, in one or two short sentences of plain words. "
    "Book a table with the function when somebody asks for one."
)
SPOKEN = os.getenv("SPEECH") == "mistral"
TEXT = not SPOKEN  # the page then has a field to write in
EAR_RATE, MOUTH_RATE, TELEPHONE_RATE = 16000, 24000, 8000


async def book_table(params: FunctionCallParams, day: str, people: int):
    """Book a table.

    Args:
        day: The day, as "Friday".
        people: How many people come.
    """
    if book := os.getenv("BOOK_FILE"):  # a line for every booking: what runs twice is seen there
        with Path(book).open("a") as lines:  # noqa: ASYNC230
            lines.write(f"{params.tool_call_id} {day} {people}\n")
    await asyncio.sleep(float(os.getenv("BOOK_SECONDS", "0.2")))  # a book is slower than a model
    await params.result_callback({"booked": True, "day": day, "people": people})


def voices() -> tuple[list[FrameProcessor], list[FrameProcessor]]:
    """What hears and what speaks; nothing of either in a call that is written."""
    if not SPOKEN:
        return [], []
    from pipecat.services.mistral.stt import MistralSTTService
    from pipecat.services.mistral.tts import MistralTTSService

    key = os.environ["MISTRAL_API_KEY"]
    voice = MistralTTSService.Settings(voice=os.getenv("MISTRAL_VOICE", "gb_jane_neutral"))
    return [MistralSTTService(api_key=key)], [MistralTTSService(api_key=key, settings=voice)]


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """Hold one call, from its beginning until somebody hangs up."""
    hears, speaks = voices()
    llm = MistralLLMService(
        settings=MistralLLMService.Settings(
            model=os.getenv("MISTRAL_MODEL", "mistral-small-latest"),
            system_instruction=SYSTEM_INSTRUCTION,
            temperature=0.3,
            max_tokens=200,
        )
    )
    context = LLMContext(tools=[book_table])
    user_aggregator, assistant_aggregator = LLMContextAggregatorPair(
        context,
        user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
        if SPOKEN
        else LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies()),
    )
    worker = PipelineWorker(
        Pipeline(
            [
                transport.input(),
                *hears,
                user_aggregator,
                llm,
                *speaks,
                transport.output(),
                assistant_aggregator,
            ]
        ),
        params=PipelineParams(
            audio_in_sample_rate=EAR_RATE,
            audio_out_sample_rate=TELEPHONE_RATE if runner_args.call_data else MOUTH_RATE,
            enable_metrics=True,
            enable_usage_metrics=True,
        ),
        idle_timeout_secs=runner_args.pipeline_idle_timeout_secs,
    )
    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)

    body = runner_args.body if isinstance(runner_args.body, dict) else {}
    call = body.get("call", {})
    greets = SPOKEN and not call.get("resumed")
    greeting = "Greet the caller."
    if call.get("lost"):  # the line broke, and what was said before could not be read
        greeting += " Say that the line broke, and ask them to tell you again what they want."

    @transport.event_handler("on_client_connected")
    async def on_client_connected(transport, client):
        if greets:
            context.add_message({"role": "developer", "content": greeting})
            await worker.queue_frames([LLMRunFrame()])

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport, client):
        await runner.cancel()

    await runner.run()


async def bot(runner_args: RunnerArguments) -> None:
    """What is called for every caller, wherever they come from."""
    transport = await create_transport(
        runner_args,
        {
            "webrtc": lambda: TransportParams(audio_in_enabled=SPOKEN, audio_out_enabled=SPOKEN),
            "websocket": lambda: FastAPIWebsocketParams(
                serializer=ProtobufFrameSerializer(),
                audio_in_enabled=SPOKEN,
                audio_out_enabled=SPOKEN,
            ),
            "twilio": lambda: FastAPIWebsocketParams(
                audio_in_enabled=SPOKEN, audio_out_enabled=SPOKEN
            ),
        },
    )
    await run_bot(transport, runner_args)


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
