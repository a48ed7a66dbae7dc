"""A booking in four steps with Pipecat Flows: each step has its own task, functions and context.

With a key::

    export MISTRAL_API_KEY=...
    python examples/flow.py -t webrtc

Offline, with a script in Mistral's place, and `pipecat eval` as the caller::

    python -m mistral_service.local --port 8080 --script examples/evals/flow.json &
    export MISTRAL_API_KEY=any MISTRAL_BASE_URL=http://127.0.0.1:8080/v1
    python examples/flow.py &
    pipecat eval run examples/evals/flow.yaml -v
"""

import asyncio

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.evals.transport import EvalTransportParams
from pipecat.flows import (
    ContextStrategy,
    ContextStrategyConfig,
    FlowManager,
    NodeConfig,
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
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.workers.runner import WorkerRunner
from voice_bot import create_speech

from mistral_service import MistralLLMService

ROLE = (
    "You answer the phone of the Trattoria Aurora, in one or two short sentences of plain words. "
    "Ask for one thing at a time, and call a function as soon as you know what it needs."
)

# What the context of a step holds besides its task: everything so far, a summary, or nothing.
# Pipecat 1.14 still has the summary, and deprecates it for its summarization of contexts.
APPEND = ContextStrategyConfig(strategy=ContextStrategy.APPEND)
SUMMARY = ContextStrategyConfig(
    strategy=ContextStrategy.RESET_WITH_SUMMARY,
    summary_prompt="Summarize the call in one sentence: what the caller wants and has chosen.",
)
RESET = ContextStrategyConfig(strategy=ContextStrategy.RESET)


def table_node() -> NodeConfig:
    """When the caller comes, and with how many guests."""
    return {
        "name": "table",
        "role_message": ROLE,  # it holds for the steps that follow, too
        "task_messages": [
            {
                "role": "developer",
                "content": "Greet the caller. Find out the day and the number of guests, offer the "
                "free times, and reserve the one that the caller chooses.",
            }
        ],
        "functions": [find_times, reserve],
    }


async def find_times(flow_manager: FlowManager, day: str, guests: int):
    """Look for free tables.

    Args:
        day: The day, as "Friday".
        guests: How many people come.
    """
    flow_manager.state.update(day=day, guests=guests)
    return {"free": ["19:00", "21:00"]}, None  # the model answers, and the step goes on


async def reserve(flow_manager: FlowManager, time: str):
    """Reserve a table at one of the free times.

    Args:
        time: The time, as "19:00".
    """
    flow_manager.state["time"] = time
    return {"reserved": time}, name_node()


def name_node() -> NodeConfig:
    """In whose name."""
    return {
        "name": "name",
        "task_messages": [{"role": "developer", "content": "Ask for the caller's name."}],
        "functions": [note_name],
        "context_strategy": APPEND,
    }


async def note_name(flow_manager: FlowManager, name: str):
    """Note the caller's name.

    Args:
        name: The name.
    """
    flow_manager.state["name"] = name
    return {"noted": name}, allergies_node()


def allergies_node() -> NodeConfig:
    """What the kitchen has to know."""
    return {
        "name": "allergies",
        "task_messages": [{"role": "developer", "content": "Ask whether a guest has allergies."}],
        "functions": [book],
        "context_strategy": SUMMARY,
    }


async def book(flow_manager: FlowManager, allergies: str):
    """Book the table.

    Args:
        allergies: What the guests must not eat, in a few words, or "nothing".
    """
    flow_manager.state["allergies"] = allergies
    return {"booked": True}, goodbye_node()


def goodbye_node() -> NodeConfig:
    """The booking is read back, and the call ends."""
    return {
        "name": "goodbye",
        "task_messages": [
            {
                "role": "developer",
                # The context holds nothing else now: Flows fills in what the steps have noted.
                "content": "Confirm the booking, and say goodbye: {{ guests }} guests on {{ day }} "
                "at {{ time }}, in the name of {{ name }}, who must not eat {{ allergies }}.",
            }
        ],
        "context_strategy": RESET,
        "post_actions": [{"type": "end_conversation"}],
    }


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """Hold one call, from its beginning until either side hangs up."""
    stt, tts = await asyncio.to_thread(create_speech)
    llm = MistralLLMService(settings=MistralLLMService.Settings(temperature=0.2))
    aggregators = LLMContextAggregatorPair(
        LLMContext(), user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    worker = PipelineWorker(
        Pipeline(
            [
                transport.input(),
                stt,
                aggregators.user(),
                llm,
                tts,
                transport.output(),
                aggregators.assistant(),
            ]
        ),
        params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
        idle_timeout_secs=runner_args.pipeline_idle_timeout_secs,
    )
    flow = FlowManager(worker=worker, llm=llm, context_aggregator=aggregators, transport=transport)
    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)

    @worker.rtvi.event_handler("on_client_ready")
    async def on_client_ready(rtvi):
        await flow.initialize(table_node())

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport, client):
        await runner.cancel()

    await runner.run()


async def bot(runner_args: RunnerArguments) -> None:
    """What Pipecat's runner calls for every client that connects."""
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
