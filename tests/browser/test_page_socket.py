"""The page calls by WebSocket, and finds its way back by itself when the line breaks."""

import asyncio
import json
import math
import os
import struct
import threading
import time
import wave
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, Response, WebSocket
from fastapi.staticfiles import StaticFiles
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    TextFrame,
    TranscriptionFrame,
)
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from playwright.sync_api import Page, expect
from stage import browser
from starlette.websockets import WebSocketDisconnect

from mistral_service.demo.server import CONTENT_SECURITY_POLICY, PAGE

pytestmark = [pytest.mark.browser, pytest.mark.timeout(60)]

ARTIFACTS = Path(os.environ.get("ARTIFACTS_DIR", "artifacts"))
MOVING = "Reconnecting: the call moves to another machine."
TONE_HZ = 440

# How long the loudspeaker was silent in the midst of sound, and how long it sounded, in seconds.
LISTEN = """() => {
  const watch = setInterval(() => {
    const stream = document.querySelector("audio").srcObject;
    if (!stream) return;
    clearInterval(watch);
    const context = new AudioContext();
    const analyser = new AnalyserNode(context, { fftSize: 256 });
    context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    window.levels = [];
    setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      window.levels.push(Math.max(...samples.map(Math.abs)));
    }, 10);
  }, 5);
}"""


class Line:
    """One connection of a caller, as a machine sees it."""

    def __init__(self, websocket: WebSocket, hello: dict[str, Any]) -> None:
        self.hello = hello
        self.heard: list[Frame] = []
        self.code: int | None = None
        self._websocket = websocket
        self._serializer = ProtobufFrameSerializer()
        self._changed = asyncio.Condition()

    async def listen(self) -> None:
        """Take what the caller sends, until the connection ends."""
        try:
            while True:
                frame = await self._serializer.deserialize(await self._websocket.receive_bytes())
                async with self._changed:
                    self.heard.append(frame)  # pyright: ignore[reportArgumentType]
                    self._changed.notify_all()
        except WebSocketDisconnect as e:
            self.code = e.code

    async def said(self, kind: str) -> dict[str, Any]:
        """The data of the first RTVI message of a type."""

        def found() -> list[dict[str, Any]]:
            told = [f.message for f in self.heard if isinstance(f, InputTransportMessageFrame)]
            return [message for message in told if message["type"] == kind]

        async with self._changed:
            await self._changed.wait_for(found)
        return found()[0]["data"]

    async def send(self, frame: Frame) -> None:
        payload = await self._serializer.serialize(frame)
        assert isinstance(payload, bytes)
        await self._websocket.send_bytes(payload)

    async def tell(self, kind: str, **data: Any) -> None:
        message = {"label": "rtvi-ai", "type": kind, "id": "1", "data": data}
        await self.send(OutputTransportMessageFrame(message=message))

    async def output(self, segment: int, said: str, rest: str = "") -> None:
        """Tell how far a sentence was said."""
        status = "completed" if not rest else "in-progress" if said else "new"
        await self.tell(
            "bot-output",
            text=said + rest,
            will_be_spoken=True,
            segment_id=segment,
            spoken_status=status,
            spoken_progress={"accumulated_text": said, "remaining_text": rest},
        )

    async def sound(self, seconds: float, rate: int = 24000) -> None:
        """A tone, in pieces of 40 ms, as fast as it is played."""
        count = rate * 40 // 1000
        for piece in range(round(seconds / 0.04)):
            angles = (np.arange(count) + piece * count) * 2 * math.pi * TONE_HZ / rate
            pcm = (np.sin(angles) * 12000).astype(np.int16).tobytes()
            await self.send(OutputAudioRawFrame(audio=pcm, sample_rate=rate, num_channels=1))
            await asyncio.sleep(0.04)

    async def until_hung_up(self) -> None:
        while self.code is None:
            await asyncio.sleep(0.01)


Bot = Callable[[Line], Awaitable[int | None]]


