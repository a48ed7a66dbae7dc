"""The endpoints of a process with many calls, with a real server and clients, without Ray."""

import asyncio
import contextlib
import json
import re
from html import unescape
from typing import Any

import httpx
import pytest
import websockets
from ingress_calls import Kept, Parrot, Shelf, closed, dial, door, hello, until
from pipecat.runner.types import WebSocketRunnerArguments
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from mistral_service.scale.calls import Calls, CallSocket
from mistral_service.scale.client_report import NO_REPORT
from mistral_service.scale.ingress import PROTOCOL


async def test_a_caller_who_hangs_up_is_forgotten_and_one_whose_line_breaks_is_not():
    shelf, parrot = Shelf(), Parrot()
    calls = Calls(parrot, limit=9, recorders=shelf)
    async with door(calls) as host:
        async with dial(host) as line:
            assert line.subprotocol == PROTOCOL
            first = await hello(line)
            assert first["resumed"] is False
            await line.send("hi")
            assert await line.recv() == "hi"
            assert len(calls) == 1
            line.transport.abort()
        await until(lambda: shelf.closed)
        assert shelf.closed == [(first["id"], False)]

        async with dial(host) as line:
            assert await hello(line, id=first["id"], heard="One two", ended=False) == {
                "type": "call",
                "id": first["id"],
                "resumed": True,
                "asked": "Are you there?",
            }
        await until(lambda: len(shelf.closed) == 2)
        assert shelf.closed[1] == (first["id"], True)
        assert shelf.heard[1] == ("One two", False)
        assert parrot.bodies[1] == {"call": {"id": first["id"], "resumed": True}}
        assert parrot.recorders[1].id == first["id"]

        async with dial(host) as line:
            assert "There is no such call" in (await hello(line, id=first["id"]))["error"]
            assert (await closed(line))[0] == 1008
        await until(lambda: not calls)


async def test_a_line_whose_proxy_dies_with_its_machine_has_broken_and_nobody_hung_up(monkeypatch):
    # Of its proxy that is gone, Ray tells by an exception in place of the next message.
    receive = WebSocket.receive

    async def until_the_power_is_cut(socket: WebSocket) -> Any:
        message = await receive(socket)
        if message.get("text") == "power cut":
            raise ConnectionError("the proxy is gone")
        return message

    monkeypatch.setattr(WebSocket, "receive", until_the_power_is_cut)

    async def bot(arguments: WebSocketRunnerArguments) -> None:
        with contextlib.suppress(ConnectionError):  # as Pipecat's transport: it ends then
            await Parrot()(arguments)

    shelf = Shelf()
    async with door(Calls(bot, limit=9, recorders=shelf)) as host, dial(host) as line:
        first = await hello(line)
        await line.send("power cut")
        await until(lambda: shelf.closed)
        assert shelf.closed == [(first["id"], False)]


async def test_a_caller_tells_what_they_asked_last_and_an_older_client_does_not():
    shelf = Shelf()
    async with door(Calls(Parrot(), limit=9, recorders=shelf)) as host:
        call_id = None
        for said in ({}, {"asked": None}, {"asked": "Are you there?"}, {"asked": "x" * 10_000}):
            async with dial(host) as line:
                call_id = (await hello(line, id=call_id, **said))["id"]
                line.transport.abort()
            await until(lambda: len(shelf.closed) == len(shelf.asked))
        assert shelf.asked == [None, None, "Are you there?", "x" * 10_000]
        async with dial(host) as line:
            assert (
                '"asked": each null or a text' in (await hello(line, asked="x" * 10_001))["error"]
            )
            assert (await closed(line))[0] == 1008


