"""A bot that sees: asked what it sees, it looks through the caller's camera.

With a key, on the demo's page::

    export MISTRAL_API_KEY=...
    python -m mistral_service.demo --bot examples/vision_bot.py

Offline, with an engine in Mistral's place that knows nothing but colours::

    python examples/vision_bot.py --offline

It runs with Pipecat's runner as well: `python examples/vision_bot.py -t webrtc`.
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

CAMERA = True  # has the demo's page offer the camera

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
    # The transport answers with a frame, the context takes it in with these words, and the result
    # is given by whoever has it: there is nothing to wait for here.
    await params.llm.push_frame(
        UserImageRequestFrame(
            user_id="caller",  # this transport has one; with others it is the participant's id
            text=question,
            append_to_context=True,
            function_name=params.function_name,
            tool_call_id=params.tool_call_id,
            result_callback=params.result_callback,
        ),
        FrameDirection.UPSTREAM,
    )


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """Hold one conversation, from the client's arrival until it leaves."""
    stt, tts = await asyncio.to_thread(create_speech)
    llm = MistralLLMService(
        settings=MistralLLMService.Settings(
            model=os.getenv("MISTRAL_MODEL", "mistral-small-latest"),
            system_instruction=SYSTEM_INSTRUCTION,
            temperature=0.3,
            max_tokens=100,
            max_images=4,  # a conversation about what is seen now, not an hour ago
        ),
    )
    context = LLMContext(tools=[look])
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
                llm,
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
    # Frames enter the pipeline only when one is asked for.
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
    """Serve the demo's page, with an engine in Mistral's place."""
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
