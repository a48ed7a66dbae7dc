"""Machines that speak the protocol of docs/calls.md, and go away when a script says so."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Response, WebSocket
from fastapi.staticfiles import StaticFiles
from pipecat.frames.frames import (
    Frame,
    InputTransportMessageFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
)
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from starlette.websockets import WebSocketDisconnect

from mistral_service.demo.server import CONTENT_SECURITY_POLICY, PAGE
from mistral_service.scale.calls import CallSocket

TONE_HZ = 440


class Line:
    """One connection of a caller, as a machine sees it."""

    def __init__(self, websocket: WebSocket, hello: dict[str, Any]) -> None:
        self.hello = hello
        self.heard: list[Frame] = []
        self.code: int | None = None
        self._websocket = websocket
        self._serializer = ProtobufFrameSerializer()
        self._changed = asyncio.Condition()
        self._ears = asyncio.create_task(self._listen())

    async def left(self) -> None:
        """Wait until the connection ends."""
        await self._ears

    def freeze(self) -> None:
        """Take nothing more of what the caller sends, as a machine without power."""
        self._ears.cancel()

    async def _listen(self) -> None:
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
        begun = time.monotonic()
        count = rate * 40 // 1000
        for piece in range(round(seconds / 0.04)):
            angles = (np.arange(count) + piece * count) * 2 * math.pi * TONE_HZ / rate
            pcm = (np.sin(angles) * 12000).astype(np.int16).tobytes()
            await self.send(OutputAudioRawFrame(audio=pcm, sample_rate=rate, num_channels=1))
            await asyncio.sleep(begun + (piece + 1) * 0.04 - time.monotonic())


Bot = Callable[[Line], Awaitable[int | None]]


class Machines:
    """A server that speaks the protocol. Each connection meets the next bot of a script.

    The code that a bot returns is the one that its connection is closed with; after None, the
    caller closes it.
    """

    def __init__(
        self,
        bots: list[Bot],
        *,
        away: int = 0,
        held: bool = False,
        keeps: bool = False,
        full: int = 0,
        slow: bool = False,
        pipeline: Callable[[WebSocket], Awaitable[None]] | None = None,
        **status: Any,
    ) -> None:
        self.lines: list[Line] = []
        self.refusal: tuple[str, int] | None = None
        self._away = away  # how many calls are not answered after a break
        self._missed = 0  # how many of them are still to come
        self._open = threading.Event()
        if not (held or slow):
            self._open.set()
        self._slow = slow  # the first call is held on the line as well
        self._keeps = keeps  # what the caller has asked, as the first message tells it
        self._full = full  # how many machines have no room, before one that has
        self._bots = iter(bots)
        self._pipeline = pipeline  # a real one, in place of the script
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

    async def _take(self, plain: WebSocket) -> None:
        websocket = CallSocket(plain.scope, plain.receive, plain.send)
        websocket.speaks_protocol = True
        assert websocket.scope["subprotocols"] == ["mistral-call.v1"]
        if self._missed:
            self._missed -= 1
            return await websocket.close()  # before it is accepted: HTTP 403
        while (self.lines or self._slow) and not self._open.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await websocket.accept("mistral-call.v1")
        hello = await websocket.receive_json()
        refusal = ("All lines are taken.", 1013) if self._full else self.refusal
        self._full = max(0, self._full - 1)
        if refusal:
            sentence, code = refusal
            await websocket.send_json({"type": "call", "error": sentence})
            return await websocket.close(code)
        answer = {"type": "call", "id": "c4ll", "resumed": hello["id"] == "c4ll"}
        kept = {"asked": hello["asked"]} if self._keeps else {}
        await websocket.send_json(answer | kept)
        if self._pipeline:
            return await self._pipeline(websocket)
        line = Line(websocket, hello)
        self.lines.append(line)
        await line.said("client-ready")
        await line.tell("bot-ready", version="2.2.0")
        code = await next(self._bots)(line)
        if code is None:
            await line.left()
        else:
            line.freeze()
            self._missed = self._away
            await websocket.close(code)

    def come_back(self) -> None:
        """Answer those who are held on the line: since a break (`held`), or since ever (`slow`)."""
        self._open.set()

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
