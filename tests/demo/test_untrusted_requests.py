"""The demo's door: pages of other sites, offers without a browser, bodies without an end."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from loguru import logger
from raw_http import ask, listening, pour, read

from mistral_service.demo import server
from mistral_service.demo.conversations import (
    MOST_CALLS,
    MOST_CANDIDATES,
    MOST_OFFERS,
    Conversations,
)
from mistral_service.demo.server import create_app, server_of

EVIL = "evil.example"
BOUND = 32 * 1024 * 1024  # bytes that the system's buffers may hold beside what a server reads


class Demo:
    """The demo with a bot that does nothing, and how many of its bots run."""

    def __init__(self, stack: ExitStack, **options) -> None:
        self.bots = 0
        self.most = 0
        most_calls = options.pop("most_calls", MOST_CALLS)
        connect_s = options.pop("connect_s", 60.0)
        self.conversations = Conversations(
            options.pop("bot", self._bot), most_calls=most_calls, connect_s=connect_s
        )
        app = create_app(self._bot, {}, conversations=self.conversations, **options)
        self.port = stack.enter_context(listening(server_of(app)))

    async def _bot(self, runner_args) -> None:
        self.bots += 1
        self.most = max(self.most, self.bots)
        try:
            await runner_args.webrtc_connection.connect()
            await asyncio.Event().wait()
        finally:
            self.bots -= 1

    def ask(self, method: str, path: str, body=b"", **headers: str):
        return ask(self.port, method, path, body, {"Host": f"localhost:{self.port}", **headers})

    def offer(self, **fields):
        return self.ask("POST", "/api/offer", {"sdp": sdp(), "type": "offer", **fields})


@pytest.fixture
def demo() -> Iterator[Callable[..., Demo]]:
    with ExitStack() as stack:
        yield lambda **options: Demo(stack, **options)


def sdp() -> str:
    """The offer of a browser that never connects."""

    async def make() -> str:
        peer = RTCPeerConnection()
        peer.createDataChannel("rtvi")
        peer.addTransceiver("audio")
        await peer.setLocalDescription(await peer.createOffer())
        await peer.close()
        return peer.localDescription.sdp

    if not hasattr(sdp, "made"):
        sdp.made = asyncio.run(make())
    return sdp.made


def until(what: Callable[[], bool]) -> bool:
    """Whether something becomes true, however busy the machine is."""
    end = time.monotonic() + 60
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return what()


ROUTES = [
    ("GET", "/"),
    ("GET", "/app.js"),
    ("GET", "/api/status"),
    ("GET", "/nothing"),
    ("POST", "/api/offer"),
    ("PATCH", "/api/offer"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "host", [EVIL, f"{EVIL}:7860", f"localhost.{EVIL}", "0.0.0.0", "192.168.1.5", "", f"a@{EVIL}"]
)
def test_a_name_that_only_resolves_to_this_machine_gets_nothing(demo, method, path, host):
    here = demo()
    body = {"sdp": sdp(), "type": "offer"} if method != "GET" else b""
    answer = ask(here.port, method, path, body, {"Host": host, "Origin": f"http://{host}"})
    assert answer.status == 400
    assert "--allow-host" in answer.sentence
    assert here.most == 0


def test_a_request_without_a_host_or_with_two_gets_nothing(demo):
    here = demo()
    two = [("Host", f"localhost:{here.port}"), ("Host", EVIL)]
    for headers in ([], two, two[::-1]):
        for version in ("1.0", "1.1"):
            answer = ask(here.port, "GET", "/api/status", b"", headers, version)
            assert answer.status == 400, (headers, version)


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "DELETE", "OPTIONS", "GET"])
@pytest.mark.parametrize(
    "origin", [f"http://{EVIL}", "null", "http://localhost", "http://localhost:1", "file://", ""]
)
def test_the_page_of_another_site_gets_nothing(demo, method: str, origin: str):
    here = demo()
    answer = here.ask(method, "/api/offer", {"sdp": sdp(), "type": "offer"}, Origin=origin)
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert here.most == 0


def test_two_origins_are_refused_though_one_is_the_pages_own(demo):
    here = demo()
    own = f"http://localhost:{here.port}"
    headers = [("Host", f"localhost:{here.port}"), ("Origin", own), ("Origin", f"http://{EVIL}")]
    assert ask(here.port, "POST", "/api/offer", {"sdp": ""}, headers).status == 403


def test_the_page_itself_is_answered_by_every_name_of_this_machine(demo):
    here = demo()
    for name in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST", "localhost."):
        host = f"{name}:{here.port}"
        headers = {"Host": host, "Origin": f"http://{host}"}
        body = {"sdp": sdp(), "type": "offer"}
        assert ask(here.port, "POST", "/api/offer", body, headers).status == 200, name
    assert until(lambda: here.bots == 5)


def test_a_tunnel_works_with_one_option(demo):
    here = demo(allow_hosts=["tunnel.example.net"])
    body = {"sdp": sdp(), "type": "offer"}
    for host in ("tunnel.example.net", f"localhost:{here.port}"):  # some tunnels write it anew
        headers = {"Host": host, "Origin": "https://tunnel.example.net"}
        assert ask(here.port, "POST", "/api/offer", body, headers).status == 200
    assert ask(here.port, "GET", "/", b"", {"Host": f"x.{EVIL}"}).status == 400


def test_on_all_interfaces_addresses_work_and_other_names_do_not(demo):
    here = demo(host="0.0.0.0")
    for host, status in (("192.168.1.5:7860", 200), ("[fd00::5]", 200), (EVIL, 400)):
        assert ask(here.port, "GET", "/api/status", b"", {"Host": host}).status == status, host


def test_offers_without_a_browser_hold_a_few_bots_and_not_for_long(demo):
    here = demo(connect_s=3.0)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(here.offer()), daemon=True)
        for _ in range(60)
    ]
    sdp()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    statuses = [answer.status for answer in answers]
    assert len(statuses) == 60
    assert set(statuses) == {200, 503}
    refused = next(answer for answer in answers if answer.status == 503)
    assert f"All {MOST_CALLS} lines are taken" in refused.sentence
    assert here.most <= MOST_CALLS
    assert until(lambda: here.bots == 0 and len(here.conversations) == 0)
    assert here.offer().status == 200


def test_a_bot_that_does_not_notice_is_ended_all_the_same(demo):
    ended = threading.Event()

    async def deaf(runner_args) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    here = demo(connect_s=0.5, bot=deaf)
    assert here.offer().status == 200
    assert ended.wait(60)
    assert until(lambda: len(here.conversations) == 0)


def test_one_whose_browser_is_there_goes_on_and_ends_when_it_leaves(demo):
    here = demo()

    async def call() -> None:
        peer = RTCPeerConnection()
        peer.createDataChannel("rtvi")
        peer.addTransceiver("audio")
        await peer.setLocalDescription(await peer.createOffer())
        async with httpx.AsyncClient(base_url=f"http://localhost:{here.port}") as client:
            offer = {"sdp": peer.localDescription.sdp, "type": "offer"}
            answer = (await client.post("/api/offer", json=offer)).json()
            await peer.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
            for _ in range(600):
                if peer.connectionState == "connected":
                    break
                await asyncio.sleep(0.1)
            assert peer.connectionState == "connected"
            assert await asyncio.to_thread(until, lambda: here.bots == 1)
            # From here on, one that does not connect ends soon.
            here.conversations._connect_s = 0.5
            assert (await asyncio.to_thread(here.offer)).status == 200
            assert await asyncio.to_thread(until, lambda: here.most == 2 and here.bots == 1)
            assert peer.connectionState == "connected"
        await peer.close()

    asyncio.run(call())
    assert until(lambda: here.bots == 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v=0",
        "\0" * 1000,
        "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nm=audio x UDP 0\r\n",
        "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nm=\r\n",
        "v=0\nm=audio 9 RTP/AVP 0\n" * 8,
        "v=0\u2028" + "m=audio 9 UDP/TLS/RTP/SAVPF 111\u2028" * 200,
        "v=0\r\n" + "a=candidate:1 1 UDP 1 10.0.0.1 1 typ host\r\n" * 500,
        "v=0\r\n" + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n" * 1000,
    ],
    ids=range(9),
)
def test_an_offer_that_cannot_be_read_is_refused_in_a_sentence(demo, text: str):
    here = demo()
    for kind in ("offer", "answer", "rollback", "x"):
        answer = here.ask("POST", "/api/offer", {"sdp": text, "type": kind})
        assert answer.status == 400
        assert answer.sentence.startswith(("An offer has the type", "The offer cannot be read"))
    assert here.most == 0
    assert len(here.conversations) == 0


DEEP = [b"[" * 30_000, b'{"a":' * 10_000, b'{"sdp":' + b"[" * 20_000 + b"]" * 20_000 + b"}"]


@pytest.mark.parametrize("body", [*DEEP, b"\xff\xfe", b"null", b"7", b"{", b'{"sdp": 1e999}'])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_body_of_any_form_is_refused(demo, method: str, body: bytes):
    answer = demo().ask(method, "/api/offer", body)
    assert answer.status in (400, 422)
    assert "Traceback" not in answer.body


def test_candidates_are_counted(demo):
    here = demo()
    pc_id = here.offer().body.split('"pc_id":"')[1].split('"')[0]
    line = "candidate:1 1 UDP 1 10.0.0.1 9 typ host"
    one = {"candidate": line, "sdp_mid": "0", "sdp_mline_index": 0}

    def name(*candidates, pc_id: str = pc_id) -> int:
        body = {"pc_id": pc_id, "candidates": list(candidates)}
        return here.ask("PATCH", "/api/offer", body).status

    assert name(one, pc_id="nonesuch") == 404
    assert name(*[one] * 51) == 422
    assert name({**one, "candidate": "candidate:x"}) == 400
    statuses = [name(*[one] * 50) for _ in range(MOST_CANDIDATES // 50 + 2)]
    assert statuses[0] == 200
    assert statuses[-1] == 429


def test_one_call_does_not_restart_for_ever(demo):
    here = demo()
    answer = here.offer()
    statuses = []
    for _ in range(MOST_OFFERS + 1):
        pc_id = answer.body.split('"pc_id":"')[1].split('"')[0]
        answer = here.offer(pc_id=pc_id, restart_pc=True)
        statuses.append(answer.status)
        if answer.status != 200:
            break
    assert statuses[:3] == [200, 200, 200]
    assert statuses[-1] == 429
    assert len(here.conversations) == 1


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_body_without_an_end_is_not_read(demo, method: str):
    here = demo()
    megabyte = b" " * 1_000_000
    long = f"{method} /api/offer HTTP/1.1\r\nContent-Type: application/json"
    taken, answer = pour(here.port, f"{long}\r\nContent-Length: 200000000", megabyte, 200)
    assert answer.status in (413, 0)  # 0: the line broke under what was still being sent
    assert taken < BOUND
    piece = f"{len(megabyte):x}\r\n".encode() + megabyte + b"\r\n"
    taken, answer = pour(here.port, f"{long}\r\nTransfer-Encoding: chunked", piece, 200)
    assert answer.status in (413, 0)
    assert taken < BOUND


def test_a_body_that_is_too_large_is_told(demo):
    here = demo()
    answer = here.ask("POST", "/api/offer", {"sdp": "x" * 70_000, "type": "offer"})
    assert answer.status == 413


def test_a_body_that_does_not_come_ends(demo):
    here = demo(body_seconds=0.5)
    with socket.create_connection(("127.0.0.1", here.port), timeout=60) as line:
        line.sendall(
            b"POST /api/offer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        answer = read(line)
    assert answer.status == 408
    assert "did not come within 0.5 s" in answer.sentence


def test_half_requests_take_no_more_connections_than_there_are(demo, monkeypatch):
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 8)
    here = demo()
    lines = [socket.create_connection(("127.0.0.1", here.port), timeout=60) for _ in range(8)]
    for line in lines:
        line.sendall(b"GET / HTTP/1.1\r\nHost: loc")
    assert until(lambda: here.ask("GET", "/api/status").status == 503)
    for line in lines:
        line.close()
    assert until(lambda: here.ask("GET", "/api/status").status == 200)


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/..%2fserver.py",
        "/%2e%2e/server.py",
        "/%2e%2e%2fserver.py",
        "/..%5cserver.py",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/app.js%00.py",
        "/" + "a" * 5000,
        "/docs",
        "/openapi.json",
    ],
)
def test_only_the_pages_own_files_are_served(demo, path: str):
    answer = demo().ask("GET", path)
    assert answer.status in (400, 404)
    assert not [word for word in ("uvicorn", "root:", "Traceback") if word in answer.body]


def test_every_answer_forbids_what_the_page_does_not_need(demo):
    here = demo()
    for method, path in [*ROUTES, ("POST", "/"), ("GET", "/%2e%2e/x")]:
        answer = here.ask(method, path, b"{" if method != "GET" else b"")
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"], path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert ask(here.port, "GET", "/", b"", {"Host": EVIL}).headers["x-content-type-options"]


def test_what_a_failing_bot_holds_is_not_told(demo, monkeypatch):
    secret = "s3cr3t-key-of-this-test"
    monkeypatch.setenv("SOME_API_KEY", secret)

    async def failing(runner_args) -> None:
        api_key = secret
        raise RuntimeError(f"refused: {api_key}")

    lines: list[str] = []
    sink = logger.add(lines.append, level="DEBUG", diagnose=True, backtrace=True)
    try:
        here = demo(bot=failing, connect_s=0.5)
        assert here.offer().status == 200
        assert until(lambda: len(here.conversations) == 0)
    finally:
        logger.remove(sink)
    said = "".join(lines)
    assert "The bot ended: refused: $SOME_API_KEY" in said
    assert secret not in said
