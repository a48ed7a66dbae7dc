"""Turns of a call against a real vLLM: words, calls, a cut sentence, an interruption."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from call import Call
from fault_proxy import Arrival, Chunks, Ending, Road, Trouble
from histories import PICTURE
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import LLMFullResponseEndFrame, LLMTextFrame
from pipecat.metrics.metrics import LLMUsageMetricsData
from pipecat.processors.aggregators.llm_context import LLMContext
from real_vllm import KEY, MODEL, Vllm

from mistral_service import MistralClient, MistralLLMService
from mistral_service.wire.endpoint import endpoint_of, forget_endpoints

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ROOMS = ["hall", "kitchen"]
LIGHT = FunctionSchema(
    name="light",
    description="Turns the light of a room on or off.",
    # All of it is enumerated, so that noise under a grammar comes to an end.
    properties={"on": {"type": "boolean"}, "room": {"type": "string", "enum": ROOMS}},
    required=["on", "room"],
)
SCHEMA = {
    "type": "object",
    "properties": {"open": {"type": "boolean"}, "day": {"enum": ["Monday", "Tuesday"]}},
    "required": ["open", "day"],
    "additionalProperties": False,
}
PATIENT: dict[str, Any] = {
    "connect_timeout": 10.0,
    "first_token_timeout": 60.0,
    "stall_timeout": 60.0,
    "turn_timeout": 120.0,
    "hedging": False,
}
"""Two cores that also run a model are slow, which is not what is tried here."""


def service(base_url: str, **settings: Any) -> MistralLLMService:
    settings = {"model": MODEL, "max_tokens": 12, **PATIENT, **settings}
    return MistralLLMService(
        api_key=KEY, base_url=base_url, settings=MistralLLMService.Settings(**settings)
    )


@pytest.fixture
async def road(vllm: Vllm) -> AsyncIterator[Road]:
    async with Road(vllm.base_url) as road:
        yield road


async def said(call: Call, text: str, turns: int = 1) -> None:
    """Say something and wait as long as a busy machine may take."""
    ends = call.count(LLMFullResponseEndFrame) + turns
    await call.begin(text)
    await call.until(lambda: call.count(LLMFullResponseEndFrame) >= ends, seconds=120)


async def recognised(call: Call) -> None:
    """Wait until the service knows what it talks to; it asks while the pipeline starts."""
    llm = call.service
    assert isinstance(llm, MistralLLMService)
    endpoint = endpoint_of(llm.router.client(llm.router.route))
    await call.until(lambda: endpoint.server.name == "vllm", seconds=60)


def words_of(arrival: Arrival) -> str:
    """The words of a streamed answer, as they went over the road."""
    lines = bytes(arrival.passed).split(b"\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    return "".join(
        choice["delta"].get("content") or "" for event in events for choice in event["choices"]
    )


def bare(text: str) -> str:
    """A text without blanks: of two at a joint, one is left out."""
    return "".join(text.split())


async def test_a_reply_is_streamed(road: Road):
    async with Call(service(road.base_url)) as call:
        await recognised(call)
        await said(call, "Hello.")
        await said(call, "And?")
        assert not call.errors
        assert call.count(LLMTextFrame) > 4
        assert call.words == "".join(map(words_of, road.arrivals))
        tokens = [data.value.completion_tokens for data in call.metrics(LLMUsageMetricsData)]
    assert len(road.arrivals) == 2
    assert tokens == [12, 12]


async def test_the_same_seed_brings_the_same_words(vllm: Vllm):
    heard: list[str] = []
    for seed in (7, 7, 8):
        async with Call(service(vllm.base_url, random_seed=seed)) as call:
            await recognised(call)
            await said(call, "Hello.")
            assert not call.errors
            heard.append(call.words)
    assert heard[0] == heard[1] != heard[2]


@pytest.mark.parametrize("image", [PICTURE, {"url": PICTURE, "detail": "high"}], ids=type)
async def test_an_image_is_taken(vllm: Vllm, image: object):
    shown = {"role": "user", "content": [{"type": "image_url", "image_url": image}]}
    async with Call(service(vllm.base_url), shown) as call:
        await said(call, "What is it?")
        assert call.words
        assert not call.errors


CHOICES = ["any", "required", {"type": "function", "function": {"name": "light"}}]


@pytest.mark.parametrize("choice", CHOICES, ids=["any", "required", "named"])
async def test_a_call_that_the_grammar_forces_runs_once(road: Road, choice: object):
    llm = service(road.base_url, max_tokens=60, tool_choice=choice, parallel_tool_calls=False)
    ran: list[dict[str, Any]] = []

    async def light(params: Any) -> None:
        ran.append(dict(params.arguments))
        await params.result_callback("done")

    llm.register_function("light", light)
    async with Call(llm, tools=[LIGHT]) as call:
        await recognised(call)
        await said(call, "Light, please.", turns=2)
        assert not call.errors
    [arguments] = ran
    assert arguments.keys() == {"on", "room"}
    assert isinstance(arguments["on"], bool)
    assert arguments["room"] in ROOMS
    first, *_, last = [json.loads(each.body) for each in road.arrivals]
    assert first["tool_choice"] == ("required" if choice == "any" else choice)
    assert last["tool_choice"] == "auto"
    assert [message["role"] for message in last["messages"]][-2:] == ["assistant", "tool"]
    assert call.words  # about the result


async def test_a_reply_in_json(vllm: Vllm):
    form = {"type": "json_schema", "json_schema": {"name": "hours", "schema": SCHEMA}}
    async with Call(service(vllm.base_url, max_tokens=60, response_format=form)) as call:
        await said(call, "When is it open?")
        assert not call.errors
        reply = json.loads(call.words)
    assert isinstance(reply["open"], bool)
    assert reply["day"] in ("Monday", "Tuesday")


async def test_run_inference_follows_a_schema(vllm: Vllm):
    llm = service(vllm.base_url)
    context = LLMContext(messages=[{"role": "user", "content": "When is it open?"}])
    reply = await llm.run_inference(context, max_tokens=60, response_schema=SCHEMA)
    await llm.cleanup()
    assert json.loads(reply or "").keys() == {"open", "day"}


@pytest.mark.parametrize("how", [Ending.RST, Ending.FIN], ids=["reset", "closed"])
@pytest.mark.parametrize("known", [True, False], ids=["recognised", "not recognised"])
async def test_a_sentence_that_is_cut_goes_on(road: Road, how: Ending, known: bool):
    # Without a seed: with one, noise goes on with the same words again.
    async with Call(service(road.base_url, max_tokens=10)) as call:
        await recognised(call)
        if not known:
            forget_endpoints()
        road.ahead(Trouble(Chunks(5), how))
        await said(call, "Tell me.")
        assert not call.errors
    first, *learning, again = road.arrivals
    assert len(learning) == (0 if known else 1)
    before, after = words_of(first), words_of(again)
    assert before
    assert after
    assert bare(call.words) == bare(before + after)
    body = json.loads(again.body)
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False
    assert body["messages"][-1].keys() == {"role", "content"}
    assert bare(body["messages"][-1]["content"]) == bare(before)
    assert bare(call.context.get_messages()[-1]["content"]) == bare(before + after)


SET = {None: 1, "vllm": 1, "mistral": 2, "llama.cpp": 2, "azure": 2}
"""What the server is said to be, and the requests that it takes: one that is wrong costs one."""


@pytest.mark.parametrize("server", SET)
async def test_the_client_goes_on_from_the_assistants_words(road: Road, server: Any):
    history = [
        {"role": "user", "content": "Count."},
        {"role": "assistant", "content": "One, two,"},
    ]
    async with MistralClient(api_key=KEY, base_url=road.base_url, server=server) as client:
        await client.models()
        answer = await client.chat(history, model=MODEL, max_tokens=6)
    assert len(road.arrivals) == SET[server]
    last = road.arrivals[-1]
    assert json.loads(last.body)["continue_final_message"] is True
    assert answer.text == words_of(last)
    assert "One, two" not in answer.text


async def test_an_interruption_ends_the_work_of_the_server(vllm: Vllm):
    async with Call(service(vllm.base_url, max_tokens=3500)) as call:
        await call.begin("Tell me everything.")
        await call.until(lambda: call.count(LLMTextFrame) > 3, seconds=120)
        assert await asyncio.to_thread(lambda: vllm.running) == 1
        await call.interrupt()
        # Of 3,500 tokens, which take a minute, a few have come.
        for _ in range(50):
            if await asyncio.to_thread(lambda: vllm.running) == 0:
                break
            await asyncio.sleep(0.1)
        assert await asyncio.to_thread(lambda: vllm.running) == 0
        assert call.count(LLMTextFrame) < 1000
