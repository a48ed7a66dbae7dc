"""The web server: the page, what the page may ask, and one bot for every browser that calls."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from pipecat.runner.types import SmallWebRTCRunnerArguments
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.request_handler import (
    SmallWebRTCPatchRequest,
    SmallWebRTCRequest,
    SmallWebRTCRequestHandler,
)

from mistral_service.tracebacks import log_exception

PAGE = Path(__file__).parent / "page"
CLOSE_TIMEOUT_S = 2.0

# Nothing is fetched from anywhere else, and no other site may frame the page.
CONTENT_SECURITY_POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"

Bot = Callable[[SmallWebRTCRunnerArguments], Awaitable[None]]


class Conversations:
    """The bots that are running, one for every connected browser."""

    def __init__(self, bot: Bot):
        """Prepare for calls.

        Args:
            bot: Called once for every connection; returns when the conversation has ended.
        """
        self._bot = bot
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def start(self, connection: SmallWebRTCConnection) -> None:
        """Run the bot for a connection in the background."""
        task = asyncio.create_task(self._run(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for the bots to end, and cancel those that take too long."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _run(self, connection: SmallWebRTCConnection) -> None:
        try:
            await self._bot(SmallWebRTCRunnerArguments(webrtc_connection=connection))
        except Exception as e:
            log_exception(f"The bot ended: {e}", e)
            connection.send_app_message(
                {"label": "rtvi-ai", "type": "error", "data": {"error": str(e), "fatal": True}}
            )


def create_app(bot: Bot, status: dict[str, Any]) -> FastAPI:
    """The application that serves the page and connects browsers to bots.

    Args:
        bot: Holds one conversation over the connection in its runner arguments.
        status: What `GET /api/status` tells of the engine.
    """
    conversations = Conversations(bot)
    webrtc = SmallWebRTCRequestHandler()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        await webrtc.close()
        await conversations.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.middleware("http")
    async def headers(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["Cache-Control"] = "no-cache"
        return response

    @app.get("/api/status")
    async def get_status() -> dict[str, Any]:
        return status | {"conversations": len(conversations)}

    @app.post("/api/offer")
    async def offer(request: SmallWebRTCRequest) -> dict[str, str] | None:
        return await webrtc.handle_web_request(request, conversations.start)

    @app.patch("/api/offer")
    async def candidates(request: SmallWebRTCPatchRequest) -> dict[str, str]:
        await webrtc.handle_patch_request(request)
        return {"status": "success"}

    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return app


def serve(sock: socket.socket, bot: Bot, status: dict[str, Any]) -> None:
    """Serve until SIGINT or SIGTERM, then close every conversation and raise KeyboardInterrupt."""
    config = uvicorn.Config(
        create_app(bot, status), log_level="error", ws="none", timeout_graceful_shutdown=2
    )
    uvicorn.Server(config).run(sockets=[sock])
