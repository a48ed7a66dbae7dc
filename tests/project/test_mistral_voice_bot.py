"""The all-Mistral bot: spoken turns over a real WebSocket, with stand-ins for Mistral."""

import asyncio
import base64
import contextlib
import importlib.util
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, WebSocket
from mistral_speech import HUM_SECONDS, MistralSpeech, pitch_in, pitch_of
from mistralai.client import sdkconfiguration
from pipecat.audio.resamplers.soxr_stream_resampler import SOXRStreamAudioResampler
from pipecat.audio.utils import create_stream_resampler, ulaw_to_pcm
from pipecat.runner.types import WebSocketRunnerArguments
from pipecat.serializers import twilio
from waiting import until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from mistral_service.demo.weights import WHISPER_TINY
from mistral_service.local import LocalMistral, Reply
from mistral_service.local.server import bind

ROOT = Path(__file__).parents[2]
CAPTURE = (ROOT / "tests" / "captures" / "twilio_call.jsonl").read_text().splitlines()
HANDSHAKE, MEDIA, STOP = CAPTURE[:2], CAPTURE[2:-1], CAPTURE[-1]
LINE_RATE = 8000
FRAME_SECONDS = 0.02
SILENCE = base64.b64encode(b"\xff" * 160).decode()

GREETING, QUESTION, ANSWER = "Hello there.", "What is the capital of France?", "It is Paris."


@pytest.fixture
def bot() -> ModuleType:
    path = ROOT / "examples" / "mistral_voice_bot.py"
    spec = importlib.util.spec_from_file_location("mistral_voice_bot", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _a_late_machine_loses_no_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipecat's resamplers drop what they hold when 0.2 s of the wall pass between two frames."""
    defaults = SOXRStreamAudioResampler.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "clear_after_secs", None)
    monkeypatch.setattr(twilio, "create_stream_resampler", lambda **_: create_stream_resampler())


@pytest.fixture
def speech(monkeypatch: pytest.MonkeyPatch) -> Iterator[MistralSpeech]:
    with MistralSpeech([QUESTION]) as stand_in:
        server = sdkconfiguration.SERVER_GLOBAL
        monkeypatch.setitem(sdkconfiguration.SERVERS, server, stand_in.url)
        where = twilio._build_call_resource_url

        def here(*args, **kwargs) -> str:
            return where(*args, **{**kwargs, "base_url": stand_in.url})

        monkeypatch.setattr(twilio, "_build_call_resource_url", here)
        monkeypatch.setenv("MISTRAL_API_KEY", "the-one-key")
        monkeypatch.setenv("TWILIO_ACCOUNT_SID", "AC1")
        monkeypatch.setenv("TWILIO_AUTH_TOKEN", "token")
        yield stand_in


