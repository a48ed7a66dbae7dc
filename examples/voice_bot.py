"""A spoken conversation with Mistral: a plain Pipecat bot to copy.

With a key, with Pipecat's runner::

    export MISTRAL_API_KEY=...
    python examples/voice_bot.py -t webrtc

Without one, `make demo` runs this file with a small local model. `MISTRAL_MODEL` and
`MISTRAL_BASE_URL` name the language model. Speech recognition and voice are Whisper and Piper on
this machine, or Mistral's with `SPEECH=mistral`. `pipecat eval` can call the bot too.
"""

import asyncio
import os

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.evals.transport import EvalTransportParams
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
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.workers.runner import WorkerRunner

from mistral_service import MistralLLMService

SYSTEM_INSTRUCTION = (
    "You are a helpful assistant in a spoken conversation in English. "
    "Answer in one or two short sentences of plain words, without lists or markup."
)
GREETING = "Say hello and ask how you can help."

# For a small model on this machine, which may be slow: `make demo` then sets a key that begins with
# "local".
LOCAL = {
    "first_token_timeout": 20.0,
    "stall_timeout": 15.0,
    "turn_timeout": 60.0,
    "hedging": False,
}


def create_speech() -> tuple[STTService, TTSService]:
    """Speech recognition and voice, from Mistral or on this machine."""
    if os.getenv("SPEECH") == "mistral":
        from pipecat.services.mistral.stt import MistralSTTService
        from pipecat.services.mistral.tts import MistralTTSService

        key = os.environ["MISTRAL_API_KEY"]
        # Voxtral has no default voice.
        voice = MistralTTSService.Settings(voice=os.getenv("MISTRAL_VOICE", "gb_jane_neutral"))
        return MistralSTTService(api_key=key), MistralTTSService(api_key=key, settings=voice)

    from pipecat.services.piper.tts import PiperTTSService
    from pipecat.services.whisper.stt import WhisperSTTService

    from mistral_service.demo.weights import PIPER_JOE, WHISPER_TINY

    # The weights are installed packages; a model's name would download it instead.
    stt = WhisperSTTService(
        device="cpu",
        compute_type="int8",
        settings=WhisperSTTService.Settings(model=str(WHISPER_TINY.find())),
    )
    tts = PiperTTSService(
        download_dir=PIPER_JOE.find(),
        # By default Pipecat gives up on a sentence after 3 s without audio, and reports an error
        # for words that a slow machine still synthesizes.
        stop_frame_timeout_s=30.0,
        settings=PiperTTSService.Settings(voice="en_US-joe-medium"),
    )
    return stt, tts


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """Run one conversation, until the client leaves."""
    # Local models take a second to load: in a thread, so that other conversations go on.
    stt, tts = await asyncio.to_thread(create_speech)

    # The key is read from MISTRAL_API_KEY and the address from MISTRAL_BASE_URL.
    llm = MistralLLMService(
        settings=MistralLLMService.Settings(
            model=os.getenv("MISTRAL_MODEL", "mistral-small-latest"),
            system_instruction=SYSTEM_INSTRUCTION,
            temperature=0.3,
            max_tokens=100,
            **(LOCAL if os.getenv("MISTRAL_API_KEY", "").startswith("local") else {}),
        ),
    )

    context = LLMContext()
    # The voice activity detector lets the user interrupt. Pipecat's smart-turn model, on by
    # default, distinguishes a pause from the end of a turn.
    user, assistant = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )

    worker = PipelineWorker(
        Pipeline([transport.input(), stt, user, llm, tts, transport.output(), assistant]),
        params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
        idle_timeout_secs=runner_args.pipeline_idle_timeout_secs,
    )
    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)

    @worker.rtvi.event_handler("on_client_ready")
    async def on_client_ready(rtvi):
        context.add_message({"role": "developer", "content": GREETING})
        await worker.queue_frames([LLMRunFrame()])

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport, client):
        await runner.cancel()

    await runner.run()


async def bot(runner_args: RunnerArguments) -> None:
    """Pipecat's runner and the demo call this for every client."""
    transport = await create_transport(
        runner_args,
        {
            "webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True),
            "eval": lambda: EvalTransportParams(audio_in_enabled=True, audio_out_enabled=True),
        },
    )
    await run_bot(transport, runner_args)


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
