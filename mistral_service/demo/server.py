"""The web server: the page, what the page may ask, and one bot for every browser that calls."""

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pipecat.transports.smallwebrtc.request_handler import IceCandidate, SmallWebRTCRequest
from pydantic import BaseModel, Field

from mistral_service.demo.conversations import (
    Bot,
    Conversations,
    Refused,
    offer_loopback_when_alone,
)
from mistral_service.local.guard import BODY_SECONDS, guard

PAGE = Path(__file__).parent / "page"

# Nothing is fetched from anywhere else, and no other site may frame the page.
CONTENT_SECURITY_POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

MOST_BYTES = 64 * 1024
"""Bytes of a request's body. An offer of Chromium with sound, a camera and a channel has 8 kB."""
MOST_CONNECTIONS = 256
"""Connections at a time, those included that send half a request: each holds a file descriptor."""


class Candidates(BaseModel):
    """The network addresses that the browser of a call has found since its offer."""

    pc_id: str
    candidates: list[IceCandidate] = Field(max_length=50)


def create_app(
    bot: Bot,
    status: dict[str, Any],
    *,
    host: str = "127.0.0.1",
    allow_hosts: Sequence[str] = (),
    conversations: Conversations | None = None,
    body_seconds: float = BODY_SECONDS,
) -> FastAPI:
    """The application that serves the page and connects browsers to bots.

    Args:
        bot: Holds one conversation over the connection in its runner arguments.
        status: What `GET /api/status` tells of the engine.
        host: The address that the server listens on; see `guard`, as for the next.
        allow_hosts: Further names under which the page may be opened, as of a tunnel.
        conversations: What holds the calls; by default eight at a time.
        body_seconds: Seconds that a client has to send a body.

    Raises:
        ValueError: If one of `allow_hosts` is no host.
    """
    calls = Conversations(bot) if conversations is None else conversations

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        await calls.close()

    guarded = guard(
        host=host, allow_hosts=allow_hosts, most_bytes=MOST_BYTES, body_seconds=body_seconds
    )
    app = FastAPI(lifespan=lifespan, openapi_url=None, middleware=[guarded])

    @app.middleware("http")
    async def headers(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(Refused)
    async def refused(_: Request, e: Refused) -> Response:
        return JSONResponse({"detail": str(e)}, e.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, e: RequestValidationError) -> Response:
        # The first fault, without what was sent: FastAPI repeats that for every fault.
        first = e.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"detail": f"{place}: {first['msg']}."}, 422)

    @app.get("/api/status")
    async def get_status() -> dict[str, Any]:
        return status | {"conversations": len(calls)}

    @app.post("/api/offer")
    async def offer(request: SmallWebRTCRequest) -> dict[str, str]:
        return await calls.offer(request)

    @app.patch("/api/offer")
    async def candidates(request: Candidates) -> dict[str, str]:
        await calls.candidates(request.pc_id, request.candidates)
        return {"status": "success"}

    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return app


def server_of(app: FastAPI) -> uvicorn.Server:
    """The HTTP server of the application, with its bounds."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="error",
            ws="none",
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
    )


def serve(
    sock: socket.socket,
    bot: Bot,
    status: dict[str, Any],
    *,
    host: str = "127.0.0.1",
    allow_hosts: Sequence[str] = (),
) -> None:
    """Serve until SIGINT or SIGTERM, then close every conversation and raise KeyboardInterrupt."""
    offer_loopback_when_alone()
    server_of(create_app(bot, status, host=host, allow_hosts=allow_hosts)).run(sockets=[sock])
