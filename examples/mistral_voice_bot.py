"""A voice bot that is Mistral's from ear to mouth: Voxtral hears, Mistral thinks, Voxtral speaks.

One key is all it needs. In the browser, through Pipecat's own runner::

    export MISTRAL_API_KEY=...
    python examples/mistral_voice_bot.py -t webrtc

On the telephone, with Twilio's media streams (point your number's webhook at the address)::

    export TWILIO_ACCOUNT_SID=... TWILIO_AUTH_TOKEN=...    # to hang up
    python examples/mistral_voice_bot.py -t twilio -x your-name.ngrok.io

The voice is `MISTRAL_VOICE`: one of Mistral's, or your own.
"""

import os

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import LLMRunFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.services.mistral.stt import MistralSTTService
from pipecat.services.mistral.tts import MistralTTSService
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.workers.runner import WorkerRunner

from mistral_service import MistralLLMService

SYSTEM_INSTRUCTION = (
    "You are a helpful assistant in a spoken conversation in English. "
    "Answer in one or two short sentences of plain words, without lists or markup."
)
GREETING = "Say hello and ask how you can help."

EAR_RATE = 16000
"""Hz that the detectors of speech and of turns hear; a telephone's 8,000 are raised to it."""
MOUTH_RATE, TELEPHONE_RATE = 24000, 8000
"""Hz that Voxtral speaks, and that a telephone takes."""


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """Hold one conversation, from the caller's arrival until they leave."""
    key = os.environ["MISTRAL_API_KEY"]
    stt = MistralSTTService(api_key=key)
    llm = MistralLLMService(
        api_key=key,
        settings=MistralLLMService.Settings(
            model=os.getenv("MISTRAL_MODEL", "mistral-small-latest"),
            system_instruction=SYSTEM_INSTRUCTION,
            temperature=0.3,
            max_tokens=100,
        ),
    )
    tts = MistralTTSService(
        api_key=key,
        settings=MistralTTSService.Settings(voice=os.getenv("MISTRAL_VOICE", "gb_jane_neutral")),
    )
    context = LLMContext()
    user_aggregator, assistant_aggregator = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    worker = PipelineWorker(
        Pipeline(
            [
                transport.input(),
                stt,
                user_aggregator,
                llm,
                tts,
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

    @transport.event_handler("on_client_connected")
    async def on_client_connected(transport, client):
        context.add_message({"role": "developer", "content": GREETING})
        await worker.queue_frames([LLMRunFrame()])

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport, client):
        await runner.cancel()

    await runner.run()


async def bot(runner_args: RunnerArguments) -> None:
    """What Pipecat's runner calls for every caller."""
    transport = await create_transport(
        runner_args,
        {
            "webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True),
            "twilio": lambda: FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True),
        },
    )
    await run_bot(transport, runner_args)


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
