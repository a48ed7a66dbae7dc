"""LiteLLM's proxy between us and the strict endpoint."""

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest
from call import Call
from fault_proxy import Ending, Marker, Road, Trouble
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import LLMFullResponseEndFrame, LLMMessagesUpdateFrame
from pipecat.metrics.metrics import LLMUsageMetricsData
from pydantic import BaseModel
from real_servers import MODEL, Server, litellm_proxy, some_histories

from mistral_service import MistralClient, MistralError, MistralLLMService, Reason
from mistral_service.local import LocalMistral, Reply, Script
from mistral_service.local.app import Exchange
from mistral_service.wire.servers import ServerName

pytestmark = pytest.mark.timeout(400)  # the proxy takes ten seconds to start, where none is busy
PATIENT = {"first_token_timeout": 20.0, "turn_timeout": 40.0, "hedging": False}
"""The proxy is slow on a busy machine, and slowest at its first request."""
UPSTREAM_KEY = "sk-upstream"
USER = [{"role": "user", "content": "Hello."}]
PLACE = {"type": "string"}
WEATHER = FunctionSchema("weather", "", properties={"city": PLACE}, required=["city"])
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": PLACE}},
    },
}


@pytest.fixture(scope="module")
def mistral() -> Iterator[LocalMistral]:
    with LocalMistral(Script(), api_key=UPSTREAM_KEY) as mistral:
        yield mistral


