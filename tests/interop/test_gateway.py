"""The real Portkey gateway between us and the strict endpoint."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from call import Call
from logged import logged
from pipecat.frames.frames import LLMThoughtTextFrame
from portkey_ai import createHeaders
from ports import free_port
from processes import listening

from mistral_service import MistralClient, MistralError, MistralLLMService, Reason
from mistral_service.client import portkey_headers
from mistral_service.local import LocalMistral, Reply
from mistral_service.reply.events import Text
from mistral_service.wire import client as wire
from mistral_service.wire.portkey import as_it_passes

GATEWAY = Path(__file__).parents[1] / "gateway"
SERVER = GATEWAY / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
USER = [{"role": "user", "content": "Hello."}]

needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="the Portkey gateway needs node, which is not installed"
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gateway's address."""
    assert SERVER.exists(), "the gateway is not installed: run the tests with `make test`"
    port, log = free_port(), tmp_path_factory.mktemp("gateway") / "gateway.log"
    command = ["node", str(SERVER), "--headless", f"--port={port}"]
    with listening(command, port, log, 120, TRUSTED_CUSTOM_HOSTS="127.0.0.1"):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture
def told(monkeypatch) -> Iterator[list[str]]:
    """The warnings that were logged."""
    monkeypatch.setattr(wire, "_warned", set())
    with logged() as warnings:
        yield warnings


def headers(mistral: LocalMistral, **more) -> dict[str, str]:
    return portkey_headers(provider="mistral-ai", custom_host=mistral.base_url, **more)


def service(gateway: str, mistral: LocalMistral, **settings) -> MistralLLMService:
    return MistralLLMService(
        api_key="test-key",
        base_url=gateway,
        default_headers=headers(mistral, trace_id="a-call"),
        settings=MistralLLMService.Settings(**settings),
    )


@pytest.mark.parametrize(
    "given",
    [
        {"provider": "mistral-ai", "virtual_key": "vk", "trace_id": "t", "api_key": "pk"},
        {"config": {"retry": {"attempts": 2}}, "metadata": {"_user": "ü"}},
        {"config": "pc-1", "custom_host": "http://127.0.0.1:1/v1", "metadata": {}, "provider": ""},
        {"provider": None, "cache_force_refresh": True, "debug": False, "request_timeout": 9},
    ],
)
def test_the_headers_are_those_of_portkeys_own_package(given):
    assert portkey_headers(**given) == createHeaders(**given)


@needs_node
async def test_a_bot_speaks_through_the_gateway(gateway, serve):
    mistral = serve(Reply("Good morning, how are you?"), Reply("Fine."))
    async with Call(service(gateway, mistral, random_seed=7, temperature=0.2)) as call:
        assert await call.say("Hello.") == "Good morning, how are you?"
        assert await call.say("And?") == "Fine."
    first = mistral.exchanges[0]
    assert first.headers["host"] == mistral.base_url.removeprefix("http://").removesuffix("/v1")
    assert (first.request["random_seed"], first.request["temperature"]) == (7, 0.2)


@needs_node
async def test_functions_are_called_through_the_gateway(gateway, serve):
    calls = [{"name": "tell", "arguments": {"what": what}} for what in ("time", "place")]
    mistral = serve(Reply(tool_calls=calls), Reply("At noon, in Oslo."))
    asked: list[str] = []

    async def tell(params, what: str):
        """Tell something.

        Args:
            what: What to tell.
        """
        asked.append(what)
        await params.result_callback({"told": what})

    async with Call(service(gateway, mistral), tools=[tell]) as call:
        assert await call.say("When and where?", turns=2) == "At noon, in Oslo."
    assert asked == ["time", "place"]
    assert [m["role"] for m in mistral.exchanges[1].request["messages"]].count("tool") == 2


@needs_node
async def test_thoughts_come_through_the_gateway_and_stay_unspoken(gateway, serve):
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Let me see."}]}
    mistral = serve(Reply(deltas=[{"content": [thinking]}, {"content": "Seven."}]))
    async with Call(service(gateway, mistral, model="magistral-small-latest")) as call:
        assert await call.say("How many?") == "Seven."
        assert "".join(f.text for f in call.of(LLMThoughtTextFrame)) == "Let me see."


@needs_node
async def test_every_endpoint_is_reached_through_the_gateway(gateway, serve):
    mistral = serve(Reply("a + b"), Reply("a - b"), Reply('{"a": 1}'))
    client = MistralClient(api_key="any", base_url=gateway, default_headers=headers(mistral))
    async with client:
        vectors = await client.embed(["One.", "Two."])
        assert [len(vector) for vector in vectors] == [1024, 1024]
        assert (await client.fim("return ", "\n", stop="\n\n")).text == "a + b"
        events = [event async for event in client.stream_fim("return ", random_seed=3)]
        assert "".join(event.text for event in events if isinstance(event, Text)) == "a - b"
        assert (await client.chat(USER)).text == '{"a": 1}'
        assert (await client.moderate(["Murder!"]))[0].flagged
        assert (await client.models()).find("codestral-latest")
    fim = [e.request for e in mistral.exchanges if e.path == "fim/completions"]
    assert (fim[0]["stop"], fim[1]["random_seed"]) == ("\n\n", 3)


