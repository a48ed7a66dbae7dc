"""One answer: an engine's pieces in Mistral's wire format, and what became of the request."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from mistral_service.local.behaviour import Behaviour
from mistral_service.local.format import ReplyFormat
from mistral_service.local.pieces import (
    Cut,
    Delta,
    End,
    Engine,
    Headers,
    Json,
    Piece,
    Raw,
    Refusal,
    Wait,
)
from mistral_service.local.stream_form import Restated, StreamForm

_NO_HEADERS: Mapping[str, str] = {}


@dataclass
class Exchange:
    """One request and what became of it, for tests to look at.

    Parameters:
        request: The request's body.
        headers: The request's headers, names in lower case, without the key.
        began: When it came, on the monotonic clock.
        status: The status of the answer; None until there is one.
        ended: When the answer ended, or the client left; None until then.
        left: Whether the client left before the end.
        refused: What the judges said against the request; None if they accepted it.
        path: Which endpoint was asked, without the version: `chat/completions`.
    """

    request: Any
    headers: dict[str, str]
    began: float = field(default_factory=time.monotonic)
    status: int | None = None
    ended: float | None = None
    left: bool = False
    refused: Any = None
    path: str = "chat/completions"


class _Broken(Exception):
    """The script wants the connection broken: the server closes the socket on any exception."""


class Answer(Response):
    """Sends what an engine yields while it yields it, and notices when the client leaves."""

    def __init__(
        self,
        engine: Engine,
        body: Json,
        exchange: Exchange,
        headers: Mapping[str, str],
        behaviour: Behaviour | None = None,
    ) -> None:
        self._behaviour = behaviour
        self._engine = engine
        self._body = body
        self._exchange = exchange
        self._headers = headers
        self._begun = False
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the engine has ended or the client has left."""

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                # Before its client can know: what that asks next begins later.
                self._exchange.ended = time.monotonic()
            await send(message)

        sending = asyncio.create_task(self._send(scope, receive, send_on))
        leaving = asyncio.create_task(_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                self._exchange.left = True
        finally:
            for task in (sending, leaving):
                task.cancel()
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
            self._exchange.ended = self._exchange.ended or time.monotonic()
        if isinstance(results[0], Exception):
            raise results[0]

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(_pieces(self._engine, self._body)) as pieces:
            if self._body.get("stream"):
                await self._stream(pieces, scope, receive, send)
            else:
                await self._whole(pieces, scope, receive, send)

    async def _stream(
        self, pieces: AsyncIterator[Piece], scope: Scope, receive: Receive, send: Send
    ) -> None:
        form = ReplyFormat(self._body)
        stream_form = self._behaviour.stream_form() if self._behaviour else StreamForm()
        restated = Restated(stream_form, self._body) if self._behaviour else None
        async for piece in pieces:
            match piece:
                case Refusal():
                    refusal = replace(piece, headers={**self._headers, **piece.headers})
                    await refusal_response(refusal, self._exchange)(scope, receive, send)
                    return
                case Wait(seconds):
                    await asyncio.sleep(seconds)
                case Headers(headers):
                    await self._begin(send, headers)
                case Cut():
                    await self._begin(send)
                    raise _Broken
                case Raw(data):
                    await self._begin(send)
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                case Delta() | End():
                    await self._begin(send)
                    chunks = form.chunks(piece)
                    for chunk in restated.chunks(chunks) if restated else chunks:
                        data = b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"
                        await send({"type": "http.response.body", "body": data, "more_body": True})
                    if isinstance(piece, End) and stream_form.done:
                        data = b"data: [DONE]\n\n"
                        await send({"type": "http.response.body", "body": data, "more_body": True})
        await self._begin(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _whole(
        self, pieces: AsyncIterator[Piece], scope: Scope, receive: Receive, send: Send
    ) -> None:
        form = ReplyFormat(self._body)
        async for piece in pieces:
            match piece:
                case Refusal():
                    refusal = replace(piece, headers={**self._headers, **piece.headers})
                    await refusal_response(refusal, self._exchange)(scope, receive, send)
                    return
                case Wait(seconds):
                    await asyncio.sleep(seconds)
                case Cut():
                    raise _Broken
                case Raw(data):
                    self._exchange.status = 200
                    whole = Response(data, 200, self._headers, media_type="application/json")
                    await whole(scope, receive, send)
                    return
                case Delta() | End():
                    form.gather(piece)
                case Headers():
                    pass
        self._exchange.status = 200
        await JSONResponse(form.whole(), 200, self._headers)(scope, receive, send)

    async def _begin(self, send: Send, more: Mapping[str, str] = _NO_HEADERS) -> None:
        if self._begun:
            return
        self._begun = True
        self._exchange.status = 200
        named = self._behaviour is None or self._behaviour.names_requests()
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            *([(b"mistral-correlation-id", ReplyFormat(self._body).id.encode())] * named),
            *((name.encode(), value.encode()) for name, value in {**self._headers, **more}.items()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


def refusal_response(refusal: Refusal, exchange: Exchange) -> Response:
    """What an engine or a judge refuses, as Mistral words it."""
    exchange.status = refusal.status
    exchange.ended = time.monotonic()
    headers = dict(refusal.headers)
    if isinstance(refusal.body, str):
        return PlainTextResponse(refusal.body, refusal.status, headers)
    return _Json(refusal.body, refusal.status, headers)


class _Json(JSONResponse):
    """JSON that can be written whatever stands in it: a refusal repeats what the client sent."""

    def render(self, content: Any) -> bytes:
        try:
            return json.dumps(content, allow_nan=False).encode()
        except ValueError:
            return json.dumps(json.loads(json.dumps(content), parse_constant=str)).encode()


async def _pieces(engine: Engine, body: Json) -> AsyncGenerator[Piece]:
    async for piece in engine.answer(body):
        yield piece


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