class Machines:
    """A server that speaks the protocol. Each connection meets the next bot of a script; the code
    that a bot returns is the one that its connection is closed with. None waits for the caller.
    """

    def __init__(self, bots: list[Bot], *, away: float = 0, **status: Any) -> None:
        self.lines: list[Line] = []
        self.refusal: tuple[str, int] | None = None
        self._away = away  # s, for which nobody answers after a break
        self._back = 0.0
        self._bots = iter(bots)
        self._app = app = FastAPI()

        @app.get("/api/status")
        def tell_status() -> dict[str, Any]:
            return {"engine": "a script", "transport": "websocket", "camera": False, **status}

        @app.middleware("http")
        async def headers(request: Any, call_next: Any) -> Response:
            response = await call_next(request)
            response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
            return response

        app.websocket("/call")(self._take)
        app.mount("/", StaticFiles(directory=PAGE, html=True))

    async def _take(self, websocket: WebSocket) -> None:
        assert websocket.scope["subprotocols"] == ["mistral-call.v1"]
        if time.monotonic() < self._back:
            return await websocket.close()  # before it is accepted: HTTP 403
        await websocket.accept("mistral-call.v1")
        hello = await websocket.receive_json()
        if self.refusal:
            sentence, code = self.refusal
            await websocket.send_json({"type": "call", "error": sentence})
            return await websocket.close(code)
        self.lines.append(line := Line(websocket, hello))
        await websocket.send_json({"type": "call", "id": "c4ll", "resumed": hello["id"] == "c4ll"})
        ears = asyncio.create_task(line.listen())
        await line.said("client-ready")
        await line.tell("bot-ready", version="2.2.0")
        code = await next(self._bots)(line)
        if code is None:
            await ears
        else:
            ears.cancel()
            self._back = time.monotonic() + self._away
            await websocket.close(code)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve on loopback; the address of the page."""
        config = uvicorn.Config(self._app, port=0, log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture
def microphone(tmp_path: Path) -> Path:
    """Twenty seconds of a tone."""
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48000)
        angles = np.arange(20 * 48000) * 2 * math.pi * TONE_HZ / 48000
        file.writeframes((np.sin(angles) * 12000).astype(np.int16).tobytes())
    return tmp_path / "tone.wav"


def call(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("button", name="Connect").click()


async def begins(line: Line) -> int:
    """Say a sentence, and the half of another one, and be gone."""
    await line.tell("bot-llm-started")
    await line.tell("bot-started-speaking")
    await line.output(1, "", "The moon is round.")
    await line.sound(0.4)
    await line.output(1, "The moon is round.")
    await line.output(2, "", "It has no air, and no weather.")
    await line.output(2, "It has no air,", " and no weather.")
    await line.sound(0.2)
    return 1012


async def goes_on(line: Line) -> None:
    await line.tell("bot-llm-started")
    await line.tell("bot-started-speaking")
    await line.output(1, "", "And no weather.")  # numbered from the beginning
    await line.sound(0.2)
    await line.output(1, "And no weather.")
    await line.tell("bot-llm-stopped")
    await line.tell("bot-stopped-speaking")


@pytest.mark.parametrize("code", [1012, 1011, 1001])
def test_a_cut_reply_goes_on_in_its_bubble(microphone: Path, code: int):
    async def breaks(line: Line) -> int:
        await begins(line)
        return code

    machines = Machines([breaks, goes_on], away=0.8)
    with machines.running() as address, browser(microphone) as chrome:
        page = chrome.new_page(viewport={"width": 1200, "height": 760})
        call(page, address)
        expect(page.get_by_role("status")).to_have_text(MOVING)
        expect(page.locator(".bot")).to_have_count(1)
        expect(page.locator(".bot p")).to_have_text(
            "The moon is round. It has no air, And no weather.", timeout=2000
        )
        expect(page.get_by_role("status")).to_have_text("Listening")
        assert page.locator("#problem").is_hidden()
        page.get_by_role("button", name="Disconnect").click()
        expect(page.get_by_role("status")).to_have_text("Ready")
    first, second = machines.lines
    assert first.hello == {"type": "call", "id": None, "heard": None, "ended": False}
    assert second.hello == {
        "type": "call",
        "id": "c4ll",
        "heard": "The moon is round. It has no air,",
        "ended": False,
    }
    assert second.code == 1000