@pytest.mark.parametrize("hangs_up", [True, False])
async def test_a_request_that_is_cancelled_is_over_only_where_the_bot_had_hung_up(hangs_up: bool):
    shelf, began = Shelf(), asyncio.Event()

    async def bot(arguments: WebSocketRunnerArguments) -> None:
        if hangs_up:
            await arguments.websocket.close()
        began.set()
        await asyncio.sleep(0.05)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(_: Any) -> None: ...

    socket = CallSocket({"type": "websocket"}, receive, send)
    await socket.accept()
    kept = await shelf.open(None, NO_REPORT, create=False)
    calls = Calls(bot, limit=9, recorders=shelf)
    request = asyncio.create_task(
        calls.run(socket, WebSocketRunnerArguments(websocket=socket), kept)
    )
    await began.wait()
    request.cancel()  # as Ray does when a client has left
    await until(lambda: shelf.closed)
    assert shelf.closed == [(kept.id, hangs_up)]


async def test_whose_call_another_machine_took_is_told_to_move():
    shelf = Shelf()
    async with door(Calls(Parrot(), limit=9, recorders=shelf)) as host, dial(host) as line:
        call = await hello(line)
        async with dial(host) as other:
            assert (await hello(other, id=call["id"]))["resumed"] is True
            assert (await closed(line))[0] == 1012
            await other.send("still here")
            assert await other.recv() == "still here"
        await until(lambda: len(shelf.closed) == 2)
        assert shelf.closed == [(call["id"], False), (call["id"], True)]


async def test_calls_are_moved_and_what_was_kept_is_written_before_the_line_closes():
    shelf = Shelf()
    ended: list[str] = []

    async def pipeline(arguments: WebSocketRunnerArguments) -> None:
        try:
            await Parrot()(arguments)
        finally:
            await arguments.websocket.close()  # as Pipecat does at its end: code 1000
            ended.append("bot")

    calls = Calls(pipeline, limit=9, recorders=shelf)
    async with door(calls) as host, dial(host) as one, dial(host) as two:
        await hello(one)
        await hello(two)
        await calls.move(within=0.1)
        assert [over for _, over in shelf.closed] == [False, False]
        assert [(await closed(line)) for line in (one, two)] == [(1012, "moved")] * 2
        assert ended == ["bot", "bot"]
        assert not len(calls)


async def test_a_bot_that_fails_tells_so_and_one_that_ends_hangs_up():
    shelf = Shelf()
    async with door(Calls(Parrot(), limit=9, recorders=shelf)) as host:
        async with dial(host) as line:
            await hello(line)
            await line.send("break")
            assert await closed(line) == (1011, "the bot failed")
        async with dial(host) as line:
            await hello(line)
            await line.send("bye")
            assert (await closed(line))[0] == 1000
        await until(lambda: len(shelf.closed) == 2)
        assert [over for _, over in shelf.closed] == [False, True]


async def test_beyond_capacity_a_caller_hears_so_at_once():
    calls = Calls(Parrot(), limit=1, recorders=Shelf())
    async with door(calls) as host, dial(host) as first:
        await hello(first)
        async with dial(host) as second:
            assert "All lines are taken" in (await hello(second))["error"]
            assert (await closed(second))[0] == 1013
        async with dial(host, protocol=None) as stock:
            assert await closed(stock) == (1013, "All lines are taken: call again in a moment.")
        await first.close()
        await until(lambda: not len(calls))
        async with dial(host) as third:
            assert (await hello(third))["resumed"] is False


async def test_a_client_can_ask_whether_the_machine_is_there():
    beat = '{"type": "beat"}'
    async with door(Calls(Parrot(), limit=9)) as host, dial(host) as line:
        await hello(line)
        for said in (beat, "hi", '{"type":"beat"}'):
            await line.send(said)
        heard = [await line.recv() for _ in range(3)]
        assert heard == [beat, "hi", beat]


