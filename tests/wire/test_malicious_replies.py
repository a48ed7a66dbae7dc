"""Replies that are made to do harm: each ends in a `MistralError`, and the next turn works."""

import asyncio
import json
import tracemalloc
from collections.abc import Callable

import pytest
from call import Call
from fault_proxy import Ending, Place, Road, Trouble
from openai import AsyncOpenAI
from pipecat.frames.frames import LLMFullResponseEndFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from scripted_server import answer, answering, packed

from mistral_service import MistralClient, MistralError, MistralLLMService, Reason
from mistral_service.local import Reply
from mistral_service.turn.retries import Limits
from mistral_service.wire import http
from mistral_service.wire.decompression import BodyTooLong, decompressed
from mistral_service.wire.encoding import decode
from mistral_service.wire.errors import MistralError as Parsed
from mistral_service.wire.sse import EventTooLong, SSEDecoder

MB = 1024 * 1024
SAID = [{"role": "user", "content": "Hello."}]
SPOKEN = (
    b'data: {"choices":[{"delta":{"content":"One."},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
STREAM = "text/event-stream"


def client_of(base_url: str, **options) -> MistralClient:
    limits = Limits(connect=5, first_token=5, stall=5, turn=5, attempts=1, **options)
    return MistralClient(api_key="some-key-0123", base_url=base_url, limits=limits)


async def peak_of(base_url: str, ask: Callable[[MistralClient], object]) -> tuple[int, object]:
    """The most memory that was in use at once, in bytes, and what the question led to."""
    async with answering(answer(404, b"")) as nothing, client_of(nothing) as client:
        with pytest.raises(MistralError):  # loads what is loaded with the first request
            await ask(client)
    async with client_of(base_url) as client:
        tracemalloc.start()
        try:
            outcome: object = await ask(client)
        except MistralError as e:
            outcome = e
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    return peak, outcome


def chat(client: MistralClient):
    return client.chat(SAID)


def models(client: MistralClient):
    return client.models()


def embed(client: MistralClient):
    return client.embed(["one"])


# --- packed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [chat, models, embed])
@pytest.mark.parametrize("how", ["gzip", "deflate", "raw deflate"])
async def test_a_small_refusal_takes_little_memory_however_much_it_unpacks_to(how, ask):
    bomb = packed(b'{"message": "slow down"' + b" " * 40 * MB, how)
    assert len(bomb) < 200_000
    packing = how.removeprefix("raw ")
    async with answering(answer(429, bomb, content_encoding=packing)) as base_url:
        peak, error = await peak_of(base_url, ask)
    assert isinstance(error, MistralError)
    assert error.reason is Reason.RATE_LIMIT
    assert peak < 8 * MB


@pytest.mark.parametrize("ask", [chat, models, embed])
@pytest.mark.parametrize("kind", ["application/json", STREAM])
async def test_a_small_reply_takes_no_more_memory_than_a_large_one(monkeypatch, ask, kind):
    monkeypatch.setattr(http, "MAX_REPLY_BYTES", 2 * MB)
    bomb = packed(b'{"data": [' + b" " * 40 * MB, "gzip")
    async with answering(answer(200, bomb, kind, content_encoding="gzip")) as base_url:
        peak, error = await peak_of(base_url, ask)
    assert isinstance(error, MistralError)
    assert "more than 2097152 bytes" in error.detail
    assert peak < 16 * MB


ODD = ["gzip, gzip", "gzip,deflate", "gzip, gzip, gzip", "br", "zstd", "compress", "gzip\tgzip"]


@pytest.mark.parametrize("encoding", ODD)
@pytest.mark.parametrize("ask", [chat, models, embed])
async def test_stacked_and_unknown_encodings_are_refused_unread(encoding, ask):
    packings = encoding.count("gzip")
    bomb = packed(b" " * (40 * MB if packings else MB), *["gzip"] * packings)
    for status, reasons in ((401, {Reason.KEY}), (200, {Reason.STREAM, Reason.SERVER})):
        async with answering(answer(status, bomb, content_encoding=encoding)) as base_url:
            peak, error = await peak_of(base_url, ask)
        assert isinstance(error, MistralError)
        assert error.reason in reasons
        assert "only one of gzip and deflate is supported" in error.detail
        assert peak < 8 * MB + len(bomb)


@pytest.mark.parametrize(
    ("how", "named"),
    [("gzip", "gzip"), ("gzip", "X-GZIP"), ("deflate", "deflate"), ("raw deflate", "deflate")],
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_what_is_packed_once_is_read_in_any_portions(how, named, size):
    body = packed(SPOKEN, how)

    async def portions(writer: asyncio.StreamWriter) -> None:
        head = answer(200, b"", STREAM, content_encoding=named, transfer_encoding="chunked")
        writer.write(head.replace(b"content-length: 0\r\n", b""))
        for at in range(0, len(body), size):
            piece = body[at : at + size]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    async with answering(portions) as base_url, client_of(base_url) as client:
        assert (await client.chat(SAID)).text == "One."


async def test_no_step_of_unpacking_yields_more_than_64_kb():
    reads = iter([packed(b"x" * 3 * MB, "gzip"), b""])

    async def read() -> bytes:
        return next(reads)

    pieces = [len(piece) async for piece in decompressed(read, "gzip", 4 * MB)]
    assert sum(pieces) == 3 * MB
    assert max(pieces) <= 65_536


async def test_what_follows_the_end_of_a_packed_body_counts_too():
    async def read() -> bytes:
        return packed(b"x", "gzip") + b"y" * 1000

    body = decompressed(read, "gzip", 100_000)
    assert await anext(body) == b"x"
    with pytest.raises(BodyTooLong):
        await anext(body)


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip"])
@pytest.mark.parametrize("name", ["httpx", http.httpx.__name__])
async def test_the_replies_of_a_client_of_one_s_own_are_bounded_too(monkeypatch, encoding, name):
    family = pytest.importorskip(name, reason="this family of httpx is not installed")
    monkeypatch.setattr(http, "MAX_REPLY_BYTES", 2 * MB)

    class Own(MistralLLMService):
        def create_client(self, api_key=None, base_url=None, **kwargs):
            return AsyncOpenAI(api_key=api_key, base_url=base_url, http_client=family.AsyncClient())

    settings = MistralLLMService.Settings(max_attempts=1)
    how = encoding.split(", ")
    for status in (200, 401):
        bomb = answer(status, packed(b" " * 40 * MB, *how), STREAM, content_encoding=encoding)
        async with answering(bomb) as base_url:
            service = Own(api_key="k", base_url=base_url, settings=settings, warm_up=False)
            async with Call(service) as call:
                tracemalloc.start()
                await call.say("Hello.")
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
        [error] = call.errors
        assert isinstance(error.exception, MistralError)
        assert peak < 20 * MB


async def test_the_next_turn_works(serve, service_for):
    mistral = serve(Reply("Still here.", times=None))
    bomb = packed(b" " * 40 * MB, "gzip", "gzip")
    async with Road(mistral.base_url) as road:
        service = service_for(road, max_attempts=1, warm_up=False)
        async with Call(service) as call:
            for status in (200, 503):
                said = answer(status, bomb, STREAM, content_encoding="gzip, gzip")
                road.ahead(Trouble(Place.REQUEST, Ending.END, said))
                await call.say("Hello.")
                assert await call.say("And now?") == "Still here."
    assert len(call.errors) == 2


# --- JSON -----------------------------------------------------------------------------------------

DEEP = b"[" * 100_000
GIANT = b'{"choices": [{"index": ' + b"9" * 20_000 + b"}]}"
MANY = b'{"data": [' + b"[]," * 700_000 + b"[]]}"


@pytest.mark.parametrize("body", [DEEP, GIANT, MANY, b'{"data":' * 900 + b"1" + b"}" * 900])
@pytest.mark.parametrize("kind", ["application/json", STREAM])
async def test_json_that_is_too_deep_or_too_large_is_a_clear_error(body, kind, serve):
    data = b"data: " + body + b"\n\n" if kind == STREAM else body
    async with answering(answer(200, data, kind)) as base_url:
        for ask in (chat, embed):
            _, error = await peak_of(base_url, ask)
            assert isinstance(error, MistralError)
        _, found = await peak_of(base_url, models)
        assert isinstance(found, MistralError) or not found.cards
        service = MistralLLMService(api_key="k", base_url=base_url, warm_up=False)
        with pytest.raises(MistralError):
            await service.run_inference(LLMContext(messages=[*SAID]))
        await service.cleanup()


def test_little_json_does_not_become_much_memory():
    tracemalloc.start()
    with pytest.raises(ValueError, match="values"):
        decode(b"[" + b"{}," * 3_000_000 + b"{}]")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * MB


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"index": 10**400, "embedding": [0.1]}]},
        {"data": [{"index": "x", "embedding": ["a"]}]},
        {"data": [{"index": None, "embedding": [10**400]}]},
        {"data": {"0": 1}},
        {"results": [{"categories": "abc", "category_scores": [1]}]},
        {"results": 7},
    ],
)
async def test_vectors_and_judgements_of_the_wrong_kind_raise_nothing_else(body):
    said = answer(200, json.dumps(body).encode())
    async with answering(said) as base_url, client_of(base_url) as client:
        for asked in (client.embed(["one"]), client.moderate(["one"])):
            try:
                found = await asked
            except MistralError as e:
                found = [e]
            assert len(found) == 1