class Caller:
    """Twilio's side of a call: sends frames at the pace of a line, and keeps what comes back."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._next: list[str] = []
        self.said: list[str] = []
        self.heard = b""
        self.cleared = 0

    async def hold(self) -> None:
        """Be on the line until the socket closes."""
        for line in HANDSHAKE:
            await self._socket.send(line)
        silence = json.loads(MEDIA[0])
        silence["media"]["payload"] = SILENCE
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            await self._socket.send(self._next.pop(0) if self._next else json.dumps(silence))
            due += FRAME_SECONDS
            await asyncio.sleep(max(0, due - clock()))

    async def listen(self) -> None:
        """Keep what the bot sends."""
        async for line in self._socket:
            message = json.loads(line)
            self.cleared += message["event"] == "clear"
            if message["event"] == "media":
                self.heard += base64.b64decode(message["media"]["payload"])

    def speak(self) -> None:
        """Ask the question of the recording."""
        self._next = list(MEDIA)

    async def hang_up(self) -> None:
        """Put the receiver down, as Twilio tells it, unless the bot has."""
        with contextlib.suppress(ConnectionClosed):
            await self._socket.send(STOP)
            await self._socket.close()


@contextlib.asynccontextmanager
async def telephone(bot: ModuleType, idle: float = 60) -> AsyncIterator[Caller]:
    """A call to the bot, over the WebSocket that Pipecat's runner would offer."""
    app = FastAPI()
    ended = asyncio.Event()

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        arguments = WebSocketRunnerArguments(websocket=websocket)
        arguments.pipeline_idle_timeout_secs = idle
        await bot.bot(arguments)
        ended.set()

    listener = bind("127.0.0.1", 0)
    config = uvicorn.Config(app, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    # Only the tests' own process takes signals.
    serving = asyncio.create_task(server._serve(sockets=[listener]))
    try:
        async with connect(f"ws://127.0.0.1:{listener.getsockname()[1]}/ws") as socket:
            caller = Caller(socket)
            tasks = [asyncio.create_task(caller.hold()), asyncio.create_task(caller.listen())]
            yield caller
            await caller.hang_up()
            await asyncio.wait_for(ended.wait(), 10)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        server.should_exit = True
        await serving


async def pcm(line: bytes, rate: int = LINE_RATE) -> bytes:
    return await ulaw_to_pcm(line, LINE_RATE, rate, create_stream_resampler())


def loudness(line: bytes) -> int:
    """How many bytes of a line's sound are not silence."""
    return sum(byte not in (0xFF, 0x7F) for byte in line)


async def voice(caller: Caller, since: int) -> float:
    """The pitch of what the bot has said since some moment: waits until it is said."""
    await until(lambda: loudness(caller.heard[since:]) > 0.6 * LINE_RATE, 20)
    spoken = caller.heard[since:]
    first = next(i for i, byte in enumerate(spoken) if byte not in (0xFF, 0x7F))
    return pitch_in(await pcm(spoken[first : first + LINE_RATE // 2]), LINE_RATE)


async def test_a_call_over_twilio_is_heard_answered_and_spoken(
    bot, speech, serve, monkeypatch: pytest.MonkeyPatch
):
    mistral: LocalMistral = serve(Reply(GREETING), Reply(ANSWER), api_key="the-one-key")
    monkeypatch.setenv("MISTRAL_BASE_URL", mistral.base_url)
    async with telephone(bot) as caller:
        assert abs(await voice(caller, 0) - pitch_of(GREETING)) < 15
        await asyncio.sleep(1)  # the caller lets the bot finish
        greeted = len(caller.heard)
        caller.speak()
        await until(lambda: len(mistral.exchanges) == 2, 20)
        assert abs(await voice(caller, greeted) - pitch_of(ANSWER)) < 15
    asked = mistral.exchanges[1].request["messages"]
    assert asked[-1] == {"role": "user", "content": QUESTION}
    assert GREETING in str(asked)
    assert mistral.exchanges[1].refused is None
    assert [body["input"] for body in speech.spoken] == [GREETING, ANSWER]
    assert speech.keys == {"Bearer the-one-key"}
    assert speech.hung_up == []  # the caller has done so
    (sound, rate) = speech.heard[-1]
    assert rate == bot.IN_RATE
    assert "france" in words_in(sound, rate).lower()


async def test_a_caller_who_speaks_over_the_bot_is_heard(
    bot, speech, serve, monkeypatch: pytest.MonkeyPatch
):
    long = " ".join(f"This is sentence number {n}." for n in range(30))
    mistral: LocalMistral = serve(Reply(long), Reply(ANSWER))
    monkeypatch.setenv("MISTRAL_BASE_URL", mistral.base_url)
    async with telephone(bot) as caller:
        # The first sentence has been said, and the second is being said.
        await until(lambda: loudness(caller.heard) > 1.3 * HUM_SECONDS * LINE_RATE, 20)
        caller.speak()
        await until(lambda: len(mistral.exchanges) == 2, 20)
        await until(lambda: ANSWER in [body["input"] for body in speech.spoken], 20)
    assert caller.cleared >= 1  # Twilio is told to drop what it has not played yet
    assert mistral.exchanges[1].request["messages"][-1]["content"] == QUESTION
    said = str(mistral.exchanges[1].request["messages"])
    assert "number 0" in said
    assert "number 29" not in said  # what the caller did not hear was not said


async def test_a_line_on_which_nobody_speaks_is_hung_up(
    bot, speech, serve, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MISTRAL_BASE_URL", serve(Reply(GREETING)).base_url)
    async with telephone(bot, idle=2):
        await until(lambda: speech.hung_up, 30)
    assert speech.hung_up == [f"/2010-04-01/Accounts/AC1/Calls/CA{1:032}.json"]
    assert [body["input"] for body in speech.spoken] == [GREETING]


def words_in(sound: bytes, rate: int) -> str:
    """What Whisper hears in some 16-bit sound: whether the line has left it as speech."""
    from faster_whisper import WhisperModel

    assert rate == 16000  # Whisper's own
    heard = np.frombuffer(sound, np.int16).astype(np.float32) / 32768
    model = WhisperModel(str(WHISPER_TINY.find()), device="cpu", compute_type="int8")
    segments, _ = model.transcribe(heard, language="en")
    return " ".join(segment.text for segment in segments)


@pytest.mark.live
@pytest.mark.skipif(not os.environ.get("MISTRAL_API_KEY"), reason="needs a key of Mistral's API")
async def test_a_call_with_mistral_itself(bot, monkeypatch: pytest.MonkeyPatch):
    async def stays(self) -> None:
        """Nobody's telephone is hung up."""

    monkeypatch.setattr(twilio.TwilioFrameSerializer, "_hang_up_call", stays)
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", "AC1")
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "token")
    async with telephone(bot) as caller:
        await until(lambda: loudness(caller.heard) > LINE_RATE, 30)
        await asyncio.sleep(6)
        caller.speak()
        asked = len(caller.heard)
        await until(lambda: loudness(caller.heard[asked:]) > LINE_RATE, 30)
        await asyncio.sleep(3)
    heard = words_in(await pcm(caller.heard[asked:], 16000), 16000)
    assert "paris" in heard.lower()
