"""The HTTP client: one pool of connections for all sessions of a process.

Making a TLS context takes twenty milliseconds and most of a megabyte, so all clients share one, and
all sessions that run in one event loop share their connections. Each session still has a client of
its own, which it may close without asking the others.
"""

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator
from importlib import import_module
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from openai import DefaultAsyncHttpxClient

if TYPE_CHECKING:
    import httpx2 as httpx
else:
    # `openai` brings httpx or its successor httpx2.
    httpx = import_module(DefaultAsyncHttpxClient.__mro__[-2].__module__.partition(".")[0])

MAX_REPLY_BYTES = 64 * 1024 * 1024
"""Bytes that one reply may have as it comes over the wire: a thousand times what a long one has."""

MAX_REFUSAL_BYTES = 64 * 1024
"""Bytes that are read of a refusal. An error quotes 300 characters of it; a body that is longer, or
that unpacks to more, is cut here."""


class ReplyTooLong(httpx.TransportError):
    """A reply grew past `MAX_REPLY_BYTES`."""


def http_client() -> Any:
    """Make an HTTP client whose connections are shared with all others of its kind.

    Proxies and certificates are taken from the environment (`HTTPS_PROXY`, `NO_PROXY`,
    `SSL_CERT_FILE`, …) when the first session begins. Connections stay open between turns, so that
    no turn pays for a handshake; the last client that is closed closes them.

    Returns:
        A client for `AsyncOpenAI(http_client=…)`. It may be made before there is an event loop.
    """
    return DefaultAsyncHttpxClient(transport=_SharedTransport(), follow_redirects=False)


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class _Pool:
    """The connections of one event loop."""

    def __init__(self) -> None:
        self.users: WeakSet[_SharedTransport] = WeakSet()
        self.client = httpx.AsyncClient(
            verify=_tls(),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=None, keepalive_expiry=None
            ),
        )


_pools: dict[asyncio.AbstractEventLoop, _Pool] = {}


def _pool() -> _Pool:
    loop = asyncio.get_running_loop()
    if loop not in _pools:
        for ended in [each for each in list(_pools) if each.is_closed()]:
            del _pools[ended]
        _pools[loop] = _Pool()
    return _pools[loop]


class _SharedTransport(httpx.AsyncBaseTransport):
    """Sends over the pool of whichever loop it is used in."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        pool = _pool()
        pool.users.add(self)
        response = await pool.client.send(request, stream=True, follow_redirects=False)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Bounded(response),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        for loop, pool in list(_pools.items()):
            pool.users.discard(self)
            # Connections can only be closed in the loop that they belong to.
            if loop is asyncio.get_running_loop() and not pool.users:
                del _pools[loop]
                await pool.client.aclose()


class _Bounded(httpx.AsyncByteStream):
    """The bytes of a response, up to a bound."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        refused = self._response.status_code >= 300
        left = MAX_REFUSAL_BYTES if refused else MAX_REPLY_BYTES
        async for data in self._response.aiter_raw():
            left -= len(data)
            if left < 0 and not refused:
                raise ReplyTooLong(f"the reply has more than {MAX_REPLY_BYTES} bytes")
            yield data
            if left < 0:
                return

    async def aclose(self) -> None:
        await self._response.aclose()