async def test_the_bot_sees_no_beat_of_a_client_that_may_ask_and_all_words_of_one_that_may_not():
    seen: list[str] = []

    async def listener(arguments: WebSocketRunnerArguments) -> None:
        seen.append(await arguments.websocket.receive_text())

    async with door(Calls(listener, limit=9)) as host:
        for protocol in (PROTOCOL, None):
            async with dial(host, protocol=protocol) as line:
                if protocol:
                    await hello(line)
                for said in ('{"type": "beat"}', "hi"):
                    await line.send(said)
                await line.wait_closed()
    assert seen == ["hi", '{"type": "beat"}']


async def knows_by_cookie(connection: HTTPConnection) -> bool:
    return connection.cookies.get("badge") == "gold"


def knows_by_key(connection: HTTPConnection) -> bool:
    if connection.query_params["badge"] == "none":
        raise RuntimeError("the list of guests is lost")
    return connection.query_params["badge"] == "gold"


async def test_who_may_call_is_the_bots_to_say():
    calls = Calls(Parrot(), limit=9)
    async with door(calls, may_call=knows_by_cookie) as host:
        async with dial(host) as line:
            assert json.loads(await line.recv())["error"] == "This bot does not take your call."
            assert (await closed(line))[0] == 1008
        async with dial(host, "/twilio/media", None) as line:
            assert await closed(line) == (1008, "This bot does not take your call.")
        async with httpx.AsyncClient(base_url=f"http://{host}") as client:
            assert (await client.post("/twilio")).status_code == 403
            allowed = await client.post("/twilio", headers={"Cookie": "badge=gold"})
            assert "<Stream" in allowed.text
        cookie = {"Cookie": "badge=gold"}
        async with websockets.connect(f"ws://{host}/call", additional_headers=cookie) as line:
            await line.send("hi")
            assert await line.recv() == "hi"


async def test_where_it_cannot_be_said_who_may_call_nobody_does():
    async with door(Calls(Parrot(), limit=9), may_call=knows_by_key) as host:
        for query in ("", "?badge=none", "?badge=tin"):
            async with dial(host, f"/call{query}", None) as line:
                assert (await closed(line))[0] == 1008
        async with dial(host, "/call?badge=gold", None) as line:
            await line.send("hi")
            assert await line.recv() == "hi"


async def test_who_all_come_at_once_are_no_more_than_there_is_room_for():
    class Slow(Shelf):
        async def open(self, *arguments: Any, **options: Any) -> Any:
            await asyncio.sleep(0.2)
            return await super().open(*arguments, **options)

    calls = Calls(Parrot(), limit=3, recorders=Slow())
    async with door(calls) as host, contextlib.AsyncExitStack() as lines:
        all_ = [await lines.enter_async_context(dial(host)) for _ in range(10)]
        answers = await asyncio.gather(*map(hello, all_))
        assert sum("id" in answer for answer in answers) == 3
        assert len(calls) == 3
        await next(
            line for line, answer in zip(all_, answers, strict=True) if "id" in answer
        ).close()
        await until(lambda: len(calls) == 2)
        async with dial(host) as line:
            assert "id" in await hello(line)


@pytest.mark.parametrize(
    ("is_pending", "heard", "resumed"),
    [(True, None, True), (False, None, False), (False, "Good morning", True)],
)
async def test_a_bot_greets_who_has_heard_nothing_yet(
    is_pending: bool, heard: str | None, resumed: bool, monkeypatch: pytest.MonkeyPatch
):
    shelf, parrot = Shelf(), Parrot()
    monkeypatch.setattr(Kept, "is_pending", is_pending)
    async with door(Calls(parrot, limit=9, recorders=shelf)) as host:
        async with dial(host) as line:
            call = await hello(line)
            line.transport.abort()
        await until(lambda: shelf.closed)
        async with dial(host) as line:
            assert (await hello(line, id=call["id"], heard=heard))["resumed"] is True
            await until(lambda: len(parrot.bodies) == 2)
    assert [body["call"]["resumed"] for body in parrot.bodies] == [False, resumed]