PARAMETERS = {
    "temperature": 0.3,
    "top_p": 0.9,
    "max_tokens": 50,
    "random_seed": 3,
    "stop": ["Goodbye"],
    "response_format": {"type": "text"},
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "n": 1,
    "safe_prompt": True,
    "reasoning_effort": "high",
    "prompt_mode": "reasoning",
    "prompt_cache_key": "key",
    "service_tier": "auto",
    "metadata": {"a": "b"},
    "parallel_tool_calls": False,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": "any",
    "prediction": {"type": "content", "content": "x"},
    "guardrails": [{"block_on_error": False}],
    "min_tokens": 1,
    "top_k": 40,
    "repetition_penalty": 1.1,
    "logprobs": True,
    "top_logprobs": 2,
    "prompt_logprobs": False,
    "top_prompt_logprobs": 0,
}


@needs_node
async def test_every_setting_arrives_or_is_told(gateway, serve, told):
    mistral = serve(Reply("Yes.", times=None))
    client = MistralClient(api_key="any", base_url=gateway, default_headers=headers(mistral))
    async with client:
        await client.chat(USER, **PARAMETERS)
        await client.chat(USER, **PARAMETERS)
    arrived = mistral.exchanges[0].request
    [warning] = told  # once, not for every request
    lost = warning.partition("pass on ")[2].partition(":")[0].split(", ")
    for name, value in PARAMETERS.items():
        assert (arrived.get(name) == value) != (name in lost), name
    assert arrived["random_seed"] == 3


@needs_node
async def test_a_temperature_that_the_gateway_lowers_is_told(gateway, serve, told):
    mistral = serve(Reply("Yes."))
    client = MistralClient(api_key="any", base_url=gateway, default_headers=headers(mistral))
    async with client:
        await client.chat(USER, temperature=1.4)
    assert mistral.exchanges[0].request["temperature"] == 1
    assert "a temperature above 1" in told[0]


@needs_node
async def test_below_proxy_everything_arrives(gateway, serve, told):
    mistral = serve(Reply("Yes."))
    async with MistralClient(
        api_key="any", base_url=f"{gateway}/proxy", default_headers=headers(mistral)
    ) as client:
        await client.chat(USER, **{**PARAMETERS, "temperature": 1.4})
        assert len(await client.embed(["x"])) == 1
    arrived = mistral.exchanges[0].request
    for name, value in {**PARAMETERS, "temperature": 1.4}.items():
        assert arrived[name] == value
    assert told == []


@needs_node
async def test_a_config_goes_along(gateway, serve):
    mistral = serve(Reply("Yes."))
    target = {"provider": "mistral-ai", "custom_host": mistral.base_url, "api_key": "the-real-key"}
    async with MistralClient(
        api_key="any", base_url=gateway, default_headers=portkey_headers(config=target)
    ) as client:
        assert (await client.chat(USER)).text == "Yes."


@needs_node
async def test_a_refusal_keeps_its_reason_through_the_gateway(gateway, serve):
    mistral = serve(Reply(status=429, body={"message": "Slow down", "code": "1300"}, times=3))
    client = MistralClient(api_key="any", base_url=gateway, default_headers=headers(mistral))
    async with client:
        with pytest.raises(MistralError, match="Slow down") as raised:
            await client.chat(USER)
        assert raised.value.reason is Reason.RATE_LIMIT
        with pytest.raises(MistralError, match="nonesuch") as raised:
            await client.chat(USER, model="nonesuch")
        assert raised.value.reason is Reason.UNKNOWN_MODEL


def test_what_is_lost_is_sent_all_the_same():
    sent, lost = as_it_passes({"model": "m", "random_seed": 3, "stop": "x"}, "/chat/completions")
    assert sent == {"model": "m", "seed": 3, "stop": "x"}
    assert lost == ["stop"]
    assert as_it_passes({"prompt": "x", "stop": "x"}, "/fim/completions")[1] == []


async def test_without_a_gateway_nothing_changes(serve, told):
    mistral = serve(Reply("Yes."))
    async with MistralClient(api_key="any", base_url=mistral.base_url) as client:
        await client.chat(USER, random_seed=3, stop="x")
    arrived = mistral.exchanges[0].request
    assert (arrived["random_seed"], arrived["stop"]) == (3, "x")
    assert told == []
