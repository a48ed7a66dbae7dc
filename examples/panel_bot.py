"""The bot of the demo's page: functions that show something, a camera, and a second service.

The panel of the page breaks its calls, changes its settings, and has Pipecat's own service answer
in its place::

    python -m mistral_service.demo

It runs with Pipecat's runner as well: `python examples/panel_bot.py -t webrtc`. The bot to copy is
`voice_bot.py`, which has one service and no functions.
"""

import asyncio
import os
import zlib

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import LLMRunFrame, UserImageRequestFrame
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.services.llm_service import FunctionCallParams
from pipecat.services.mistral.llm import MistralLLMService as PipecatsOwn
from pipecat.transports.base_transport import (
    BaseTransport,
    TransportParams,
    VideoInSourceParams,
)
from pipecat.workers.runner import WorkerRunner

from mistral_service import MistralLLMService
from mistral_service.turn.prices import PRICES

CAMERA = "on request"  # the demo's page offers the camera, and asks for it when it is wanted
FUNCTIONS = True  # the demo's page shows what `set_timer`, `take_note` and `weather` do

MODEL = os.getenv("MISTRAL_MODEL", "mistral-small-latest")
SYSTEM_INSTRUCTION = (
    "You are a helpful assistant in a spoken conversation in English. "
    "Answer in one or two short sentences of plain words, without lists or markup."
)
GREETING = "Say hello and ask how you can help."
SKIES = ["sunny", "cloudy", "raining", "foggy", "windy"]

# `make demo` gives a key that begins with "local" where a small model answers on this machine.
# Seven more attempts outlast an endpoint that is down for five seconds.
LOCAL = {
    "first_token_timeout": 8.0,
    "stall_timeout": 8.0,
    "turn_timeout": 30.0,
    "max_attempts": 8,
    "hedge_after": 2.5,
}


async def set_timer(params: FunctionCallParams, seconds: int):
    """Set a timer that the user sees.

    Args:
        seconds: For how many seconds.
    """
    if not 0 < seconds <= 86_400:
        await params.result_callback({"error": "a timer runs for one second to one day"})
        return
    await params.result_callback({"seconds": seconds})


async def take_note(params: FunctionCallParams, text: str):
    """Write a note that the user sees.

    Args:
        text: What to write.
    """
    await params.result_callback({"text": text[:200]})


async def weather(params: FunctionCallParams, town: str):
    """Tell the weather of a town.

    Args:
        town: The town, as "Port Amber".
    """
    # Made up, as most of the towns: the same for a town each time.
    number = zlib.crc32(town.lower().encode())
    result = {"town": town, "sky": SKIES[number % len(SKIES)], "celsius": number % 29}
    await params.result_callback(result)


async def look(params: FunctionCallParams, question: str):
    """Look through the user's camera, once.

    Args:
        question: What you want to know about the image.
    """
    # As in vision_bot.py: the aggregator that takes the frame gives the result.
    await params.llm.push_frame(
        UserImageRequestFrame(
            user_id="caller",
            text=question,
            append_to_context=True,
            function_name=params.function_name,
            tool_call_id=params.tool_call_id,
            result_callback=params.result_callback,
        ),
        FrameDirection.UPSTREAM,
    )


def create_services() -> list[MistralLLMService | PipecatsOwn]:
    """The service of this project, and Pipecat's own, for the same model at the same address."""
    common = {
        "model": MODEL,
        "system_instruction": SYSTEM_INSTRUCTION,
        "temperature": 0.3,
        "max_tokens": 100,
    }
    local = os.getenv("MISTRAL_API_KEY", "").startswith("local")
    ours = MistralLLMService(
        settings=MistralLLMService.Settings(
            **common,
            fallback_models=["ministral-8b-latest"],
            max_images=4,
            **(LOCAL if local else {}),
        ),
        prices=PRICES,
    )
    theirs = PipecatsOwn(
        api_key=os.environ["MISTRAL_API_KEY"],
        base_url=os.getenv("MISTRAL_BASE_URL", "https://api.mistral.ai/v1"),
        settings=PipecatsOwn.Settings(**common),
    )
    return [ours, theirs]


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """Hold one conversation, from the client's arrival until it leaves."""
    from voice_bot import create_speech  # the wheel has this file in a package, without its folder

    stt, tts = await asyncio.to_thread(create_speech)
    context = LLMContext(tools=[set_timer, take_note, weather, look])
    user_aggregator, assistant_aggregator = LLMContextAggregatorPair(
        context,
        user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer()),
    )
    worker = PipelineWorker(
        Pipeline(
            [
                transport.input(),
                stt,
                user_aggregator,
                LLMSwitcher(create_services()),
                tts,
                transport.output(),
                assistant_aggregator,
            ]
        ),
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
    """What Pipecat's runner, and the demo, call for every client that connects."""
    camera = VideoInSourceParams(on_request_only=True)
    transport = await create_transport(
        runner_args,
        {
            "webrtc": lambda: TransportParams(
                audio_in_enabled=True,
                audio_out_enabled=True,
                video_in_enabled=True,
                video_in_sources={"camera": camera},
            )
        },
    )
    await run_bot(transport, runner_args)


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