def test_an_event_of_many_empty_lines_is_given_up(monkeypatch):
    from mistral_service.wire import sse

    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    decoder = SSEDecoder()
    decoder.feed(b"data:\n" * 2000)
    with pytest.raises(EventTooLong):
        decoder.feed(b"data:\n")


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"x-%d: y\r\n" % i for i in range(20_000)),
        b"x-long: " + b"y" * 2_000_000 + b"\r\n",
        b"set-cookie: a=" + b"y" * 500_000 + b"\r\n",
    ],
)
async def test_a_flood_of_headers_is_an_error_and_no_memory(headers):
    said = b"HTTP/1.1 200 OK\r\n" + headers + b"content-length: 2\r\n\r\n{}"
    async with answering(said) as base_url:
        peak, error = await peak_of(base_url, chat)
    assert isinstance(error, MistralError)
    assert peak < 8 * MB + len(headers)


async def test_no_cookie_is_sent_back():
    heads: list[bytes] = []

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            heads.append(head.lower())
            writer.write(answer(200, SPOKEN, STREAM, set_cookie="session=of-another-call; path=/"))

    server = await asyncio.start_server(watch, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with client_of(f"http://127.0.0.1:{port}/v1") as client:
        await client.chat(SAID)
        await client.chat(SAID)
    server.close()
    assert len(heads) == 2
    assert b"cookie" not in heads[1]


# --- replies without an end -----------------------------------------------------------------------


def dripping(head: bytes, drop: bytes, pause: float = 0.02):
    async def drips(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        for _ in range(2000):
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(pause)

    return drips


JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


async def test_run_inference_has_a_deadline_for_the_whole_reply():
    async with answering(dripping(JSON_HEAD, b" ")) as base_url:
        service = MistralLLMService(
            api_key="k",
            base_url=base_url,
            warm_up=False,
            settings=MistralLLMService.Settings(inference_timeout=0.5),
        )
        with pytest.raises(MistralError, match=r"whole reply did not come in 0\.5 s") as raised:
            await asyncio.wait_for(service.run_inference(LLMContext(messages=[*SAID])), 20)
        await service.cleanup()
    assert raised.value.reason is Reason.TIMEOUT


@pytest.mark.parametrize(
    "ask",
    [chat, models, embed, lambda client: client.fim("x"), lambda client: client.moderate(["x"])],
)
@pytest.mark.parametrize(
    "drops",
    [
        dripping(JSON_HEAD, b" "),
        dripping(STREAM_HEAD, b'data: {"choices":[{"delta":{"content":"and "}}]}\n\n'),
        dripping(b"HTTP/1.1 500 Oh\r\n\r\n", b"x"),
    ],
)
async def test_the_methods_of_a_client_have_one_too(ask, drops):
    async with answering(drops) as base_url, client_of(base_url, whole=0.4) as client:
        with pytest.raises(MistralError) as raised:
            await asyncio.wait_for(ask(client), 20)
    assert raised.value.reason is Reason.TIMEOUT


async def test_the_time_of_a_stream_s_reader_does_not_count():
    words = b"".join(b'data: {"choices":[{"delta":{"content":"w%d "}}]}\n\n' % i for i in range(3))
    said = answer(200, words + SPOKEN, STREAM)
    async with answering(said) as base_url, client_of(base_url, whole=0.3) as client:
        heard = ""
        async for event in client.stream_chat(SAID):
            heard += getattr(event, "text", "")
            await asyncio.sleep(0.4)
    assert heard.endswith("One.")


async def test_what_drips_on_behind_the_end_of_a_reply_keeps_no_caller_waiting():
    async def drips(writer: asyncio.StreamWriter) -> None:
        await dripping(STREAM_HEAD + SPOKEN, b": still here\n\n")(writer)

    async with answering(drips) as base_url:
        service = MistralLLMService(api_key="k", base_url=base_url, warm_up=False)
        async with Call(service) as call:
            assert await call.say("Hello.") == "One."
            assert await call.say("And?") == "One."
            await call.until(lambda: call.count(LLMFullResponseEndFrame) == 2)
    assert call.errors == []


# --- numbers --------------------------------------------------------------------------------------

ABSURD = ["1" + "0" * 400, "-5", "1e999", "12.5", '"7"', "true", "null", "[1]", "1e300"]


@pytest.mark.parametrize("number", ABSURD)
async def test_absurd_numbers_of_tokens_count_as_not_said(number):
    from mistral_service.turn.prices import PRICES

    said = (
        b'data: {"choices":[{"delta":{"content":"One."},"finish_reason":"stop"}],"usage":'
        b'{"prompt_tokens":N,"completion_tokens":N,"total_tokens":N,"num_cached_tokens":N}}\n\n'
        b"data: [DONE]\n\n"
    ).replace(b"N", number.encode())
    async with answering(answer(200, said, STREAM)) as base_url:
        service = MistralLLMService(api_key="k", base_url=base_url, prices=PRICES, warm_up=False)
        async with Call(service) as call:
            assert await call.say("Hello.") == "One."
    assert call.errors == []


@pytest.mark.parametrize("cost", ["999999999", "1" * 15, "500001"])
def test_an_absurd_cost_header_counts_as_not_said(cost):
    from mistral_service.wire.rate import RateBudget

    headers = {
        "x-ratelimit-limit-tokens-minute": "500000",
        "x-ratelimit-remaining-tokens-minute": "400000",
        "x-ratelimit-tokens-query-cost": cost,
    }
    budget = RateBudget.from_headers(headers)
    assert budget is not None
    assert budget.query_cost is None
    assert not budget.spent


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "999999999999"},
        {"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT", "date": "Sat, 28 Nov 2026 12:00:00 GMT"},
        {"x-ratelimit-reset": "99999999999"},
        {},
    ],
)
def test_no_server_asks_to_wait_longer_than_a_day(headers):
    body = {"message": "slow down", "retry_after": 999_999_999}
    error = Parsed.from_response(429, body, headers)
    assert error.retry_after == 86_400
