"""A hotel reception that answers from a handbook: a Haystack pipeline behind a function.

`mistral-embed` embeds the handbook (`handbook/*.md`) once. The function `search` finds the sections
that are nearest to a question, and the bot answers from them. With a key::

    pip install 'pipecat-mistral-service[haystack]'
    export MISTRAL_API_KEY=...
    python examples/knowledge_agent.py -t webrtc

Offline, in text, with the strict local endpoint instead of Mistral: a script replies, and a small
real model makes the embeddings, so that the search is real::

    python examples/knowledge_agent.py --offline
"""

import asyncio
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

# Haystack sends telemetry by default; a call is private.
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

from haystack import Document, Pipeline
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret
from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import EndFrame, LLMRunFrame
from pipecat.pipeline import pipeline
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

HANDBOOK = Path(__file__).parent / "handbook"
SYSTEM_INSTRUCTION = (
    "You answer the phone of the Hotel Aurora, in one or two short sentences of plain words. "
    "Search the handbook before you answer a question about the hotel, and say so if it has no "
    "answer."
)


class Handbook:
    """A semantic search in the handbook."""

    def __init__(self, folder: Path = HANDBOOK) -> None:
        # Haystack's components for OpenAI work with Mistral's API, by its address.
        mistral: dict[str, Any] = {
            "api_key": Secret.from_env_var("MISTRAL_API_KEY"),
            "api_base_url": os.environ.get("MISTRAL_BASE_URL", "https://api.mistral.ai/v1"),
            "model": "mistral-embed",
        }
        store = InMemoryDocumentStore(embedding_similarity_function="cosine")
        indexing = Pipeline()
        indexing.add_component("embedder", OpenAIDocumentEmbedder(**mistral, progress_bar=False))
        indexing.add_component("writer", DocumentWriter(store))
        indexing.connect("embedder", "writer")
        indexing.run({"embedder": {"documents": sections(folder)}})

        self._search = Pipeline()
        self._search.add_component("embedder", OpenAITextEmbedder(**mistral))
        self._search.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=2))
        self._search.connect("embedder.embedding", "retriever.query_embedding")

    def find(self, query: str) -> list[dict[str, str]]:
        """Find the two sections that are nearest to a question. Blocks on the network."""
        found = self._search.run({"embedder": {"text": query}})["retriever"]["documents"]
        return [{"page": document.meta["page"], "text": document.content} for document in found]


@cache
def handbook() -> Handbook:
    """The handbook, embedded once for all calls."""
    return Handbook()


def sections(folder: Path) -> list[Document]:
    """The sections of all pages, each with the title of its page."""
    found: list[Document] = []
    for path in sorted(folder.glob("*.md")):
        head, *parts = path.read_text("utf-8").split("\n## ")
        title = head.strip().removeprefix("# ")
        found += [Document(content=f"{title}: {part}", meta={"page": path.stem}) for part in parts]
    return found


async def search(params: FunctionCallParams, query: str):
    """Search the hotel's handbook.

    Args:
        query: What the guest wants to know, in a few words.
    """
    # Haystack blocks on the network: in a thread, so that the call's audio goes on.
    found = await asyncio.to_thread(lambda: handbook().find(query))
    await params.result_callback({"sections": found})


def create_llm() -> MistralLLMService:
    """The receptionist."""
    return MistralLLMService(
        settings=MistralLLMService.Settings(
            system_instruction=SYSTEM_INSTRUCTION, temperature=0.2, max_tokens=120
        )
    )


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """Run one call, until the caller hangs up."""
    # The handbook is embedded while the speech models load.
    (stt, tts), _ = await asyncio.gather(
        asyncio.to_thread(create_speech), asyncio.to_thread(handbook)
    )
    llm, context = create_llm(), LLMContext(tools=[search])
    user, assistant = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    worker = PipelineWorker(
        pipeline.Pipeline([transport.input(), stt, user, llm, tts, transport.output(), assistant]),
        params=PipelineParams(enable_metrics=True),
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
        {"webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True)},
    )
    await run_bot(transport, runner_args)


# --- offline ------------------------------------------------------------------------------------

QUESTIONS = [
    "Can I bring my puppy along?",
    "From when can we swim in the morning?",
    "Where do I find the wifi password?",
]


def offline_script():
    """A script that calls the search, and answers from its results."""
    from mistral_service.local import Reply, Script

    answers = {
        "fifteen euros": "Yes, dogs are welcome for fifteen euros a night.",
        "opens at seven": "The pool opens at seven in the morning.",
        "wardrobe": "It hangs on the inside of the wardrobe door.",
    }
    return Script(
        *(
            Reply(when=question, tool_calls=[{"name": "search", "arguments": {"query": question}}])
            for question in QUESTIONS
        ),
        *(Reply(text, when=f"sections.*{found}") for found, text in answers.items()),
    )


async def converse() -> None:
    """Ask some questions, in the terminal."""
    await asyncio.to_thread(handbook)
    context = LLMContext(tools=[search])
    user, assistant = LLMContextAggregatorPair(context)
    worker = PipelineWorker(pipeline.Pipeline([user, create_llm(), assistant]), enable_rtvi=False)
    answered = asyncio.Event()

    @assistant.event_handler("on_assistant_turn_stopped")
    async def on_assistant_turn_stopped(aggregator, message):
        if message.content:
            print(message.content)
            answered.set()

    runner = WorkerRunner()
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    for question in QUESTIONS:
        print(f"\nGuest: {question}\nHotel: ", end="", flush=True)
        answered.clear()
        context.add_message({"role": "user", "content": question})
        await worker.queue_frame(LLMRunFrame())
        await answered.wait()
    await worker.queue_frame(EndFrame())
    await running


def main() -> None:
    if "--offline" not in sys.argv:
        from pipecat.runner.run import main as run

        return run()

    from mistral_service.local import LocalMistral

    logger.remove()
    with LocalMistral(offline_script()) as mistral:
        os.environ["MISTRAL_BASE_URL"] = mistral.base_url
        os.environ["MISTRAL_API_KEY"] = "any"
        asyncio.run(asyncio.wait_for(converse(), 60))


if __name__ == "__main__":
    main()
