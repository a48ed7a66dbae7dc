"""The local endpoint's door: pages that look for it, requests without its key, bodies that cost."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
import uvicorn
from raw_http import ask, listening, pour
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from mistral_service.demo.engine import LocalEngine
from mistral_service.demo.weights import SMOLLM2
from mistral_service.local import LocalMistral, RateLimits, Reply, Script
from mistral_service.local.__main__ import main
from mistral_service.local.app import MOST_BYTES, create_app
from mistral_service.local.engine import ModelEngine, bundled_model
from mistral_service.local.guard import guard

EVIL = "evil.example"
KEY = {"Authorization": "Bearer right"}
DEEP = "what is nested"
USER = {"role": "user", "content": "Hello."}
CHAT = {"model": "mistral-small-latest", "messages": [USER]}


def application(**options):
    script = Script(Reply("Hi.", times=None))
    return create_app(script, api_key="right", limits=RateLimits(), **options)


ROUTES = [
    (method, route.path.replace("{id}", "mistral-small-latest"))
    for route in application().routes
    for method in sorted(route.methods - {"HEAD"})
]


@pytest.fixture
def endpoint() -> Iterator[Callable[..., int]]:
    with ExitStack() as stack:

        def start(**options) -> int:
            config = uvicorn.Config(application(**options), log_level="critical", ws="none")
            return stack.enter_context(listening(uvicorn.Server(config)))

        yield start


def test_every_route_is_looked_at_below():
    assert ("PUT", "/limits") in ROUTES
    assert ("GET", "/limits") in ROUTES
    assert len(ROUTES) >= 9


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic right", "right", "é"]
)
def test_every_route_wants_the_key(endpoint, method: str, path: str, authorization: str | None):
    headers = {"Host": "localhost"}
    if authorization is not None:
        headers["Authorization"] = authorization
    body = {"requests_per_minute": 1} if path == "/limits" else CHAT
    answer = ask(endpoint(), method, path, body if method != "GET" else b"", headers)
    assert answer.status == 401
    assert json.loads(answer.body) == {"detail": "Unauthorized"}


def test_limits_do_not_change_without_a_key_though_any_key_is_taken():
    limits = RateLimits(10)
    with LocalMistral(Script(), limits=limits) as mistral:
        address = mistral.base_url.removesuffix("/v1") + "/limits"
        assert httpx.put(address, json={"requests_per_minute": 1}).status_code == 401
        assert httpx.get(address).status_code == 401
        assert limits.requests_per_minute == 10
        assert httpx.put(address, json={"requests_per_minute": 1}, headers=KEY).status_code == 204
    assert limits.requests_per_minute == 1


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("OPTIONS", "/limits"), ("GET", "/x")])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": EVIL, "Origin": f"http://{EVIL}"}, 400),
        ({"Host": EVIL}, 400),
        ({"Host": f"127.0.0.1.{EVIL}"}, 400),
        ({"Host": "0.0.0.0"}, 400),
        ({}, 400),
        ({"Host": "localhost", "Origin": f"http://{EVIL}"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
    ],
)
def test_no_page_gets_an_answer_even_if_it_has_the_key(endpoint, method, path, headers, status):
    body = CHAT if method in ("POST", "PUT") else b""
    answer = ask(endpoint(), method, path, body, {**headers, **KEY})
    assert answer.status == status
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_an_endpoint_of_a_test_may_play_a_proxy_and_no_page_gets_an_answer_of_it():
    with LocalMistral(Script()) as mistral:
        address = mistral.base_url + "/models"
        assert httpx.get(address, headers={"Host": EVIL, **KEY}).status_code == 200
        for host in (EVIL, "localhost"):
            page = {"Host": host, "Origin": f"http://{EVIL}", **KEY}
            assert httpx.get(address, headers=page).status_code in (400, 403)
    with LocalMistral(Script(), allow_hosts=()) as mistral:
        answer = httpx.get(mistral.base_url + "/models", headers={"Host": EVIL, **KEY})
        assert answer.status_code == 400


def test_it_can_be_asked_by_a_further_name(endpoint):
    port = endpoint(allow_hosts=["mistral"])
    assert ask(port, "GET", "/v1/models", b"", {"Host": "mistral:8080", **KEY}).status == 200
    with pytest.raises(ValueError, match=r"allow_hosts has '\*'"):
        LocalMistral(Script(), allow_hosts=["*"]).start()
    assert main(["--port", "0", "--allow-host", "http://a/b", "--script", "/dev/null"]) == 1


# --- bodies ---------------------------------------------------------------------------------------


def too_large(body: str) -> bool:
    error = json.loads(body)
    return (error["object"], error["raw_status_code"]) == ("error", 413)


def test_a_body_that_is_too_large_is_refused_in_mistrals_form(endpoint):
    port = endpoint(most_bytes=100_000)
    body = {**CHAT, "messages": [{"role": "user", "content": "x" * 100_000}]}
    for path in ("/v1/chat/completions", "/v1/embeddings", "/limits"):
        method = "PUT" if path == "/limits" else "POST"
        answer = ask(port, method, path, body, {"Host": "localhost", **KEY})
        assert answer.status == 413
        assert too_large(answer.body)
    assert ask(port, "POST", "/v1/chat/completions", CHAT, {"Host": "a", **KEY}).status == 400
    assert (
        ask(port, "POST", "/v1/chat/completions", CHAT, {"Host": "localhost", **KEY}).status == 200
    )


def test_a_body_without_an_end_is_not_read(endpoint):
    port = endpoint(most_bytes=1_000_000)
    megabyte = b" " * 1_000_000
    head = "POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer right"
    chunk = f"{len(megabyte):x}\r\n".encode() + megabyte + b"\r\n"
    for framed, piece in (
        ("Content-Length: 200000000", megabyte),
        ("Transfer-Encoding: chunked", chunk),
    ):
        taken, answer = pour(port, f"{head}\r\n{framed}", piece, 200)
        assert answer.status in (413, 0)  # 0: the line broke under what was still being sent
        assert taken < 32_000_000
    # Without the key nothing is read at all.
    taken, answer = pour(port, f"{head}x\r\nContent-Length: 200000000", megabyte, 200)
    assert answer.status in (401, 413, 0)
    assert taken < 32_000_000


def test_what_mistral_takes_of_images_is_within_the_bound():
    assert MOST_BYTES > 8 * 10 * 1024 * 1024 * 4 / 3


@pytest.mark.parametrize("part", [b"[],", b"0,", b'"":0,', b"{},", b'"",'])
def test_a_small_body_of_very_many_parts_is_not_decoded(endpoint, part: bytes):
    inside = part * 1_100_000 + part[:-1]
    body = b"{" + inside + b"}" if b":" in part else b"[" + inside + b"]"
    answer = ask(endpoint(), "POST", "/v1/chat/completions", body, {"Host": "localhost", **KEY})
    assert answer.status == 413
    assert too_large(answer.body)


def nested(depth: int, kind: str) -> str:
    return "[" * depth + "]" * depth if kind == "list" else '{"a":' * depth + "1" + "}" * depth


def bodies(deep: str) -> Iterator[tuple[str, str, str]]:
    """Requests in which something is nested, at every place where a body may have it."""
    call = {"id": "abcdefgh1", "function": {"name": "f", "arguments": DEEP}}
    chats: list[object] = [
        DEEP,
        {**CHAT, "messages": [{"role": "user", "content": DEEP}]},
        {**CHAT, "messages": [{"role": DEEP, "content": "x"}]},
        {**CHAT, "messages": [USER, {"role": "assistant", "tool_calls": [call]}]},
        {**CHAT, "metadata": {"a": DEEP}},
        {**CHAT, "x": DEEP},
        {**CHAT, "tools": [{"type": "function", "function": {"name": "f", "parameters": DEEP}}]},
        {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"schema": DEEP}}},
    ]
    requests: list[tuple[str, str, object]] = [
        *(("POST", "/v1/chat/completions", chat) for chat in chats),
        ("POST", "/v1/fim/completions", {"model": "codestral-latest", "prompt": DEEP}),
        ("POST", "/v1/embeddings", {"model": "mistral-embed", "input": DEEP}),
        ("POST", "/v1/moderations", {"model": "mistral-moderation-latest", "input": DEEP}),
        ("PUT", "/limits", DEEP),
    ]
    for method, path, body in requests:
        yield method, path, json.dumps(body).replace(json.dumps(DEEP), deep)


@pytest.mark.parametrize("kind", ["list", "object"])
def test_no_depth_of_a_body_makes_it_fail(endpoint, kind: str):
    """Python's own limits are met at depths that depend on where a server is called from."""
    port = endpoint()
    headers = {**KEY, "Host": f"localhost:{port}"}
    with httpx.Client(base_url=f"http://localhost:{port}", headers=headers) as client:
        for depth in (10, 150, 198, 202, 330, 480, 900, *range(940, 1001, 10), 100_000):
            for method, path, body in bodies(nested(depth, kind)):
                answer = client.request(method, path, content=body)
                assert answer.status_code in (200, 204, 400, 422), (depth, path, body[:60])
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


