"""The demo's faults: each one breaks the reply that it should break, and says what it did."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from mistral_service.demo import faults
from mistral_service.demo.endpoint import FaultyEndpoint
from mistral_service.demo.faults import FaultLayer, NotInjected
from mistral_service.local import Reply, Script
from mistral_service.local.pieces import Cut, Delta, End, Piece, Refusal, Wait
from mistral_service.local.server import bind

SENTENCE = "The moon is a ball of rock that goes round the earth."
MODEL = "mistral-small-latest"
KEY = "the-demo's-own-key"


def request(call: str = "one", model: str = MODEL, **fields: Any) -> dict[str, Any]:
    question = {"role": "user", "content": "What is the moon?"}
    return {"model": model, "messages": [question], "metadata": {"call": call}, **fields}


@pytest.fixture
def layer() -> FaultLayer:
    return FaultLayer(Script(Reply(SENTENCE, times=None)))


async def answer(layer: FaultLayer, asked: dict[str, Any]) -> list[Piece]:
    return [piece async for piece in layer.answer(asked)]


def text_of(pieces: list[Piece]) -> str:
    return "".join(p.delta.get("content", "") for p in pieces if isinstance(p, Delta))


def events_of(injection: faults.Injection) -> list[Any]:
    events = [injection.events.get_nowait() for _ in range(injection.events.qsize())]
    assert [event.pop("at") for event in events]
    return events


async def test_without_a_fault_the_reply_passes_whole(layer: FaultLayer):
    pieces = await answer(layer, request())
    assert text_of(pieces) == SENTENCE
    assert isinstance(pieces[-1], End)


async def test_a_cut_meets_the_reply_under_way(layer: FaultLayer):
    stream = aiter(layer.answer(request()))
    heard = [await anext(stream) for _ in range(3)]
    with layer.inject("cut", "one") as injection:
        heard += [piece async for piece in stream]
        assert text_of(heard) == "The moon is "
        assert isinstance(heard[-1], Cut)
        assert events_of(injection) == [{"event": "struck", "words": 3}]
    assert text_of(await answer(layer, request())) == SENTENCE


async def test_a_cut_meets_the_next_reply_where_none_is_under_way(layer: FaultLayer):
    with layer.inject("cut", "one") as injection:
        pieces = await answer(layer, request())
        assert text_of(pieces).split() == SENTENCE.split()[: faults.CUT_AFTER_WORDS]
        assert isinstance(pieces[-1], Cut)
        assert text_of(await answer(layer, request())) == SENTENCE
        waiting, struck, follows = events_of(injection)
    assert waiting == {"event": "waiting"}
    assert struck == {"event": "struck", "words": faults.CUT_AFTER_WORDS}
    assert follows == {"event": "request", "model": MODEL}


async def test_a_reply_of_two_words_is_cut_before_its_end():
    layer = FaultLayer(Script(Reply("Good morning.")))
    with layer.inject("cut", "one"):
        pieces = await answer(layer, request())
    assert text_of(pieces) == "Good morning."
    assert isinstance(pieces[-1], Cut)


async def test_a_reply_that_hangs_says_nothing_for_a_long_time(layer: FaultLayer):
    with layer.inject("hang", "one"):
        first, *_ = await answer(layer, request())
    assert isinstance(first, Wait)
    assert first.seconds >= 30


@pytest.mark.parametrize(("kind", "status"), [("429", 429), ("503", 503)])
async def test_a_refusal_is_as_mistral_words_it(layer: FaultLayer, kind: str, status: int):
    with layer.inject(kind, "one"):
        [refusal] = await answer(layer, request())
    assert isinstance(refusal, Refusal)
    assert refusal.status == status
    assert refusal.body["object"] == "error"


async def test_a_full_model_stays_full_and_another_one_answers(
    layer: FaultLayer, monkeypatch: pytest.MonkeyPatch
):
    with layer.inject("429", "one"):
        for _ in range(2):
            assert isinstance((await answer(layer, request()))[0], Refusal)
        other = await answer(layer, request(model="ministral-8b-latest"))
        assert text_of(other) == SENTENCE
        monkeypatch.setattr(faults, "FULL_S", 0)
        assert text_of(await answer(layer, request())) == SENTENCE


async def test_503_meets_one_request(layer: FaultLayer):
    with layer.inject("503", "one"):
        assert isinstance((await answer(layer, request()))[0], Refusal)
        assert text_of(await answer(layer, request())) == SENTENCE


async def test_an_empty_reply_ends_without_a_word(layer: FaultLayer):
    with layer.inject("empty", "one"):
        [end] = await answer(layer, request())
    assert isinstance(end, End)
    assert end.finish_reason == "stop"


async def test_a_call_comes_as_text_and_names_a_function_that_is_offered(layer: FaultLayer):
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {}}}
        for name in ("other", "take_note")
    ]
    with layer.inject("text-call", "one"):
        pieces = await answer(layer, request(tools=tools))
    marker, _, call = text_of(pieces).partition("]")
    assert marker == "[TOOL_CALLS"
    assert json.loads(call) == [{"name": "take_note", "arguments": {"text": "buy milk"}}]
    assert isinstance(pieces[-1], End)
    assert pieces[-1].finish_reason == "stop"


async def test_a_fault_meets_no_other_call(layer: FaultLayer):
    with layer.inject("503", "one") as injection:
        assert text_of(await answer(layer, request("two"))) == SENTENCE
        assert events_of(injection) == [{"event": "waiting"}]


async def test_a_fault_whose_asker_has_left_is_dropped(layer: FaultLayer):
    with layer.inject("503", "one"):
        pass
    assert text_of(await answer(layer, request())) == SENTENCE
    stream = aiter(layer.answer(request()))
    await anext(stream)
    with layer.inject("cut", "one"):
        pass
    assert isinstance([piece async for piece in stream][-1], End)


async def test_one_fault_waits_at_a_time(layer: FaultLayer):
    with layer.inject("503", "one"):
        with (
            pytest.raises(NotInjected, match="Another fault is waiting"),
            layer.inject("cut", "one"),
        ):
            pass
        with layer.inject("cut", "two"):
            pass
    with (
        pytest.raises(NotInjected, match="There is no fault 'flood'"),
        layer.inject("flood", "one"),
    ):
        pass


class Served:
    """The endpoint on a port, and a client of it."""

    def __init__(self, endpoint: FaultyEndpoint, port: int, client: aiohttp.ClientSession) -> None:
        self.endpoint = endpoint
        self.address = f"http://127.0.0.1:{port}"
        self.client = client

    async def say(self, call: str = "one") -> str:
        """The text of a streamed reply; raises what the client raises."""
        asked = request(call, stream=True)
        url = f"{self.address}/v1/chat/completions"
        async with self.client.post(url, json=asked) as response:
            response.raise_for_status()
            lines = [line.decode() async for line in response.content]
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        return "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)

    @contextlib.asynccontextmanager
    async def fault(self, kind: str, call: str = "one") -> AsyncIterator[aiohttp.StreamReader]:
        asked = {"kind": kind, "call": call}
        async with self.client.post(f"{self.address}/faults", json=asked) as response:
            assert response.status == 200, await response.text()
            yield response.content


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    endpoint = FaultyEndpoint(Script(Reply(SENTENCE, times=None)), KEY, down_s=0.5)
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    serving = asyncio.create_task(endpoint.serve(listener))
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as client:
        yield Served(endpoint, port, client)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def event(lines: aiohttp.StreamReader) -> Any:
    report = json.loads(await asyncio.wait_for(lines.readline(), 10))
    assert report.pop("at") > 0
    return report


async def test_the_route_reports_what_the_fault_did(served: Served):
    async with served.fault("cut") as lines:
        assert await event(lines) == {"event": "waiting"}
        with pytest.raises(aiohttp.ClientPayloadError):
            await served.say()
        assert await event(lines) == {"event": "struck", "words": faults.CUT_AFTER_WORDS}
        assert await served.say() == SENTENCE
        assert await event(lines) == {"event": "request", "model": MODEL}


async def test_a_fault_ends_with_the_request_that_asked_for_it(served: Served):
    """A page that is reloaded takes its fault with it."""
    async with served.fault("503") as lines:
        assert await event(lines) == {"event": "waiting"}
    deadline = asyncio.get_running_loop().time() + 10
    while served.endpoint.layer.waiting:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
    assert await served.say() == SENTENCE


async def test_the_endpoint_goes_down_and_comes_back(served: Served):
    async with served.fault("down") as lines:
        assert await event(lines) == {"event": "struck", "words": 0}
        with pytest.raises(aiohttp.ClientPayloadError):
            await lines.read()
    with pytest.raises(aiohttp.ClientConnectorError):
        await served.say()
    deadline = asyncio.get_running_loop().time() + 10
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            assert await served.say() == SENTENCE
            break
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)


BAD = [
    ({"Authorization": "Bearer another"}, {"kind": "cut", "call": "one"}, 401),
    ({"Origin": "http://evil.example"}, {"kind": "cut", "call": "one"}, 403),
    ({"Host": "evil.example"}, {"kind": "cut", "call": "one"}, 400),
    ({}, {"kind": "flood", "call": "one"}, 409),
    ({}, {"kind": "cut"}, 422),
    ({}, {"kind": 7, "call": "one"}, 422),
    ({}, "cut", 422),
]


@pytest.mark.parametrize(("headers", "body", "status"), BAD)
async def test_the_route_refuses_what_it_should(
    served: Served, headers: dict[str, str], body: Any, status: int
):
    url = f"{served.address}/faults"
    async with served.client.post(url, json=body, headers=headers) as response:
        assert response.status == status
        assert (await response.json())["detail"]
    assert not served.endpoint.layer.waiting