@pytest.mark.parametrize(
    "said", ['{"type": "other"}', "no json", '{"type": "call", "ended": "perhaps"}', b"\x00"]
)
async def test_who_does_not_say_the_first_words_is_told_which(said: str | bytes):
    async with door(Calls(Parrot(), limit=9)) as host, dial(host) as line:
        await line.send(said)
        assert "The first message must be" in json.loads(await line.recv())["error"]
        assert (await closed(line))[0] == 1008


async def test_without_redis_calls_work_and_are_not_kept():
    parrot = Parrot()
    async with door(Calls(parrot, limit=9)) as host:
        async with dial(host) as line:
            call = await hello(line)
            assert len(call["id"]) >= 32
            await line.send("hi")
            assert await line.recv() == "hi"
        async with dial(host) as line:
            assert "There is no such call" in (await hello(line, id=call["id"]))["error"]
        async with dial(host, protocol=None) as stock:
            await stock.send("hi")
            assert await stock.recv() == "hi"
    assert parrot.recorders == [None, None]


async def test_a_store_that_is_gone_asks_the_caller_to_come_back():
    class Gone(Shelf):
        async def open(self, *_: Any, **__: Any) -> Any:
            raise ConnectionError("gone")

    async with door(Calls(Parrot(), limit=9, recorders=Gone())) as host, dial(host) as line:
        assert "call again in a moment" in (await hello(line, id="some"))["error"]
        assert (await closed(line))[0] == 1013


async def test_twilio_comes_back_when_its_stream_breaks_and_is_over_when_the_caller_hangs_up():
    shelf, parrot = Shelf(), Parrot()
    call_sid, stream_sid = "CA" + "1" * 32, "MZ" + "2" * 32
    async with door(Calls(parrot, limit=9, recorders=shelf)) as host:
        async with httpx.AsyncClient() as web:
            orders = await web.post(f"http://{host}/twilio", headers={"x-forwarded-host": "a.b"})
            token = re.search(r'<Parameter name="token" value="([^"]{32})"/>', orders.text)[1]
            assert '<Stream url="wss://a.b/twilio/media">' in orders.text
            address = rf"https://a\.b/twilio\?token={token}&amp;at=\d+"
            found = re.search(f'<Redirect method="POST">({address})</Redirect>', orders.text)
            redirect = unescape(found[1])
            again = await web.post(redirect.replace("https://a.b", f"http://{host}"))
            assert f'<Parameter name="token" value="{token}"/>' in again.text
        told = {"streamSid": stream_sid, "callSid": call_sid, "customParameters": {"token": token}}
        start = {"event": "start", "streamSid": stream_sid, "start": told}
        for resumed, stops in ((False, False), (True, True)):
            async with dial(host, "/twilio/media", None) as stream:
                await stream.send(json.dumps({"event": "connected"}))
                await stream.send(json.dumps(start))
                await until(lambda: parrot.bodies)
                assert parrot.bodies.pop() == {"call": {"id": call_sid, "resumed": resumed}}
                if stops:
                    await stream.send(json.dumps({"event": "stop", "streamSid": stream_sid}))
                    await stream.recv()
                stream.transport.abort()
            await until(lambda: shelf.closed)
            assert shelf.closed.pop() == (f"twilio:{call_sid}-{token}", stops)


async def test_the_page_and_the_state_are_served():
    sick = False

    async def healthy() -> None:
        if sick:
            raise RuntimeError("The event loop was stuck for 9.0 s.")

    async with door(Calls(Parrot(), limit=9), check_health=healthy) as host:  # noqa: SIM117
        async with httpx.AsyncClient(base_url=f"http://{host}") as web:
            assert "<html" in (page := await web.get("/")).text
            assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
            state = (await web.get("/api/status")).json()
            assert state["transport"] == "websocket"
            assert state["engine"] == "a script"
            assert (await web.get("/healthz")).status_code == 200
            sick = True
            ill = await web.get("/healthz")
    assert (ill.status_code, ill.text) == (503, "The event loop was stuck for 9.0 s.")
