"""Functions of an MCP server: the bot asks `mcp-server-time` what time it is elsewhere.

The server is a process of its own that the bot starts and stops. It prints the talk in the
terminal::

    pip install 'pipecat-ai[mcp]' mcp-server-time
    export MISTRAL_API_KEY=...
    python examples/mcp_tools.py

Offline, with a script in Mistral's place and the same server::

    python examples/mcp_tools.py --offline
"""

import argparse
import asyncio
import contextlib
import os
import sys

from loguru import logger
from mcp import StdioServerParameters
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    FunctionCallResultFrame,
    LLMMessagesAppendFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    AssistantTurnStoppedMessage,
    LLMContextAggregatorPair,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.mcp_service import MCPClient
from pipecat.workers.runner import WorkerRunner

from mistral_service import MistralLLMService

INSTRUCTION = "You tell callers what time it is elsewhere. Answer in one short sentence."
SERVER = StdioServerParameters(command=sys.executable, args=["-m", "mcp_server_time"])
TURNS = [
    "When it is nine in the morning in Tokyo, what time is it in Kolkata?",
    "And what time is it on Mars?",
]


async def converse(*, offline: bool) -> None:
    """Talk with a bot that has the functions of the server."""
    llm = MistralLLMService(
        settings=MistralLLMService.Settings(
            system_instruction=INSTRUCTION,
            hedging=not offline,  # a script has one answer to each question
        )
    )
    mcp = MCPClient(SERVER)
    # Functions listed in the context are registered by themselves. The end of the pipeline ends
    # the server, too.
    context = LLMContext(tools=await mcp.tools())
    user, assistant = LLMContextAggregatorPair(context)
    worker = PipelineWorker(Pipeline([user, llm, assistant]), enable_rtvi=False)
    worker.set_reached_upstream_filter((FunctionCallResultFrame,))
    answered = asyncio.Event()

    @worker.event_handler("on_frame_reached_upstream")
    async def on_frame_reached_upstream(
        worker: PipelineWorker, frame: FunctionCallResultFrame
    ) -> None:
        print(f"({frame.function_name}: {' '.join(frame.result.split())})")

    @assistant.event_handler("on_assistant_turn_stopped")
    async def on_assistant_turn_stopped(
        aggregator: FrameProcessor, message: AssistantTurnStoppedMessage
    ) -> None:
        if message.content:
            print(f"Bot: {message.content}")
            answered.set()

    @worker.event_handler("on_pipeline_error")
    async def on_pipeline_error(worker: PipelineWorker, frame: ErrorFrame) -> None:
        print(f"! {frame.error}")
        answered.set()

    runner = WorkerRunner()
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    for question in TURNS:
        print(f"You: {question}")
        answered.clear()
        message = {"role": "user", "content": question}
        await worker.queue_frame(LLMMessagesAppendFrame([message], run_llm=True))
        await answered.wait()
    await worker.queue_frame(EndFrame())
    await running


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--offline", action="store_true", help="needs no key and no network")
    offline = parser.parse_args().offline
    logger.remove()
    with contextlib.ExitStack() as stack:
        if offline:
            from mistral_service.local import LocalMistral, Reply, Script

            def convert(source: str, time: str, target: str) -> dict:
                arguments = {"source_timezone": source, "time": time, "target_timezone": target}
                return {"name": "convert_time", "arguments": arguments}

            script = Script(
                Reply(tool_calls=[convert("Asia/Tokyo", "09:00", "Asia/Kolkata")]),
                Reply("It is half past five there.", when="05:30"),
                Reply(tool_calls=[convert("Asia/Tokyo", "09:00", "Mars/Olympus")]),
                Reply("I have no clock on Mars.", when="Mars"),
            )
            mistral = stack.enter_context(LocalMistral(script))
            os.environ["MISTRAL_BASE_URL"] = mistral.base_url
            os.environ["MISTRAL_API_KEY"] = "any"
        asyncio.run(converse(offline=offline))


if __name__ == "__main__":
    main()
