"""The ingress with calls that are recorded in memory, and clients that dial it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvicorn
import websockets
from pipecat.runner.types import WebSocketRunnerArguments
from websockets.asyncio.client import ClientConnection

from mistral_service.local.server import bind
from mistral_service.scale.calls import Calls
from mistral_service.scale.client_report import ClientReport
from mistral_service.scale.ingress import PROTOCOL, create_app
from mistral_service.turn.shared_services import shared_services

Bot = Callable[[WebSocketRunnerArguments], Awaitable[None]]


class Shelf:
    """Records calls in memory, as `scale/recorders.py` does in Redis."""

    def __init__(self) -> None:
        self.calls: dict[str, Kept] = {}
        self.closed: list[tuple[str, bool]] = []
        self.heard: list[tuple[str | None, bool]] = []
        self.asked: list[str | None] = []

    async def open(
        self,
        call_id: str | None,
        report: ClientReport,
        *,
        create: bool,
    ) -> Any:
        self.heard.append((report.heard, report.ended))
        self.asked.append(report.asked)
        before = self.calls.get(call_id) if call_id else None
        if call_id and not before and not create:
            raise LookupError
        if before:
            before.ownership_lost.set()
        kept = Kept(self, call_id or f"call-{len(self.closed)}-{len(self.heard)}", bool(before))
        self.calls[kept.id] = kept
        return kept


class Kept:
    asked = "Are you there?"
    is_pending = True
    history_lost = False

    def __init__(self, shelf: Shelf, call_id: str, resumed: bool) -> None:
        self.shelf, self.id, self.resumed = shelf, call_id, resumed
        self.ownership_lost = asyncio.Event()

    def progress(self) -> None:
        """Sign nothing."""

    async def close(self, *, over: bool) -> None:
        self.shelf.closed.append((self.id, over))
        if over and self.shelf.calls.get(self.id) is self:
            del self.shelf.calls[self.id]


class Parrot:
    """A bot that repeats what its caller says, until the caller leaves."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.recorders: list[Any] = []

    async def __call__(self, arguments: WebSocketRunnerArguments) -> None:
        self.bodies.append(arguments.body)
        self.recorders.append(shared_services.get().recorder)
        socket = arguments.websocket
        while (message := await socket.receive())["type"] != "websocket.disconnect":
            if (said := message.get("text")) == "break":
                raise RuntimeError("broken")
            if said == "bye":
                await socket.close()
                return
            await socket.send_text(said)


@contextlib.asynccontextmanager
async def door(calls: Calls, **options: Any) -> AsyncIterator[str]:
    app = create_app(calls, {"engine": "a script", "model": "script"}, **options)
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def hello(line: ClientConnection, **said: Any) -> dict[str, Any]:
    await line.send(json.dumps({"type": "call", "id": None, "heard": None, "ended": True, **said}))
    return json.loads(await line.recv())


def dial(host: str, path: str = "/call", protocol: str | None = PROTOCOL) -> Any:
    return websockets.connect(
        f"ws://{host}{path}",
        subprotocols=[protocol] if protocol else None,  # type: ignore[list-item]
    )


async def until(told: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not told():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def closed(line: ClientConnection) -> tuple[int, str]:
    async with asyncio.timeout(10):
        with contextlib.suppress(websockets.ConnectionClosedError):
            async for _ in line:
                pass
    assert line.close_code is not None
    return line.close_code, line.close_reason or ""
