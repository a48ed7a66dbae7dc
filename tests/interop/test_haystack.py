"""Haystack beside us: its Mistral components against the strict endpoint, and the example."""

import asyncio
import importlib.util
import inspect
import re
import sys
import textwrap
import threading
from types import ModuleType, SimpleNamespace

import pytest
from bots import EXAMPLES, printed

from mistral_service.local import LocalMistral, Reply


@pytest.fixture(autouse=True)
def _nobody_else_hears_of_it(monkeypatch):
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    monkeypatch.setenv("MISTRAL_API_KEY", "any")


def usage_examples(component: type) -> list[str]:
    """The examples that a component's documentation shows, without the output shown with them."""
    fenced = re.findall(r"```python\n(.*?)```", component.__doc__ or "", re.DOTALL)
    return [re.sub(r"(?m)^>>.*\n", "", textwrap.dedent(code)) for code in fenced]


def run(code: str, mistral: LocalMistral, **names) -> dict:
    """Run code as it is, but for where Mistral is."""
    there = f'api_base_url="{mistral.base_url}"'
    code = re.sub(r"\b(Mistral\w+)\((?=\S*)", rf"\1({there}, ", code)
    scope: dict = dict(names)
    exec(compile(code, "usage example", "exec"), scope)
    return scope


# --- what Haystack's documentation shows ----------------------------------------------------------


def test_the_chat_examples_run_unchanged(serve, capsys):
    from haystack_integrations.components.generators.mistral import MistralChatGenerator

    plain, reasoning = usage_examples(MistralChatGenerator)
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Seven less three."}]}
    mistral = serve(
        Reply("It is how machines read."), Reply(deltas=[{"content": [thinking]}, {"content": "4"}])
    )
    assert run(plain, mistral)["response"]["replies"][0].text == "It is how machines read."
    answer = run(reasoning, mistral)["response"]["replies"][0]
    assert answer.text == "4"
    assert answer.reasoning.reasoning_text == "Seven less three."
    assert mistral.exchanges[1].request["reasoning_effort"] == "high"
    assert "It is how machines read." in capsys.readouterr().out


def test_the_embedding_examples_run_unchanged(serve, capsys):
    from haystack_integrations.components.embedders.mistral import (
        MistralDocumentEmbedder,
        MistralTextEmbedder,
    )

    mistral = serve()
    [documents] = usage_examples(MistralDocumentEmbedder)
    assert len(run(documents, mistral)["result"]["documents"][0].embedding) == 1024
    [text] = usage_examples(MistralTextEmbedder)
    run(text, mistral)
    assert capsys.readouterr().out.count("[") >= 2
    assert [e.path for e in mistral.exchanges] == ["embeddings"] * 2
    assert [e.refused for e in mistral.exchanges] == [None] * 2


def test_a_callback_hears_the_reply_as_it_comes(serve, capsys):
    from haystack.components.generators.utils import print_streaming_chunk
    from haystack.dataclasses import ChatMessage
    from haystack_integrations.components.generators.mistral import MistralChatGenerator

    mistral = serve(Reply("Comté, says the one; Roquefort, says the other."))
    generator = MistralChatGenerator(
        api_base_url=mistral.base_url,
        model="mistral-medium",
        streaming_callback=print_streaming_chunk,
    )
    reply = generator.run(messages=[ChatMessage.from_user("Which cheese?")])["replies"][0]
    assert reply.text == "Comté, says the one; Roquefort, says the other."
    assert reply.text in capsys.readouterr().out
    assert mistral.exchanges[0].request["stream"]


def test_functions_of_haystack_are_called(serve):
    from haystack.dataclasses import ChatMessage
    from haystack.tools import create_tool_from_function
    from haystack_integrations.components.generators.mistral import MistralChatGenerator

    def weather(city: str) -> str:
        """Tell the weather."""
        return f"Rain in {city}."

    mistral = serve(Reply(tool_calls=[{"name": "weather", "arguments": {"city": "Oslo"}}]))
    generator = MistralChatGenerator(
        api_base_url=mistral.base_url, tools=[create_tool_from_function(weather)]
    )
    reply = generator.run([ChatMessage.from_user("How is the weather?")])["replies"][0]
    assert [(c.tool_name, c.arguments) for c in reply.tool_calls] == [("weather", {"city": "Oslo"})]


def test_a_pipeline_indexes_and_finds(serve):
    from haystack import Document, Pipeline
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.components.writers import DocumentWriter
    from haystack.document_stores.in_memory import InMemoryDocumentStore
    from haystack_integrations.components.embedders.mistral import (
        MistralDocumentEmbedder,
        MistralTextEmbedder,
    )

    address = serve().base_url
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing = Pipeline()
    indexing.add_component(name="embedder", instance=MistralDocumentEmbedder(api_base_url=address))
    indexing.add_component(name="writer", instance=DocumentWriter(document_store=store))
    indexing.connect("embedder", "writer")
    texts = ["Ada lives by the harbour.", "A horse ran past.", "The soup was too salty."]
    indexing.run(data={"embedder": {"documents": [Document(content=text) for text in texts]}})

    finding = Pipeline()
    finding.add_component("embedder", MistralTextEmbedder(api_base_url=address))
    finding.add_component("retriever", InMemoryEmbeddingRetriever(document_store=store))
    finding.connect("embedder.embedding", "retriever.query_embedding")
    found = finding.run({"embedder": {"text": "Where is Ada's home?"}})["retriever"]["documents"]
    assert found[0].content == texts[0]


# --- the example ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The example as a module."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        spec = importlib.util.spec_from_file_location(
            "knowledge_agent", EXAMPLES / "knowledge_agent.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLES))
    return module


def test_the_hotel_answers_from_its_handbook():
    said = printed("knowledge_agent.py")
    # The script answers only from what was found: another section, and it has no answer.
    for answer in ("fifteen euros a night", "opens at seven", "inside of the wardrobe door"):
        assert answer in said


FOUND = {
    "Is there a place for my car?": "arrival",
    "Until when is breakfast?": "table",
    "How do I turn on the heating?": "rooms",
    "Do you have a bed for our baby?": "guests",
    "I would like to use the sauna.": "pool",
}


def test_the_handbook_is_found_by_what_it_means(serve, monkeypatch, example):
    mistral = serve()
    monkeypatch.setenv("MISTRAL_BASE_URL", mistral.base_url)
    book = example.Handbook()
    for question, page in FOUND.items():
        assert page in [section["page"] for section in book.find(question)], question
    # The pages are made into vectors once, and a question each time.
    assert len(mistral.exchanges[0].request["input"]) == 12
    assert len(mistral.exchanges) == 1 + len(FOUND)


async def test_a_search_does_not_stop_the_call(monkeypatch, example):
    went_on = threading.Event()

    def find(query: str) -> list[str]:
        assert went_on.wait(30)
        return [query]

    told: list[dict] = []

    async def result_callback(result: dict) -> None:
        told.append(result)

    monkeypatch.setattr(example, "handbook", lambda: SimpleNamespace(find=find))
    searching = asyncio.create_task(
        example.search(SimpleNamespace(result_callback=result_callback), "pool")
    )
    for _ in range(10):
        await asyncio.sleep(0.01)
    went_on.set()  # the audio of the call would have gone on
    await searching
    assert told == [{"sections": ["pool"]}]


def test_the_guide_shows_what_the_example_does(example):
    guide = (EXAMPLES.parent / "docs" / "haystack.md").read_text()
    for name in re.findall(r"`(\w+)\(\)`", guide):
        assert callable(getattr(example, name, None)), name
    assert "to_thread" in inspect.getsource(example.search)