async def test_a_body_has_a_deadline_and_a_stream_has_none():
    async def slow(request):
        await request.body()

        async def words():
            for _ in range(5):
                await asyncio.sleep(0.1)
                yield "word "

        return StreamingResponse(words())

    guarded = guard(most_bytes=100, body_seconds=0.2)
    app = Starlette(routes=[Route("/", slow, methods=["POST"])], middleware=[guarded])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.post("/", content=b"all")).text == "word " * 5

        async def dripping():
            for _ in range(20):
                yield b"."
                await asyncio.sleep(0.1)

        # The pieces of the body come at their own pace; httpx's transport awaits them one by one.
        assert (await client.post("/", content=dripping())).status_code == 408


# --- what stands behind it ------------------------------------------------------------------------


async def test_the_models_own_server_answers_to_this_process_alone():
    """llama.cpp's server reflects every `Origin` and wants no key, unless started otherwise."""
    engine = ModelEngine(bundled_model())
    address = engine._server.listening_address
    assert address.startswith("http://127.0.0.1:")
    page = {"Origin": f"http://{EVIL}", "Host": EVIL}
    body = {"messages": [USER], "max_tokens": 1, "content": "x", "prompt": "x"}
    async with httpx.AsyncClient(base_url=address, headers=page, timeout=60) as client:
        for method, path in (
            ("POST", "/v1/chat/completions"),
            ("POST", "/completion"),
            ("POST", "/tokenize"),
            ("GET", "/props"),
            ("GET", "/slots"),
            ("GET", "/v1/models"),
            ("GET", "/"),
            ("OPTIONS", "/v1/chat/completions"),
        ):
            answer = await client.request(method, path, json=body if method == "POST" else None)
            assert answer.headers.get("access-control-allow-origin") not in (f"http://{EVIL}", "*")
            if method != "OPTIONS":
                assert answer.status_code in (401, 404), path
    pieces = [piece async for piece in engine.answer({**CHAT, "max_tokens": 1})]
    assert pieces
    await engine.close()


def test_the_demos_engine_answers_to_the_demo_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
    with LocalEngine(Path(SMOLLM2.file())) as engine:
        engine.wait_until_ready(lambda: None)
        assert engine.api_key.startswith("local-")
        models = f"{engine.base_url}/models"
        for key, status in (("local", 401), ("any", 401), (engine.api_key, 200)):
            answer = httpx.get(models, headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == status
        # Everyone on a machine sees how a process was started.
        started = [" ".join(child.cmdline()) for child in psutil.Process().children()]
        assert any("mistral_service.demo.endpoint" in line for line in started)
        assert not any(engine.api_key in line for line in started)
