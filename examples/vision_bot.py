"""A bot that looks through the caller's camera when it is asked what it sees.

With a key, on the demo's page::

    export MISTRAL_API_KEY=...
    python -m mistral_service.demo --bot examples/vision_bot.py

Offline, with an engine instead of Mistral that only knows colours::

    python examples/vision_bot.py --offline

It also runs with Pipecat's runner: `python examples/vision_bot.py -t webrtc`.
"""

import asyncio
import os
import sys

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import LLMRunFrame, UserImageRequestFrame
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
from pipecat.transports.base_transport import (
    BaseTransport,
    TransportParams,
    VideoInSourceParams,
)
from pipecat.workers.runner import WorkerRunner
from voice_bot import create_speech

from mistral_service import MistralLLMService

CAMERA = True  # the demo's page offers the camera

SYSTEM_INSTRUCTION = (
    "You are a helpful assistant in a spoken conversation in English, with a camera that shows "
    "you the user. Look through it whenever a question is about something in sight, and look again "
    "when the scene may have changed. Answer in one or two short sentences of plain words."
)
GREETING = "Say hello, and that you can look through the camera."


async def look(params: FunctionCallParams, question: str):
    """Look through the user's camera, once.

    Args:
        question: What you want to know about the image.
    """
    # The transport answers with a frame, which enters the context with this text. Pipecat then
    # calls back with the result, so there is nothing to await here.
    await params.llm.push_frame(
        UserImageRequestFrame(
            user_id="caller",  # this transport has one user; others take the participant's id
            text=question,
            append_to_context=True,
            function_name=params.function_name,
            tool_call_id=params.tool_call_id,
            result_callback=params.result_callback,
        ),
        FrameDirection.UPSTREAM,
    )


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """Run one conversation, until the client leaves."""
    stt, tts = await asyncio.to_thread(create_speech)
    llm = MistralLLMService(
        settings=MistralLLMService.Settings(
            model=os.getenv("MISTRAL_MODEL", "mistral-small-latest"),
            system_instruction=SYSTEM_INSTRUCTION,
            temperature=0.3,
            max_tokens=100,
            max_images=4,  # the conversation is about the present
        ),
    )
    context = LLMContext(tools=[look])
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
    # A frame enters the pipeline only on request.
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


def offline() -> int:
    """Serve the demo's page, with an engine instead of Mistral."""
    from offline_eyes import Eyes

    from mistral_service.demo.__main__ import main
    from mistral_service.local import LocalMistral

    with LocalMistral(Eyes()) as mistral:
        os.environ["MISTRAL_BASE_URL"] = mistral.base_url
        os.environ["MISTRAL_API_KEY"] = "any"
        arguments = [argument for argument in sys.argv[1:] if argument != "--offline"]
        return main(["--bot", __file__, *arguments])


if __name__ == "__main__":
    if "--offline" in sys.argv:
        sys.exit(offline())
    from pipecat.runner.run import main

    main()
