"""The bot of spoken calls for `scale.py`: audio both ways, and a real voice activity detector.

There are no speech services, whose cost is not measured here: the caller's words come as text, and
the voice is silent audio of the right length.
"""

from collections.abc import AsyncGenerator

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import Frame, TTSAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
from pipecat.workers.runner import WorkerRunner

from mistral_service import MistralLLMService

IN_RATE, OUT_RATE = 16000, 24000
SECONDS_PER_WORD = 0.4  # 150 words a minute


class SilentVoice(TTSService):
    """Silent audio, as long as a voice would take."""

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame, None]:
        """Speak.

        Args:
            text: The text; its number of words sets the length.
            context_id: As in Pipecat.
        """
        samples = round(len(text.split()) * SECONDS_PER_WORD * OUT_RATE)
        yield TTSAudioRawFrame(bytes(2 * samples), OUT_RATE, 1, context_id=context_id)


async def bot(runner_args: RunnerArguments) -> None:
    """Hold one call."""
    transport = await create_transport(
        runner_args,
        {
            "websocket": lambda: FastAPIWebsocketParams(
                serializer=ProtobufFrameSerializer(), audio_in_enabled=True, audio_out_enabled=True
            )
        },
    )
    user, assistant = LLMContextAggregatorPair(
        LLMContext(),
        user_params=LLMUserAggregatorParams(
            vad_analyzer=SileroVADAnalyzer(), user_turn_strategies=ExternalUserTurnStrategies()
        ),
    )
    voice = TTSSettings(model=None, voice=None, language=None)
    worker = PipelineWorker(
        Pipeline(
            [
                transport.input(),
                user,
                MistralLLMService(),
                SilentVoice(sample_rate=OUT_RATE, settings=voice),
                transport.output(),
                assistant,
            ]
        ),
        params=PipelineParams(audio_in_sample_rate=IN_RATE, audio_out_sample_rate=OUT_RATE),
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport, client):
        await runner.cancel()

    await runner.run()