@pytest.fixture(scope="module")
def server(mistral: LocalMistral, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    upstream = {"api_base": mistral.base_url, "api_key": UPSTREAM_KEY}
    models = {
        MODEL: {"model": f"mistral/{MODEL}", **upstream},
        "not-upstream": {"model": "mistral/nonesuch", **upstream},
        "key-of-another": {"model": f"mistral/{MODEL}", **upstream, "api_key": "sk-old"},
    }
    with litellm_proxy(tmp_path_factory.mktemp("litellm"), models) as server:
        yield server


@pytest.fixture
def answers(mistral: LocalMistral):
    """What is asked of the endpoint behind the proxy, and its answers: `answers(Reply("Hi."))`."""

    def script(*replies: Reply) -> list[Exchange]:
        mistral.script.clear()
        mistral.script.add(*replies)
        del mistral.exchanges[:]
        return mistral.exchanges

    return script


def service(
    server: Server, base_url: str | None = None, kind: ServerName | None = None, **settings
) -> MistralLLMService:
    return MistralLLMService(
        api_key=server.api_key,
        base_url=base_url or server.base_url,
        server=kind,
        settings=MistralLLMService.Settings(**{"model": MODEL, **PATIENT, **settings}),
    )


def client(server: Server, kind: ServerName | None = None, **options) -> MistralClient:
    given = {"api_key": server.api_key, "base_url": server.base_url, "server": kind, **options}
    return MistralClient(**given)


async def test_any_history_is_taken_in_a_pipeline(server, answers):
    exchanges = answers(Reply("Yes.", times=None))
    drawn = some_histories(20, 20, images=True)
    for tools in (False, True):
        mine = [history for history, offered in drawn if offered == tools]
        llm = service(server, kind="litellm")  # its list of models does not name it
        async with Call(llm, tools=[WEATHER] if tools else []) as call:
            for number, history in enumerate(mine, 1):
                await call.worker.queue_frame(LLMMessagesUpdateFrame(history, run_llm=True))
                await call.until(lambda n=number: call.count(LLMFullResponseEndFrame) == n, 40)
            assert [error.error for error in call.errors] == []
            assert call.words == "Yes." * len(mine)
    assert [exchange.refused for exchange in exchanges] == [None] * len(drawn)


async def test_any_history_is_taken_by_the_client(server, answers):
    exchanges = answers(Reply("Yes.", times=None))
    drawn = some_histories(40, 21, images=True)
    async with client(server, kind="litellm") as mistral:
        asked = [mistral.chat(h, tools=[TOOL] if tools else []) for h, tools in drawn]
        assert {answer.text for answer in await asyncio.gather(*asked)} <= {"Yes.", "."}
    assert [exchange.refused for exchange in exchanges] == [None] * len(drawn)


async def test_replies_are_streamed_and_settings_arrive(server, answers):
    exchanges = answers(Reply("Good morning, how are you?"), Reply("Fine."))
    async with (
        Road(server.base_url) as road,
        Call(service(server, road.base_url, random_seed=7, temperature=0.2)) as call,
    ):
        assert await call.say("Hello.") == "Good morning, how are you?"
        assert await call.say("And?") == "Fine."
        assert not call.errors
        await call.until(lambda: [m.value for m in call.metrics(LLMUsageMetricsData)])
    # The proxy's provider does not know `prompt_cache_key`: that is learned at the first request.
    assert len(road.arrivals) == 3
    for exchange in exchanges:
        assert exchange.refused is None
        assert (exchange.request["random_seed"], exchange.request["temperature"]) == (7, 0.2)


async def test_functions_are_called_once_and_their_results_taken(server, answers):
    calls = [{"name": "weather", "arguments": {"city": city}} for city in ("Oslo", "Rome")]
    exchanges = answers(Reply(tool_calls=calls), Reply("Rain, and sun."))
    llm = service(server)
    ran: list[str] = []

    async def weather(params) -> None:
        ran.append(params.arguments["city"])
        await params.result_callback("so so")

    llm.register_function("weather", weather)
    async with Call(llm, tools=[WEATHER]) as call:
        assert await call.say("And the weather?", turns=2) == "Rain, and sun."
        assert not call.errors
    assert ran == ["Oslo", "Rome"]
    roles = [message["role"] for message in exchanges[1].request["messages"]]
    assert roles.count("tool") == 2


async def test_any_function_can_be_wanted(server, answers):
    call = {"name": "weather", "arguments": {"city": "Oslo"}}
    exchanges = answers(Reply(tool_calls=[call]))
    async with client(server) as mistral:
        answer = await mistral.chat(USER, tools=[TOOL], tool_choice="any")
    assert json.loads(answer.tool_calls[0].arguments) == {"city": "Oslo"}
    assert exchanges[0].request["tool_choice"] == "any"


class Place(BaseModel):
    city: str
    days: int


async def test_a_reply_has_the_form_that_is_asked_for(server, answers):
    exchanges = answers(Reply('{"city": "Oslo", "days": 3}'), Reply('{"a": 1}'))
    async with client(server) as mistral:
        assert await mistral.chat_as(Place, USER) == Place(city="Oslo", days=3)
        assert await mistral.chat_json(USER) == {"a": 1}
    asked = exchanges[0].request["response_format"]["json_schema"]
    assert (asked["name"], asked["strict"]) == ("Place", True)


@pytest.mark.parametrize("place", ["before the proxy", "behind the proxy"])
async def test_a_sentence_that_is_cut_goes_on(server, answers, place):
    whole = "One two three four."
    cut = {"cut_after": 2} if place == "behind the proxy" else {}
    exchanges = answers(Reply("Yes?"), Reply(whole, **cut), Reply(whole))
    async with Road(server.base_url) as road, Call(service(server, road.base_url)) as call:
        assert await call.say("Hello.") == "Yes?"  # what the proxy refuses is known now
        if not cut:
            road.ahead(Trouble(Marker(b'"two '), Ending.RST))
        assert await call.say("Count.") == whole
        assert not call.errors
    last = exchanges[2].request["messages"][-1]
    assert (last["role"], last["prefix"]) == ("assistant", True)


async def test_an_interruption_ends_the_request_behind_the_proxy(server, answers):
    exchanges = answers(Reply("One two three.", stall_after=2), Reply("Yes?"))
    async with Call(service(server, stall_timeout=30.0)) as call:
        await call.begin("Count.")
        await call.until(lambda: call.words, 40)
        await call.interrupt()
        await call.until(lambda: exchanges[0].ended, 20)
        assert exchanges[0].left
        assert await call.say("Wait.") == "Yes?"
        assert not call.errors


ERRORS = {
    "a key of the proxy's that is wrong": (
        {"api_key": "sk-wrong"},
        MODEL,
        Reason.KEY,
        "No connected db",
    ),
    "a model that the proxy has not": ({}, "nonesuch", Reason.UNKNOWN_MODEL, "nonesuch"),
    "a model that is not behind it": ({}, "not-upstream", Reason.UNKNOWN_MODEL, "nonesuch"),
    "a key that is wrong behind it": ({}, "key-of-another", Reason.KEY, "Unauthorized"),
}


@pytest.mark.parametrize(("options", "model", "reason", "said"), ERRORS.values(), ids=ERRORS)
async def test_what_is_wrong_is_one_clear_error(server, answers, options, model, reason, said):
    answers()
    async with client(server, **options) as mistral:
        with pytest.raises(MistralError, match=said) as raised:
            await mistral.chat(USER, model=model)
    print(raised.value)
    assert raised.value.reason is reason
    assert "sk-" not in str(raised.value)


async def test_what_the_proxy_says_of_itself(server, answers):
    """What tells it from Mistral's API: nothing in its list, and headers of its own in answers."""
    answers(Reply("Yes."))
    key = {"Authorization": f"Bearer {server.api_key}"}
    async with httpx.AsyncClient(headers=key, timeout=40) as http:
        listed = await http.get(f"{server.base_url}/models")
        body = {"model": MODEL, "messages": USER}
        answered = await http.post(f"{server.base_url}/chat/completions", json=body)
    assert {card["owned_by"] for card in listed.json()["data"]} == {"openai"}
    assert not any("capabilities" in card for card in listed.json()["data"])
    assert not any(name.startswith("x-litellm") for name in listed.headers)
    assert answered.headers["x-litellm-model-name"] == f"mistral/{MODEL}"
