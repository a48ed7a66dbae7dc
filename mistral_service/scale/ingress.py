"""The door: WebSocket calls of browsers and of Twilio, the page, and what is asked of a replica.

It knows no Ray: any ASGI server runs it.
"""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from loguru import logger
from pipecat.runner.types import CallData, WebSocketRunnerArguments
from pipecat.runner.utils import parse_telephony_websocket
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import HTTPConnection
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from mistral_service.scale import metrics
from mistral_service.scale.calls import FULL, UNKNOWN, Calls, CallSocket, Full, KeptCall
from mistral_service.scale.function_notes import LONGEST_NOTE
from mistral_service.scale.past import ASKED_LONGEST
from mistral_service.scale.sealing import Unreadable
from mistral_service.scale.snapshot import TooNew

PROTOCOL = "mistral-call.v1"
PAGE = Path(__file__).parents[1] / "demo" / "page"
HELLO_S = 10.0
"""Seconds that a client has to say who it is."""
HEARD_LONGEST = 100_000
"""Characters of a reply that a client may say it heard: some two hours of speech."""

# Nothing is fetched from anywhere else, and no other site may frame the page. Sound is played by
# worklets, which the page makes itself.
CONTENT_SECURITY_POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"

# They are the close frame's reason too, which has no more than 123 bytes.
_SENTENCES = {
    "full": "All lines are taken: call again in a moment.",
    "hello": (
        'The first message must be {"type": "call", "id", "heard", "asked": each null or a text, '
        '"ended": true or false}.'
    ),
    "unknown": "There is no such call any more: call anew, with the id null.",
    "unreadable": "What is kept of this call cannot be read: call anew, with the id null.",
    "newer": "A newer version keeps this call: call again in a moment, for a machine that has it.",
    "store": "What is kept of calls cannot be read now: call again in a moment.",
    "stranger": "This bot does not take your call.",
}

MayCall = Callable[[HTTPConnection], bool | Awaitable[bool]]
"""Whether one who calls may: gets the WebSocket of a call, or the request of `POST /twilio`."""
MAY_CALL_S = 4.0
"""Seconds that this may take; who is not known by then does not call. Our page waits for five."""


class Refusal(Exception):
    """A call is not taken; the message is the sentence for its client."""

    def __init__(self, why: str, code: int) -> None:
        """Say why.

        Args:
            why: A key of the sentences above.
            code: The close code.
        """
        super().__init__(_SENTENCES[why])
        self.code = code
        metrics.REFUSED.record(why=why)


class Hello(BaseModel):
    """What a client says first."""

    type: Literal["call"]
    id: str | None = Field(default=None, max_length=200)
    heard: str | None = Field(default=None, max_length=HEARD_LONGEST)
    ended: bool = False
    asked: str | None = Field(default=None, max_length=ASKED_LONGEST)
    note: str | None = Field(default=None, max_length=LONGEST_NOTE)


def create_app(
    calls: Calls,
    status: Mapping[str, Any],
    healthy: Callable[[], Awaitable[None]] | None = None,
    may_call: MayCall | None = None,
) -> FastAPI:
    """The application.

    Args:
        calls: Where calls are held.
        status: What `GET /api/status` tells of the engine: `engine`, `model`.
        healthy: Raises what is wrong, for `GET /healthz`.
        may_call: Whether one who calls may; None lets everybody who gets here.
    """

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
            return Response(_SENTENCES["stranger"], status_code=403, media_type="text/plain")
        return Response(twiml(request), media_type="application/xml")

    app.router.routes.append(WebSocketRoute("/call", _Door(calls, _browser, known)))
    app.router.routes.append(WebSocketRoute("/twilio/media", _Door(calls, _twilio, known)))
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return app


def twiml(request: Request) -> str:
    """Twilio's orders: connect the call's sound here, and come back when that breaks."""
    host = request.headers.get("x-forwarded-host") or request.headers.get("host", "localhost")
    path = request.scope.get("root_path", "") + "/twilio"
    stream, again = quoteattr(f"wss://{host}{path}/media"), f"https://{host}{path}"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f"<Response><Connect><Stream url={stream}/></Connect>"
        f'<Redirect method="POST">{again.replace("&", "&amp;").replace("<", "&lt;")}</Redirect>'
        "</Response>"
    )


