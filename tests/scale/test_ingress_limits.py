"""What one caller sends, or does not, costs the others nothing."""

import asyncio
import contextlib
import json
from typing import Any

import pytest
import websockets
from ingress_calls import Parrot, Shelf, closed, dial, door, hello, until
from pipecat.frames.protobufs import frames_pb2
from pipecat.runner.types import WebSocketRunnerArguments

from mistral_service.scale import calls as calls_module
from mistral_service.scale import ingress, limits
from mistral_service.scale.calls import Calls, CallSocket
from mistral_service.scale.client_report import NO_REPORT
from mistral_service.scale.limits import LimitExceeded, MessageLimiter, TokenBucket


def rtvi(kind: str, **data: Any) -> bytes:
    message = json.dumps({"label": "rtvi-ai", "type": kind, "id": "1", "data": data})
    return frames_pb2.Frame(message=frames_pb2.MessageFrame(data=message)).SerializeToString()


def sound(size: int) -> bytes:
    return frames_pb2.Frame(audio=frames_pb2.AudioRawFrame(audio=b"1" * size)).SerializeToString()


class Counts:
    """A bot that counts the bytes that it sees."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def __call__(self, arguments: WebSocketRunnerArguments) -> None:
        while (message := await arguments.websocket.receive())["type"] != "websocket.disconnect":
            self.seen.append(len(message.get("text") or message.get("bytes") or ""))


FILE = {"content": "", "file": {"format": "image/png", "source": {"type": "bytes"}}}


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ("x" * 15_000_000, 1009, "allowed are 65536"),
        (b"x" * 15_000_000, 1009, "allowed are 2097152"),
        (rtvi("send-text", content="x" * 10_001), 1009, "10001 characters: allowed are 10000"),
        (rtvi("send-text", content="x" * 70_000), 1009, "allowed are 65536"),
        (rtvi("ui-snapshot", tree="send-file" * 10_000), 1009, "allowed are 65536"),
        (rtvi("send-file", **FILE, more="x" * 2_100_000), 1009, "Send a smaller image"),
        (rtvi("send-file", **{**FILE, "content": "x" * 10_001}), 1009, "allowed are 10000"),
        (sound(65_536), 1009, "allowed are 65536"),
        (sound(1) + rtvi("send-text", content="x" * 10_001), 1009, "allowed are 10000"),
    ],
)
async def test_a_message_that_is_too_large_ends_its_own_call_with_a_sentence(said, code, told):
    shelf, bot = Shelf(), Counts()
    async with door(Calls(bot, limit=9, recorders=shelf)) as host:
        async with dial(host) as other:
            await hello(other)
            async with dial(host) as line:
                await hello(line)
                await line.send(said)
                assert (await closed(line))[0] == code
                assert told in (line.close_reason or "")
            await until(lambda: len(shelf.closed) == 1)
            assert bot.seen == []
            await other.send("hi")
            await until(lambda: bot.seen == [2])
        await until(lambda: len(shelf.closed) == 2)
    assert [over for _, over in shelf.closed] == [False, True]  # the call can be taken up again


async def test_what_honest_clients_send_passes():
    bot = Counts()
    honest = [
        sound(640),
        sound(48_000),
        rtvi("send-text", content="x" * 10_000),
        rtvi("send-file", **FILE, more="x" * 2_000_000),
        rtvi("raw-audio", base64Audio="A" * 40_000),
        frames_pb2.Frame(
            transcription=frames_pb2.TranscriptionFrame(text="Hello.")
        ).SerializeToString(),
        frames_pb2.Frame(interruption=frames_pb2.InterruptionFrame(id=1)).SerializeToString(),
        b"\x00\x01" * 320,  # a bot with a serializer of its own
        "words",
    ]
    async with door(Calls(bot, limit=9)) as host, dial(host) as line:
        await hello(line)
        for message in honest:
            await line.send(message)
        await until(lambda: len(bot.seen) == len(honest))
    assert bot.seen == [len(message) for message in honest]


async def test_who_writes_without_end_is_stopped():
    bot = Counts()
    async with door(Calls(bot, limit=9)) as host, dial(host) as line:
        await hello(line)
        with contextlib.suppress(websockets.ConnectionClosed):
            for _ in range(200):
                await line.send(rtvi("send-text", content="word " * 1000))
        assert await closed(line) == (1008, "Too much text: allowed are 1000 characters a second.")
    assert len(bot.seen) <= 15  # of 200: some 50,000 characters of a million


def test_sound_waits_where_it_comes_faster_than_it_is_spoken():
    limiter, now, waited = MessageLimiter(), 0.0, 0.0
    for _ in range(60 * 50):  # a minute of 48 kHz stereo, as it is spoken
        now += 0.02
        waited += limiter.check(sound(3840), now) or 0.0
    assert waited == 0.0
    for _ in range(2000):  # more, and all of it at once
        pause = limiter.check(sound(60_000), now) or 0.0
        waited += pause
        now += pause
    assert waited > 2000 * 60_000 / limits.BYTES_PER_SECOND * 0.8
    bucket = TokenBucket(10, 20)
    assert [bucket.take(10, when) for when in (0, 0, 0, 1, 1)] == [0, 0, 1, 1, 2]


def test_an_image_that_hides_its_kind_is_judged_by_what_it_is():
    limiter = MessageLimiter()
    text = frames_pb2.Frame(text=frames_pb2.TextFrame(text="Approved.")).SerializeToString()
    for hidden in (text, sound(3) + text, b"\x32\x01a" + text, text + b"\x32\x01a"):
        assert limiter.check(hidden, 0.0) is None
    with pytest.raises(LimitExceeded):
        limiter.check(sound(3) + rtvi("send-text", content="x" * 10_001), 0.0)
    deep = frames_pb2.Frame(message=frames_pb2.MessageFrame(data="[" * 60_000)).SerializeToString()
    assert limiter.check(deep, 0.0) == 0.0  # Pipecat says that it cannot be read


@pytest.mark.parametrize("protocol", ["mistral-call.v1", None])
async def test_lines_on_which_nothing_is_said_keep_no_one_out(protocol):
    parrot, silent = Parrot(), 40
    calls = Calls(parrot, limit=2, recorders=Shelf())
    async with door(calls) as host, contextlib.AsyncExitStack() as lines:
        mute = [
            await lines.enter_async_context(dial(host, "/call", protocol)) for _ in range(silent)
        ]
        # As many as there is capacity for, and some.
        most = calls.limit + ingress.MAX_HANDSHAKES
        await until(lambda: sum(m.state.name != "OPEN" for m in mute) >= silent - most)
        assert not len(calls)
        for _ in range(2):
            assert "id" in await hello(await lines.enter_async_context(dial(host)))
        assert len(calls) == 2
    given_way = [await closed(line) for line in mute]
    assert given_way.count((1013, "All lines are taken: call again in a moment.")) >= (
        silent - ingress.MAX_HANDSHAKES
    )
    assert len(parrot.bodies) == 2


async def test_no_caller_of_a_crowd_is_refused_while_there_is_capacity():
    """All callers of a machine that has died come at once, and the first wait for the last."""
    parrot, crowd = Parrot(), 40
    calls = Calls(parrot, limit=crowd, recorders=Shelf())
    async with door(calls) as host, contextlib.AsyncExitStack() as lines:
        all_lines = [await lines.enter_async_context(dial(host)) for _ in range(crowd)]
        answers = [await hello(line) for line in all_lines]
        assert ["id" in answer for answer in answers] == [True] * crowd
        assert len(calls) == crowd
        async with dial(host) as late:
            assert (await hello(late))["error"] == "All lines are taken: call again in a moment."


async def test_a_line_that_says_nothing_in_time_is_closed(monkeypatch):
    monkeypatch.setattr(ingress, "HANDSHAKE_TIMEOUT_S", 0.2)
    calls = Calls(Parrot(), limit=9)
    async with door(calls) as host:
        for path, protocol in (
            ("/call", "mistral-call.v1"),
            ("/call", None),
            ("/twilio/media", None),
        ):
            async with dial(host, path, protocol) as line:
                assert (await closed(line))[0] == 1008
    assert not len(calls)


async def test_who_takes_nothing_of_what_is_sent_is_given_up(monkeypatch):
    monkeypatch.setattr(calls_module, "SEND_TIMEOUT_S", 0.1)
    shelf, never = Shelf(), asyncio.Event()
    sent: list[str] = []

    async def receive() -> Any:
        if not sent:
            return {"type": "websocket.connect"}
        await never.wait()

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] == "websocket.send":
            await never.wait()  # as uvicorn, whose buffer is full

    async def bot(arguments: WebSocketRunnerArguments) -> None:
        async def speaks() -> None:
            for _ in range(100):
                await arguments.websocket.send_bytes(b"1" * 1000)

        speaking = asyncio.create_task(speaks())
        while (await arguments.websocket.receive())["type"] != "websocket.disconnect":
            pass
        speaking.cancel()

    socket = CallSocket({"type": "websocket"}, receive, send)
    await socket.accept()
    kept = await shelf.open(None, NO_REPORT, create=False)
    calls = Calls(bot, limit=9, recorders=shelf)
    async with asyncio.timeout(20):
        await calls.run(socket, WebSocketRunnerArguments(websocket=socket), kept)
    assert sent.count("websocket.send") == 1  # what cannot be sent is not queued
    assert shelf.closed == [(kept.id, False)]


@pytest.mark.parametrize(
    "first",
    [
        "[" * 900_000,
        '{"type": "call", "id": ' + "1" * 50_000 + "}",
        '{"type": "call", "id": "twilio:CA"}',
        '{"type": "call", "id": "\\ud800"}',
        '{"type": "call", "heard": ["a"]}',
        '{"type": "call", "sent": "words"}',
        '{"type": "call", "sent": {"turn": 1e400, "words": "", "proof": ""}}',
        '{"type": "call", "sent": {"turn": -1, "words": "", "proof": ""}}',
    ],
)
async def test_a_first_message_that_is_none_is_refused_in_words(first):
    calls = Calls(Parrot(), limit=9, recorders=Shelf())
    async with door(calls) as host, dial(host) as line:
        await line.send(first)
        assert "The first message must be" in json.loads(await line.recv())["error"]
        assert (await closed(line))[0] == 1008
        async with dial(host) as other:
            assert "id" in await hello(other)


async def test_a_call_that_many_take_at_once_has_one_owner():
    shelf = Shelf()
    calls = Calls(Parrot(), limit=9, recorders=shelf)
    async with door(calls) as host, contextlib.AsyncExitStack() as lines:
        first = await lines.enter_async_context(dial(host))
        call = await hello(first)
        others = [await lines.enter_async_context(dial(host)) for _ in range(5)]
        answers = await asyncio.gather(*(hello(line, id=call["id"]) for line in others))
        assert {answer["id"] for answer in answers} == {call["id"]}
        await until(lambda: len(calls) == 1)
        [owner] = [line for line in others if line.state.name == "OPEN"]
        await owner.send(json.dumps({"type": "call", "id": None}))  # a first message, once more
        assert json.loads(await owner.recv()) == {"type": "call", "id": None}  # is the bot's
        assert len(calls) == 1


OWN = "http://HOST"


@pytest.mark.parametrize(
    ("origin", "allowed", "passes"),
    [
        (None, [], True),
        (OWN, [], True),
        ("https://HOST", [], True),  # a proxy has ended TLS
        ("https://evil.example", [], False),
        ("http://127.0.0.1:1", [], False),
        ("null", [], False),
        ("https://HOST.evil.example", [], False),
        ("https://app.example.org", ["https://app.example.org"], True),
        ("https://app.example.org", ["app.example.org"], True),
        ("https://app.example.org.evil.example", ["app.example.org"], False),
        ("https://evil.example/app.example.org", ["app.example.org"], False),
        (OWN, ["app.example.org"], True),
    ],
)
async def test_pages_of_other_sites_do_not_call(origin, allowed, passes):
    calls = Calls(Parrot(), limit=9, recorders=Shelf())
    async with door(calls, allowed_origins=allowed) as host:
        headers = {"Origin": origin.replace("HOST", host)} if origin else {}
        address = f"ws://{host}/call"
        async with websockets.connect(address, additional_headers=headers) as line:
            if passes:
                await line.send("hi")
                assert await line.recv() == "hi"
            else:
                sentence = "This bot does not take calls from pages of other sites."
                assert await closed(line) == (1008, sentence)
