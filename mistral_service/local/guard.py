"""What a server on one's own machine refuses before a request reaches its routes.

A page of another site, a name that is not the server's (DNS rebinding), and a body that is too
large or too slow. Starlette's `TrustedHostMiddleware` knows neither `Origin` nor "any address", and
its refusal does not say what to do; the limit of a body's size is Starlette's.
"""

import asyncio
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mistral_service import origins

BODY_SECONDS = 30.0
"""Seconds that a client has to send the whole body of a request."""

_EVERYWHERE = ("", "0.0.0.0", "::")
_LONGEST_SHOWN = 100


class Guard:
    """An ASGI middleware: `app.add_middleware(Guard, host=…, allow_hosts=…, most_bytes=…)`.

    A refusal is `{"detail": sentence}`: 400 for a host, 403 for a page, 408 for a body that does
    not come, 413 for one that is too large.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        most_bytes: int,
        host: str = "127.0.0.1",
        allow_hosts: Sequence[str] = (),
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        """Stand before an application.

        Args:
            app: The application.
            most_bytes: Bytes that a body may have, counted as they come.
            host: The address that the server listens on. Its own name is allowed; where it is
                every interface (`0.0.0.0`, `::`), every IP address is.
            allow_hosts: Further names of the server, as of a tunnel. Their pages are allowed too.
            body_seconds: Seconds that a client has for a body.

        Raises:
            ValueError: If one of `allow_hosts` is no host.
        """
        origins.check(allow_hosts, "allow_hosts")
        self._app = RequestBodyLimitMiddleware(app, most_bytes)
        self._allow = tuple(allow_hosts)
        self._any_address = host in _EVERYWHERE
        own = () if self._any_address else (f"[{host}]" if ":" in host else host,)
        self._names = (*origins.LOOPBACK, *own, *allow_hosts)
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if (refusal := self._refusal(Headers(scope=scope))) is not None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await refusal(scope, receive, send)
            return
        await self._app(scope, self._in_time(scope, receive), _closing(send))

    def _refusal(self, headers: Headers) -> Response | None:
        hosts, pages = headers.getlist("host"), headers.getlist("origin")
        if not origins.host_allowed(hosts, self._names, any_address=self._any_address):
            return _refusal(
                400,
                f"{_shown('Host', hosts)} is no name of this server: ask for it by its address, or "
                "start it with --allow-host NAME (allow_hosts in Python).",
            )
        if not origins.allowed(pages, hosts[0], self._allow):
            return _refusal(
                403,
                f"{_shown('Origin', pages)} is another page than this server's: open the server's "
                "own, or start it with --allow-host NAME (allow_hosts in Python).",
            )
        return None

    def _in_time(self, scope: Scope, receive: Receive) -> Receive:
        """Receive a body within its time. What comes after it, the end of a line, may take long."""
        if scope["type"] != "http":
            return receive
        deadline = asyncio.get_running_loop().time() + self._body_seconds
        whole = False

        async def receive_in_time() -> Message:
            nonlocal whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"The body did not come within {self._body_seconds:g} s: send it again."
                ) from None
            whole = not message.get("more_body", False)
            return message

        return receive_in_time


def _closing(send: Send) -> Send:
    """Close the connection after a body that was not read, or the server would go on reading."""

    async def send_closing(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] in (408, 413):
            MutableHeaders(scope=message)["Connection"] = "close"
        await send(message)

    return send_closing


def _shown(name: str, values: Sequence[str]) -> str:
    return f"{name} {', '.join(values)[:_LONGEST_SHOWN]!r}" if values else f"No {name}"


def _refusal(status: int, sentence: str) -> Response:
    return JSONResponse({"detail": sentence}, status, {"Connection": "close"})