_Answer = Callable[[Calls, CallSocket], Awaitable[None]]


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
        self, calls: Calls, answer: _Answer, known: Callable[[HTTPConnection], Awaitable[bool]]
    ) -> None:
        self._calls = calls
        self._answer = answer
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = CallSocket(scope, receive, send)
        socket.beats = PROTOCOL in scope.get("subprotocols", ())
        await socket.accept(PROTOCOL if socket.beats else None)
        try:
            if not await self._known(socket):
                raise Refusal("stranger", UNKNOWN)
            await self._answer(self._calls, socket)
        except Full:
            await _refuse(socket, Refusal("full", FULL))
        except Refusal as e:
            await _refuse(socket, e)
        except WebSocketDisconnect:
            logger.debug("A caller left before the call began.")


async def _refuse(socket: CallSocket, refusal: Refusal) -> None:
    if socket.beats:
        await socket.send_text(json.dumps({"type": "call", "error": str(refusal)}))
    await socket.end(refusal.code, str(refusal))


async def _browser(calls: Calls, socket: CallSocket) -> None:
    if not socket.beats:
        with calls.place():
            keeper = await _open(calls, None, Hello(type="call"))
        await _hold(calls, socket, "call", keeper, None)
        return
    try:
        hello = Hello.model_validate_json(await asyncio.wait_for(socket.receive_text(), HELLO_S))
    except (ValidationError, TimeoutError, KeyError):  # a binary message has no text
        raise Refusal("hello", UNKNOWN) from None
    with calls.place():
        keeper = await _open(calls, hello.id, hello)
        call_id = keeper.id if keeper else secrets.token_urlsafe(24)
        resumed = bool(keeper and keeper.resumed)
        try:
            answer: dict[str, Any] = {"type": "call", "id": call_id, "resumed": resumed}
            if resumed and keeper:
                answer["asked"] = keeper.asked
            await socket.send_text(json.dumps(answer))
        except BaseException:
            if keeper:
                await keeper.close(over=False)
            raise
    await _hold(calls, socket, "call", keeper, call_id, hello.heard)


async def _twilio(calls: Calls, socket: CallSocket) -> None:
    try:
        kind, data = await asyncio.wait_for(parse_telephony_websocket(socket), HELLO_S)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    except (ValueError, KeyError, TimeoutError):
        raise Refusal("hello", UNKNOWN) from None
    call_id = data.call_id if kind == "twilio" and isinstance(data, CallData) else None
    if not call_id:
        raise Refusal("hello", UNKNOWN)
    # Whether it is a new call only the store knows: Twilio calls again with the same id.
    with calls.place():
        keeper = await _open(calls, call_id, Hello(type="call"), create=True)
    await _hold(calls, socket, None, keeper, call_id)


async def _open(
    calls: Calls, call_id: str | None, hello: Hello, *, create: bool = False
) -> KeptCall | None:
    """Whoever keeps the call.

    Args:
        calls: The calls.
        call_id: Its id; None for a new one.
        hello: What its client said.
        create: Whether a call of this id that nobody knows is a new one.

    Raises:
        Refusal: If it is not taken.
    """
    if calls.keepers is None:
        if call_id and not create:
            raise Refusal("unknown", UNKNOWN)
        return None
    try:
        return await calls.keepers.open(
            call_id,
            heard=hello.heard,
            ended=hello.ended,
            asked=hello.asked,
            note=hello.note,
            create=create,
        )
    except LookupError:  # UnknownCall
        raise Refusal("unknown", UNKNOWN) from None
    except TooNew:
        raise Refusal("newer", FULL) from None
    except Unreadable as e:
        logger.warning(f"A call is not taken over: {e}")
        raise Refusal("unreadable", UNKNOWN) from None
    except Exception as e:
        logger.warning(f"A call could not be opened: {e}")
        raise Refusal("store", FULL) from e


async def _hold(
    calls: Calls,
    socket: CallSocket,
    way: Literal["call"] | None,
    keeper: KeptCall | None,
    call_id: str | None,
    heard: str | None = None,
) -> None:
    metrics.STARTED.record(way=way or "twilio")
    resumed = False
    if keeper and keeper.resumed:
        metrics.TAKEN_OVER.record()
        # What broke before there was a word is begun anew: the bot has to greet.
        resumed = keeper.waits or heard is not None
    lost = {"lost": True} if getattr(keeper, "begun_anew", False) else {}
    arguments = WebSocketRunnerArguments(
        websocket=socket,
        transport_type="websocket" if way else None,
        body={"call": {"id": call_id, "resumed": resumed, **lost}},
    )
    await calls.hold(socket, arguments, keeper)
