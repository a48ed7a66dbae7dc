"""A restaurant that answers its phone: parallel functions, and one that ends the call.

With a key::

    export MISTRAL_API_KEY=...
    python examples/function_calling.py -t webrtc

Offline, with a script instead of Mistral, and `pipecat eval` as the caller::

    python -m mistral_service.local --port 8080 --script examples/evals/function_calling.json &
    export MISTRAL_API_KEY=any MISTRAL_BASE_URL=http://127.0.0.1:8080/v1
    python examples/function_calling.py &
    pipecat eval run examples/evals/function_calling.yaml -v
"""

import asyncio

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.evals.transport import EvalTransportParams
from pipecat.frames.frames import (
    EndWorkerFrame,
    FunctionCallResultProperties,
    LLMRunFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.services.llm_service import FunctionCallParams
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.workers.runner import WorkerRunner
from voice_bot import create_speech

from mistral_service import MistralLLMService

SYSTEM_INSTRUCTION = (
    "You answer the phone of the Trattoria Aurora, in one or two short sentences of plain words. "
    "Ask the kitchen and the book before you promise anything. When the caller says goodbye, end "
    "the call."
)


async def find_table(params: FunctionCallParams, day: str, people: int):
    """Look into the book for a free table.

    Args:
        day: The day, as "Friday".
        people: How many people come.
    """
    await asyncio.sleep(0.2)  # as slow as a database
    await params.result_callback({"day": day, "people": people, "free": ["19:00", "21:00"]})


async def dish_of_the_day(params: FunctionCallParams, day: str):
    """Ask the kitchen what it cooks.

    Args:
        day: The day, as "Friday".
    """
    await params.result_callback({"day": day, "dish": "risotto with saffron"})


async def end_call(params: FunctionCallParams):
    """Say goodbye and hang up."""
    quiet = FunctionCallResultProperties(run_llm=False)
    await params.result_callback({"ended": True}, properties=quiet)
    await params.llm.push_frame(TTSSpeakFrame("Goodbye, and see you soon."))
    await params.llm.push_frame(EndWorkerFrame())


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """Run one call, until the caller hangs up."""
    stt, tts = await asyncio.to_thread(create_speech)
    llm = MistralLLMService(
        settings=MistralLLMService.Settings(system_instruction=SYSTEM_INSTRUCTION, temperature=0.2)
    )
    # Functions in the context are registered automatically.
    context = LLMContext(tools=[find_table, dish_of_the_day, end_call])
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
        context.add_message({"role": "developer", "content": "Greet the caller."})
        await worker.queue_frames([LLMRunFrame()])

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport, client):
        await runner.cancel()

    await runner.run()


async def bot(runner_args: RunnerArguments) -> None:
    """Pipecat's runner calls this for every client."""
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
