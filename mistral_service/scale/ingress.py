"""The door: WebSocket calls of browsers and of Twilio, the page, and what is asked of a replica.

It knows no Ray: any ASGI server runs it.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from loguru import logger
from starlette.requests import HTTPConnection
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from mistral_service.local.origins import allowed
from mistral_service.scale.calls import FULL, UNKNOWN, Calls, CallSocket, Full
from mistral_service.scale.handshakes import SENTENCES, Browser, Refusal, Twilio
from mistral_service.scale.limits import HalfOpen, Waiting
from mistral_service.scale.twilio import NotTwilio, Orders

PROTOCOL = "mistral-call.v1"
PAGE = Path(__file__).parents[1] / "demo" / "page"
HELLO_S = 10.0
"""Seconds that a client has to say who it is."""
WAITING = 12
"""Lines that may wait for their first message, beside the calls; then the oldest gives way. A
client says who it is at once. Ray has room for 16 requests beside the calls."""

# Nothing is fetched from anywhere else, and no other site may frame the page. Sound is played by
# worklets, which the page makes itself.
CONTENT_SECURITY_POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"

MayCall = Callable[[HTTPConnection], bool | Awaitable[bool]]
"""Whether one who calls may: gets the WebSocket of a call, or the request of `POST /twilio`."""
MAY_CALL_S = 4.0
"""Seconds that this may take; who is not known by then does not call. Our page waits for five."""


def create_app(
    calls: Calls,
    status: Mapping[str, Any],
    healthy: Callable[[], Awaitable[None]] | None = None,
    may_call: MayCall | None = None,
    allowed_origins: Sequence[str] = (),
    twilio_auth_token: str | None = None,
) -> FastAPI:
    """The application.

    Args:
        calls: Where calls are held.
        status: What `GET /api/status` tells of the engine: `engine`, `model`.
        healthy: Raises what is wrong, for `GET /healthz`.
        may_call: Whether one who calls may; None lets everybody who gets here.
        allowed_origins: Sites whose pages may call, beside our own (`local.origins`).
        twilio_auth_token: Twilio's auth token: only requests that it has signed get orders then.
    """
    orders = Orders(twilio_auth_token)

    async def known(connection: HTTPConnection) -> bool:
        return may_call is None or await _knows(may_call, connection)

    app = FastAPI(openapi_url=None)

    @app.middleware("http")
    async def headers(  # pyright: ignore[reportUnusedFunction]
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["Cache-Control"] = "no-cache"
        return response

    @app.get("/api/status")
    async def get_status() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return {**status, "transport": "websocket", "conversations": len(calls)}

    @app.get("/healthz")
    async def healthz() -> Response:  # pyright: ignore[reportUnusedFunction]
        try:
            if healthy:
                await healthy()
        except Exception as e:
            return Response(str(e), status_code=503, media_type="text/plain")
        return Response("ok", media_type="text/plain")

    @app.post("/twilio")
    async def twilio(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        if not await known(request):
            return Response(SENTENCES["stranger"], status_code=403, media_type="text/plain")
        try:
            return Response(await orders.write(request), media_type="application/xml")
        except NotTwilio as e:
            logger.warning(f"A request for Twilio's orders is refused: {e}")
            return Response(str(e), status_code=403, media_type="text/plain")

    waiting = Waiting(WAITING)
    doors = {"/call": Browser(calls), "/twilio/media": Twilio(calls, orders)}
    for path, answer in doors.items():
        door = _Door(answer, waiting, known, tuple(allowed_origins))
        app.router.routes.append(WebSocketRoute(path, door))
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return app


async def _knows(may_call: MayCall, connection: HTTPConnection) -> bool:
    try:
        async with asyncio.timeout(MAY_CALL_S):
            known = may_call(connection)
            return bool(await known if isinstance(known, Awaitable) else known)
    except Exception as e:
        logger.error(f"A call is refused, because may_call failed: {type(e).__name__}: {e}")
        return False


class _Door:
    """An ASGI application, so that the socket is ours from its first message on."""

    def __init__(
        self,
        answer: "Browser | Twilio",
        waiting: Waiting,
        known: Callable[[HTTPConnection], Awaitable[bool]],
        origins: tuple[str, ...],
    ) -> None:
        self._answer = answer
        self._waiting = waiting
        self._known = known
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = CallSocket(scope, receive, send)
        socket.beats = PROTOCOL in scope.get("subprotocols", ())
        await socket.accept(PROTOCOL if socket.beats else None)
        try:
            if not _is_allowed(socket, self._origins):
                raise Refusal("origin", UNKNOWN)
            if not await self._known(socket):
                raise Refusal("stranger", UNKNOWN)
            async with self._waiting.line(HELLO_S):
                take = await self._answer.listens(socket)
            await take()
        except (Full, HalfOpen):
            await _refuse(socket, Refusal("full", FULL))
        except (TimeoutError, NotTwilio):
            await _refuse(socket, Refusal("hello", UNKNOWN))
        except Refusal as e:
            await _refuse(socket, e)
        except WebSocketDisconnect:
            logger.debug("A caller left before the call began.")


def _is_allowed(socket: CallSocket, origins: tuple[str, ...]) -> bool:
    """Whether the page that calls may, if it is one: our own, or one of those that are allowed."""
    headers = socket.headers
    # A page cannot set these headers; what a proxy forwards is the address that the page knows.
    forwarded = ",".join(headers.getlist("x-forwarded-host")).split(",")
    hosts = (headers.get("host", ""), *map(str.strip, forwarded))
    return any(allowed(headers.getlist("origin"), host, origins) for host in hosts)


async def _refuse(socket: CallSocket, refusal: Refusal) -> None:
    if socket.beats:
        await socket.send_text(json.dumps({"type": "call", "error": str(refusal)}))
    await socket.end(refusal.code, str(refusal))
