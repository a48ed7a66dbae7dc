"""llama.cpp's own server, with Mistral's template and a model that counts, asked through us."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import httpx
import pytest
from call import Call
from counting_model import COUNT, counting_model
from fault_proxy import Ending, Marker, Road, Trouble
from histories import PICTURE
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import (
    LLMFullResponseEndFrame,
    LLMMessagesUpdateFrame,
)
from pydantic import BaseModel, Field
from real_servers import MODEL, Server, llama_cpp, some_histories

from mistral_service import MistralClient, MistralError, MistralLLMService, Reason
from mistral_service.client import LIMITS

HISTORIES = 100
USER = [{"role": "user", "content": "Count."}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with llama_cpp(counting_model(tmp_path_factory.mktemp("model") / "count.gguf")) as server:
        yield server


def service(server: Server, base_url: str | None = None, **settings) -> MistralLLMService:
    return MistralLLMService(
        api_key=server.api_key,
        base_url=base_url or server.base_url,
        settings=MistralLLMService.Settings(model=MODEL, **settings),
    )


def client(server: Server, **options) -> MistralClient:
    return MistralClient(**{"api_key": server.api_key, "base_url": server.base_url, **options})


CITY = {"type": "string", "enum": ["Paris"]}
SCHEMA = {"type": "object", "properties": {"city": CITY}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
WEATHER = FunctionSchema("weather", "", properties={"city": CITY}, required=["city"])


async def test_any_history_is_taken_in_a_pipeline(server: Server):
    """The template refuses what does not alternate, and ids that are not of nine characters."""
    drawn = some_histories(HISTORIES, 18)
    for tools in (False, True):
        mine = [history for history, offered in drawn if offered == tools]
        assert len(mine) > HISTORIES / 10
        offered = [WEATHER] if tools else []
        async with Call(service(server, temperature=0), tools=offered) as call:
            for number, history in enumerate(mine, 1):
                await call.worker.queue_frame(LLMMessagesUpdateFrame(history, run_llm=True))
                await call.until(lambda n=number: call.count(LLMFullResponseEndFrame) == n)
            assert [error.error for error in call.errors] == []
            assert call.words.count("ten.") >= len(mine)


async def test_images_are_not_sent_to_a_model_without_eyes(server: Server):
    """The server tells it in its list of models."""
    seen = [
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "text", "text": "Count."},
    ]
    async with Call(service(server), {"role": "user", "content": seen}) as call:
        await call.until(lambda: call.service.router.card(call.service.router.route))
        assert await call.say("Count.") == COUNT
        [error] = call.errors
        assert "with vision" in error.error


async def test_any_history_is_taken_by_the_client(server: Server):
    async with client(server) as mistral:
        await mistral.models()  # which names the server
        for history, _ in some_histories(20, 19):
            answer = await mistral.chat(history, temperature=0)
            assert answer.text.endswith("ten.")


async def test_a_reply_is_streamed_and_another_follows(server: Server):
    async with Call(service(server)) as call:
        assert await call.say("Count.") == COUNT
        assert await call.say("Again.") == COUNT
        assert not call.errors
    async with client(server) as mistral:
        events = [event async for event in mistral.stream_chat(USER)]
    assert "".join(getattr(event, "text", "") for event in events) == COUNT


async def test_no_request_goes_over_a_connection_that_the_server_has_closed(server: Server):
    """It closes one right after a stream, without a word."""
    async with client(server, limits=replace(LIMITS, attempts=1)) as mistral:
        await mistral.models()  # which names the server
        for _ in range(20):
            assert (await mistral.chat(USER)).text == COUNT


NAMED = {"type": "function", "function": {"name": "weather"}}
OTHER = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}


async def test_the_function_that_is_named_is_called(server: Server):
    async with client(server) as mistral:
        await mistral.models()
        answer = await mistral.chat(USER, tools=[OTHER, TOOL], tool_choice=NAMED, temperature=0)
    assert {call.name for call in answer.tool_calls} == {"weather"}


@pytest.mark.parametrize("choice", ["required", "any"])
async def test_a_function_is_called_where_one_has_to_be(server: Server, choice: str):
    async with client(server) as mistral:
        answer = await mistral.chat(USER, tools=[TOOL], tool_choice=choice, temperature=0)
    [call] = answer.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Paris"})


async def test_a_function_runs_and_its_result_is_taken(server: Server):
    llm = service(server, tool_choice="required", temperature=0)
    ran: list[str] = []

    async def weather(params) -> None:
        ran.append(params.arguments["city"])
        await params.result_callback("It rains.")

    llm.register_function("weather", weather)
    async with Call(llm, tools=[WEATHER]) as call:
        await call.begin("What is the weather?")
        await call.until(lambda: call.count(LLMFullResponseEndFrame) >= 2)
        assert ran[0] == "Paris"
        assert not call.errors


class Place(BaseModel):
    city: Literal["Paris", "Rome"]
    days: int = Field(ge=3, le=9)


async def test_a_reply_has_the_form_that_is_asked_for(server: Server):
    async with client(server) as mistral:
        place = await mistral.chat_as(Place, USER, temperature=0)
        assert place.days >= 3
        assert isinstance(await mistral.chat_json(USER, temperature=0), dict)


@pytest.mark.parametrize("tools", [False, True])
async def test_a_sentence_that_is_cut_goes_on(server: Server, tools: bool):
    async with Road(server.base_url) as road:
        road.ahead(Trouble(Marker(b'" three"'), Ending.RST))
        llm = service(server, road.base_url, temperature=0)
        async with Call(llm, tools=[WEATHER] if tools else []) as call:
            assert await call.say("Count.") == COUNT
            assert not call.errors
        assert road.met.is_set()


async def test_an_interruption_ends_the_work_of_the_server(tmp_path: Path):
    with llama_cpp(counting_model(tmp_path / "endless.gguf", endless=True)) as server:
        key = {"Authorization": f"Bearer {server.api_key}"}
        slots = f"{server.base_url.removesuffix('/v1')}/slots"
        async with httpx.AsyncClient(headers=key) as http, Call(service(server)) as call:

            async def works() -> bool:
                return any(slot["is_processing"] for slot in (await http.get(slots)).json())

            await call.begin("Count.")
            await call.until(lambda: "three" in call.words)
            assert await works()
            await call.interrupt()
            for _ in range(100):
                if not await works():
                    break
                await asyncio.sleep(0.05)
            assert not await works()
            assert not call.errors


async def test_a_wrong_key_is_one_clear_error(server: Server):
    async with client(server, api_key="wrong") as mistral:
        with pytest.raises(MistralError, match="Invalid API Key") as raised:
            await mistral.chat(USER)
    assert raised.value.reason is Reason.KEY
    assert "wrong" not in str(raised.value)


async def test_a_model_that_does_not_exist_is_answered_all_the_same(server: Server):
    """One model is loaded, and its name counts for nothing."""
    async with client(server) as mistral:
        assert (await mistral.chat(USER, model="nonesuch")).text == COUNT


async def test_what_the_server_says_of_itself(server: Server):
    """What tells it from Mistral's API."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {server.api_key}"}) as http:
        response = await http.get(f"{server.base_url}/models")
    [card] = response.json()["data"]
    assert response.headers["server"] == "llama.cpp"
    assert (card["id"], card["owned_by"]) == (MODEL, "llamacpp")
    assert "capabilities" not in card
    assert card["architecture"]["input_modalities"] == ["text"]
