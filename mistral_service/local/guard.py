"""The middleware that protects a local server: it checks `Host`, `Origin` and bodies.

It refuses pages of other sites, names that are not the server's (DNS rebinding), and bodies that
are too large or too slow. Starlette's own middlewares are not enough: `TrustedHostMiddleware` knows
neither `Origin` nor "any address", and its limit for bodies, new in 1.6, has a fixed response.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mistral_service.local import origins

BODY_SECONDS = 30.0
"""Seconds that a client has to send the whole body of a request."""

_EVERYWHERE = ("", "0.0.0.0", "::")
_LONGEST_SHOWN = 100


def guard(
    *,
    most_bytes: int,
    host: str = "127.0.0.1",
    allow_hosts: Sequence[str] | None = (),
    body_seconds: float = BODY_SECONDS,
) -> Middleware:
    """The middleware, for the `middleware` of an application.

    It answers a wrong host with 400 and a wrong page with 403, as `{"detail": sentence}`. For a
    body that is too large (413) or too slow (408), Starlette's `HTTPException` is raised where the
    application reads it. If a body was not read, the connection is closed.

    Args:
        most_bytes: Bytes that a body may have, counted as they arrive.
        host: The address that the server listens on. Its own name is allowed; where it is every
            interface (`0.0.0.0`, `::`), every IP address is.
        allow_hosts: Further names of the server, such as a tunnel's. Their pages are allowed too.
            None allows any name in requests that do not come from a page.
        body_seconds: Seconds that a client has for a body.

    Raises:
        ValueError: If an entry of `allow_hosts` is not a host.
    """
    pages = tuple(allow_hosts or ())
    origins.check(pages, "allow_hosts")
    any_address = host in _EVERYWHERE
    own = () if any_address else (f"[{host}]" if ":" in host else host,)
    return Middleware(
        Guard,
        names=(*origins.LOOPBACK, *own, *pages),
        any_address=any_address,
        any_name=allow_hosts is None,
        pages=pages,
        most_bytes=most_bytes,
        body_seconds=body_seconds,
    )


@dataclass(frozen=True)
class Guard:
    """The middleware that `guard` configures; `names` and `pages` are as `origins` takes them."""

    app: ASGIApp
    names: Sequence[str]
    any_address: bool
    any_name: bool
    pages: Sequence[str]
    most_bytes: int
    body_seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(headers)
        if scope["type"] == "websocket":
            if refusal is not None:
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self.app(scope, receive, send)
            return
        body = _Body(headers, receive, self.most_bytes, self.body_seconds)
        await (refusal or self.app)(scope, body.receive, body.closing(send))

    def _refusal(self, headers: Headers) -> Response | None:
        hosts, pages = headers.getlist("host"), headers.getlist("origin")
        if self.any_name and not pages:
            return None
        if not origins.host_allowed(hosts, self.names, any_address=self.any_address):
            sentence = (
                f"{_shown('Host', hosts)} is no name of this server: ask for it by its address, or "
                "start it with --allow-host NAME (allow_hosts in Python)."
            )
            return JSONResponse({"detail": sentence}, 400)
        if not origins.allowed(pages, hosts[0], self.pages):
            sentence = (
                f"{_shown('Origin', pages)} is another page than this server's: open the server's "
                "own, or start it with --allow-host NAME (allow_hosts in Python)."
            )
            return JSONResponse({"detail": sentence}, 403)
        return None


class _Body:
    """The body of one request, as far as it has arrived."""

    def __init__(self, headers: Headers, receive: Receive, most: int, seconds: float) -> None:
        self._receive = receive
        self._most = most
        self._seconds = seconds
        length = headers.get("content-length", "0")
        self._received = 0
        self._declared = int(length[:19]) if length.isdecimal() else 0
        self._whole = length == "0" and "transfer-encoding" not in headers
        self._deadline = asyncio.get_running_loop().time() + seconds

    async def receive(self) -> Message:
        """The next message. After the body, the disconnect may take any time."""
        if self._whole:
            return await self._receive()
        if self._declared > self._most:
            raise self._too_large()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(
                408, f"The body did not come within {self._seconds:g} s: send it again."
            ) from None
        self._received += len(message.get("body", b""))
        if self._received > self._most:
            raise self._too_large()
        self._whole = not message.get("more_body", False)
        return message

    def closing(self, send: Send) -> Send:
        """Close the connection where the answer comes before the body: the rest would be read."""

        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and not self._whole:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        return send_closing

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The body has more than {self._most} bytes.")


def _shown(name: str, values: Sequence[str]) -> str:
    return f"{name} {', '.join(values)[:_LONGEST_SHOWN]!r}" if values else f"No {name}"
