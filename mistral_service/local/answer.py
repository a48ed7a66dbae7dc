"""One answer: an engine's pieces in Mistral's wire format, and a record of the exchange."""

import asyncio
import json
import time
import uuid
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
    Headers,
    Json,
    Piece,
    Raw,
    Refusal,
    Wait,
)
from mistral_service.local.stream_format import StreamRewriter

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
        pieces: AsyncIterator[Piece],
        body: Json,
        exchange: Exchange,
        headers: Mapping[str, str],
        behaviour: Behaviour | None = None,
    ) -> None:
        self._pieces = pieces
        self._body = body
        self._exchange = exchange
        self._headers = headers
        self._names_requests = behaviour is None or behaviour.names_requests()
        self._form = ReplyFormat(body)
        self._rewriter = StreamRewriter(behaviour, body) if behaviour else None
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
        streamed = self._body.get("stream")
        raw: bytes | None = None
        async with aclosing(_paced(self._pieces)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Refusal):
                    refusal = replace(piece, headers={**self._headers, **piece.headers})
                    await self._exchange.refuse(refusal)(scope, receive, send)
                    return
                if streamed:
                    await self._stream(piece, send)
                elif isinstance(piece, Raw):
                    raw = piece.data
                elif isinstance(piece, Delta | End):
                    self._form.gather(piece)
                if isinstance(piece, Cut):
                    raise _Broken
        if streamed:
            await self._begin(send)
            await _write(send, b"", more=False)
            return
        self._exchange.status = 200
        if raw is not None:
            response = Response(raw, 200, self._headers, media_type="application/json")
        else:
            response = JSONResponse(self._form.whole(), 200, self._headers)
        await response(scope, receive, send)

    async def _stream(self, piece: Piece, send: Send) -> None:
        await self._begin(send, piece.headers if isinstance(piece, Headers) else _NO_HEADERS)
        if isinstance(piece, Raw):
            await _write(send, piece.data)
        elif isinstance(piece, Delta | End):
            chunks = self._form.chunks(piece)
            for chunk in self._rewriter.chunks(chunks) if self._rewriter else chunks:
                data = json.dumps(chunk, ensure_ascii=False).encode()
                await _write(send, b"data: " + data + b"\n\n")
            if isinstance(piece, End) and (self._rewriter is None or self._rewriter.done):
                await _write(send, b"data: [DONE]\n\n")

    async def _begin(self, send: Send, more: Mapping[str, str] = _NO_HEADERS) -> None:
        if self._begun:
            return
        self._begun = True
        self._exchange.status = 200
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            **({"mistral-correlation-id": uuid.uuid4().hex} if self._names_requests else {}),
            **self._headers,
            **more,
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})


def refusal_response(refusal: Refusal) -> Response:
    """A refusal as an HTTP response."""
    headers = dict(refusal.headers)
    if isinstance(refusal.body, str):
        return PlainTextResponse(refusal.body, refusal.status, headers)
    try:
        body = json.dumps(refusal.body, allow_nan=False)
    except ValueError:  # a refusal repeats what the client sent: an infinite number
        body = json.dumps(json.loads(json.dumps(refusal.body), parse_constant=str))
    return Response(body, refusal.status, headers, media_type="application/json")


async def _paced(pieces: AsyncIterator[Piece]) -> AsyncGenerator[Piece]:
    """The pieces, each after the waits before it."""
    async for piece in pieces:
        if isinstance(piece, Wait):
            await asyncio.sleep(piece.seconds)
        else:
            yield piece


async def _write(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
