"""A bot for many calls at once: the same file on one machine, and on a cluster of Ray Serve.

On a cluster (docs/scale.md)::

    serve run --name calls mistral_service.scale.app:app bot=examples/many_calls_bot.py

Alone, through Pipecat's own runner::

    export MISTRAL_API_KEY=...
    SPEECH=mistral python examples/many_calls_bot.py -t webrtc

Without `SPEECH=mistral` the call is text: RTVI's `send-text` comes in, `bot-llm-text` goes out. The
bot knows nothing of machines, except that a call that was taken over is not greeted again.
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
    "Book a table with the function when the caller asks for one."
)
SPOKEN = os.getenv("SPEECH") == "mistral"
TEXT = not SPOKEN  # the page then has a text field
IN_RATE, OUT_RATE, TELEPHONE_RATE = 16000, 24000, 8000


async def book_table(params: FunctionCallParams, day: str, people: int):
    """Book a table.

    Args:
        day: The day, as "Friday".
        people: How many people come.
    """
    if book := os.getenv("BOOK_FILE"):  # a line for every booking, which shows one that runs twice
        with Path(book).open("a") as lines:  # noqa: ASYNC230
            lines.write(f"{params.tool_call_id} {day} {people}\n")
    await asyncio.sleep(float(os.getenv("BOOK_SECONDS", "0.2")))  # as slow as a database
    await params.result_callback({"booked": True, "day": day, "people": people})


def create_speech() -> tuple[list[FrameProcessor], list[FrameProcessor]]:
    """Speech recognition and voice; none in a text call."""
    if not SPOKEN:
        return [], []
    from pipecat.services.mistral.stt import MistralSTTService
    from pipecat.services.mistral.tts import MistralTTSService

    key = os.environ["MISTRAL_API_KEY"]
    voice = MistralTTSService.Settings(voice=os.getenv("MISTRAL_VOICE", "gb_jane_neutral"))
    return [MistralSTTService(api_key=key)], [MistralTTSService(api_key=key, settings=voice)]


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """Run one call, until the caller hangs up."""
    stt, tts = create_speech()
    llm = MistralLLMService(
        settings=MistralLLMService.Settings(
            model=os.getenv("MISTRAL_MODEL", "mistral-small-latest"),
            system_instruction=SYSTEM_INSTRUCTION,
            temperature=0.3,
            max_tokens=200,
        )
    )
    context = LLMContext(tools=[book_table])
    user, assistant = LLMContextAggregatorPair(
        context,
        user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
        if SPOKEN
        else LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies()),
    )
    worker = PipelineWorker(
        Pipeline([transport.input(), *stt, user, llm, *tts, transport.output(), assistant]),
        params=PipelineParams(
            audio_in_sample_rate=IN_RATE,
            audio_out_sample_rate=TELEPHONE_RATE if runner_args.call_data else OUT_RATE,
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
    if call.get("lost"):  # the connection broke, and the conversation could not be restored
        greeting += " Say that the line broke, and ask them to say again what they want."

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
    """Runs for every caller."""
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
