"""One answer: an engine's pieces in Mistral's wire format, and a record of the exchange."""

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
from mistral_service.local.stream_format import StreamFormat, StreamRewriter

_NO_HEADERS: Mapping[str, str] = {}


@dataclass
class Exchange:
    """A request and its answer, for tests to inspect.

    Parameters:
        request: The request's body.
        headers: The request's headers, names in lower case, without the key.
        began: When the request arrived, on the monotonic clock.
        status: The status of the answer; None until there is one.
        ended: When the answer ended, or the client disconnected; None until then.
        left: Whether the client disconnected before the end.
        refused: The error body where the request did not pass the checks; None if it did.
        path: The endpoint, without the version: `chat/completions`.
    """

    request: Any
    headers: dict[str, str]
    began: float = field(default_factory=time.monotonic)
    status: int | None = None
    ended: float | None = None
    left: bool = False
    refused: Any = None
    path: str = "chat/completions"

    def refuse(self, refusal: Refusal) -> Response:
        """Record a refusal; returns the response that carries it."""
        self.status = refusal.status
        self.ended = time.monotonic()
        return refusal_response(refusal)


class _Broken(Exception):
    """The script breaks the connection: the server closes the socket on any exception."""


class Answer(Response):
    """Sends each piece as the engine yields it, and stops when the client disconnects."""

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
        """Send until the engine ends or the client disconnects."""

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                # Before the client sees the end, so that its next request begins later.
                self._exchange.ended = time.monotonic()
            await send(message)

        sending = asyncio.create_task(self._send(scope, receive, send_on))
        disconnected = asyncio.create_task(_disconnect(receive))
        try:
            await asyncio.wait({sending, disconnected}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                self._exchange.left = True
        finally:
            for task in (sending, disconnected):
                task.cancel()
            results = await asyncio.gather(sending, disconnected, return_exceptions=True)
            self._exchange.ended = self._exchange.ended or time.monotonic()
        if isinstance(results[0], Exception):
            raise results[0]

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        respond = self._stream if self._body.get("stream") else self._whole
        async with aclosing(_paced(self._engine, self._body)) as pieces:
            await respond(pieces, scope, receive, send)

    async def _stream(
        self, pieces: AsyncIterator[Piece], scope: Scope, receive: Receive, send: Send
    ) -> None:
        form = ReplyFormat(self._body)
        stream_format = self._behaviour.stream_format() if self._behaviour else StreamFormat()
        rewriter = StreamRewriter(stream_format, self._body) if self._behaviour else None
        async for piece in pieces:
            if isinstance(piece, Refusal):
                await self._refuse(piece, scope, receive, send)
                return
            await self._begin(send, piece.headers if isinstance(piece, Headers) else _NO_HEADERS)
            match piece:
                case Cut():
                    raise _Broken
                case Raw(data):
                    await _write(send, data)
                case Delta() | End():
                    chunks = form.chunks(piece)
                    for chunk in rewriter.chunks(chunks) if rewriter else chunks:
                        data = json.dumps(chunk, ensure_ascii=False).encode()
                        await _write(send, b"data: " + data + b"\n\n")
                    if isinstance(piece, End) and stream_format.done:
                        await _write(send, b"data: [DONE]\n\n")
                case _:
                    pass
        await self._begin(send)
        await _write(send, b"", more=False)

    async def _whole(
        self, pieces: AsyncIterator[Piece], scope: Scope, receive: Receive, send: Send
    ) -> None:
        form = ReplyFormat(self._body)
        response: Response | None = None
        async for piece in pieces:
            match piece:
                case Refusal():
                    await self._refuse(piece, scope, receive, send)
                    return
                case Cut():
                    raise _Broken
                case Raw(data):
                    response = Response(data, 200, self._headers, media_type="application/json")
                    break
                case Delta() | End():
                    form.gather(piece)
                case _:
                    pass
        self._exchange.status = 200
        response = response or JSONResponse(form.whole(), 200, self._headers)
        await response(scope, receive, send)

    async def _refuse(self, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        with_limits = replace(refusal, headers={**self._headers, **refusal.headers})
        await self._exchange.refuse(with_limits)(scope, receive, send)

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


def refusal_response(refusal: Refusal) -> Response:
    """A refusal as an HTTP response."""
    headers = dict(refusal.headers)
    if isinstance(refusal.body, str):
        return PlainTextResponse(refusal.body, refusal.status, headers)
    return _Json(refusal.body, refusal.status, headers)


class _Json(JSONResponse):
    """JSON of any value, NaN included: a refusal repeats what the client sent."""

    def render(self, content: Any) -> bytes:
        try:
            return json.dumps(content, allow_nan=False).encode()
        except ValueError:
            return json.dumps(json.loads(json.dumps(content), parse_constant=str)).encode()


async def _paced(engine: Engine, body: Json) -> AsyncGenerator[Piece]:
    """The engine's pieces, each after the waits before it."""
    async for piece in engine.answer(body):
        if isinstance(piece, Wait):
            await asyncio.sleep(piece.seconds)
        else:
            yield piece


async def _write(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
