"""A voice bot with Mistral's models alone: Voxtral for speech recognition and voice, and an LLM.

It needs one key. In the browser, with Pipecat's runner::

    export MISTRAL_API_KEY=...
    python examples/mistral_voice_bot.py -t webrtc

On the telephone, with Twilio's media streams (point your number's webhook at the address)::

    export TWILIO_ACCOUNT_SID=... TWILIO_AUTH_TOKEN=...    # to hang up
    python examples/mistral_voice_bot.py -t twilio -x your-name.ngrok.io

`MISTRAL_VOICE` names the voice: one of Mistral's, or your own.
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

IN_RATE = 16000
"""Sample rate for voice activity and turn detection; a telephone's 8,000 Hz are upsampled."""
OUT_RATE, TELEPHONE_RATE = 24000, 8000
"""Sample rates of Voxtral's voice, and of a telephone."""


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """Run one conversation, until the caller leaves."""
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
    user, assistant = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    worker = PipelineWorker(
        Pipeline([transport.input(), stt, user, llm, tts, transport.output(), assistant]),
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

    @transport.event_handler("on_client_connected")
    async def on_client_connected(transport, client):
        context.add_message({"role": "developer", "content": GREETING})
        await worker.queue_frames([LLMRunFrame()])

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport, client):
        await runner.cancel()

    await runner.run()


async def bot(runner_args: RunnerArguments) -> None:
    """Pipecat's runner calls this for every caller."""
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
