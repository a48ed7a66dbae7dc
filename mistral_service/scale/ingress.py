"""The ASGI application: the WebSocket endpoints, Twilio's webhook, the page, status and health.

It knows no Ray: any ASGI server runs it.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from mistral_service.scale.calls import Calls, CallSocket
from mistral_service.scale.handshakes import SENTENCES, BrowserHandshake, Refusal, TwilioHandshake
from mistral_service.scale.limits import Full, PendingHandshakes
from mistral_service.scale.twilio import NotTwilio, TwimlWebhook

PROTOCOL = "mistral-call.v1"
PAGE = Path(__file__).parents[1] / "demo" / "page"
HANDSHAKE_TIMEOUT_S = 10.0
"""Seconds that a client has for its first message."""
MAX_HANDSHAKES = 12
"""Connections in the handshake, in addition to those for which there is capacity: the callers of a
dead machine come all at once. Beyond it the oldest is evicted; a client sends its first message at
once. Ray allows 16 requests in addition to the calls."""

# The page fetches nothing from other hosts, and no other site may frame it. It makes the worklets
# that play sound itself.
CONTENT_SECURITY_POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"

MayCall = Callable[[HTTPConnection], bool | Awaitable[bool]]
"""Authorizes a caller: gets the WebSocket of a call, or the request of `POST /twilio`."""
MAY_CALL_TIMEOUT_S = 4.0
"""Seconds that this may take; after that the call is refused. Our page waits for five."""


def create_app(
    calls: Calls,
    status: Mapping[str, Any],
    check_health: Callable[[], Awaitable[None]] | None = None,
    may_call: MayCall | None = None,
    allowed_origins: Sequence[str] = (),
    twilio_auth_token: str | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        calls: The calls of the process.
        status: Fields of `GET /api/status`: `engine`, `model`.
        check_health: Raises what is wrong, for `GET /healthz`.
        may_call: Authorizes callers; None allows all.
        allowed_origins: Sites whose pages may call, in addition to our own (`local.origins`).
        twilio_auth_token: Twilio's auth token: only requests that Twilio has signed get TwiML then.
    """
    webhook = TwimlWebhook(twilio_auth_token)
    is_authorized = partial(_is_authorized, may_call)
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
            if check_health:
                await check_health()
        except Exception as e:
            return Response(str(e), status_code=503, media_type="text/plain")
        return Response("ok", media_type="text/plain")

    @app.post("/twilio")
    async def twilio(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        if not await is_authorized(request):
            return Response(SENTENCES["stranger"], status_code=403, media_type="text/plain")
        try:
            return Response(await webhook.respond(request), media_type="application/xml")
        except NotTwilio as e:
            logger.warning(f"A request of Twilio's webhook is refused: {e}")
            return Response(str(e), status_code=403, media_type="text/plain")

    pending = PendingHandshakes(lambda: calls.free + MAX_HANDSHAKES)
    handshakes = {
        "/call": BrowserHandshake(calls),
        "/twilio/media": TwilioHandshake(calls, webhook),
    }
    for path, handshake in handshakes.items():
        endpoint = _CallEndpoint(handshake, pending, is_authorized, tuple(allowed_origins))
        app.router.routes.append(WebSocketRoute(path, endpoint))
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return app


async def _is_authorized(may_call: MayCall | None, connection: HTTPConnection) -> bool:
    if may_call is None:
        return True
    try:
        async with asyncio.timeout(MAY_CALL_TIMEOUT_S):
            answer = may_call(connection)
            return bool(await answer if isinstance(answer, Awaitable) else answer)
    except Exception as e:
        logger.error(f"A call is refused, because may_call failed: {type(e).__name__}: {e}")
        return False


@dataclass(frozen=True)
class _CallEndpoint:
    """A WebSocket endpoint as an ASGI application, which can make the socket a `CallSocket`."""

    handshake: BrowserHandshake | TwilioHandshake
    pending: PendingHandshakes
    is_authorized: Callable[[HTTPConnection], Awaitable[bool]]
    origins: tuple[str, ...]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = CallSocket(scope, receive, send)
        socket.speaks_protocol = PROTOCOL in scope.get("subprotocols", ())
        await socket.accept(PROTOCOL if socket.speaks_protocol else None)
        try:
            if not _has_allowed_origin(socket, self.origins):
                raise Refusal("origin")
            if not await self.is_authorized(socket):
                raise Refusal("stranger")
            async with self.pending.handshake(HANDSHAKE_TIMEOUT_S):
                run_call = await self.handshake.receive(socket)
            await run_call()
        except Full:
            await _refuse(socket, Refusal("full"))
        except (TimeoutError, NotTwilio):
            await _refuse(socket, Refusal("hello"))
        except Refusal as e:
            await _refuse(socket, e)
        except WebSocketDisconnect:
            logger.debug("A caller left before the call began.")


def _has_allowed_origin(socket: CallSocket, origins: tuple[str, ...]) -> bool:
    """Whether the `Origin` of a page is our own host, or an allowed site; a program has none."""
    headers = socket.headers
    # A page cannot set these headers; a proxy forwards the host that the page has called.
    forwarded = ",".join(headers.getlist("x-forwarded-host")).split(",")
    hosts = (headers.get("host", ""), *map(str.strip, forwarded))
    return any(allowed(headers.getlist("origin"), host, origins) for host in hosts)


async def _refuse(socket: CallSocket, refusal: Refusal) -> None:
    if socket.speaks_protocol:
        await socket.send_text(json.dumps({"type": "call", "error": str(refusal)}))
    await socket.end(refusal.code, str(refusal))
