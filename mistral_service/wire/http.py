"""The HTTP client: one pool of connections for all sessions of a process.

Its interface is the httpx client that `openai` takes, so that it behaves as users expect. The
connections are aiohttp's, on which Pipecat depends: its parser is written in C, and all bytes that
have arrived since the last read come as one, where httpx makes a read of every token. A TLS context
takes twenty milliseconds and most of a megabyte, so all sessions share one, and those in one event
loop share their connections. Each session still has a client of its own, which it may close at any
time.
"""

import asyncio
import atexit
import contextlib
import functools
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

import aiohttp
from multidict import CIMultiDict
from openai import DefaultAsyncHttpxClient
from yarl import URL

from mistral_service.wire.decompression import BodyTooLong, DecompressionError, decompressed

if TYPE_CHECKING:
    import httpx2 as httpx
else:
    # `openai` uses httpx or its successor httpx2.
    httpx = import_module(DefaultAsyncHttpxClient.__mro__[-2].__module__.partition(".")[0])

MAX_REPLY_BYTES = 64 * 1024 * 1024
"""Bytes of a streamed reply, decompressed: a thousand times what a long one has."""

MAX_OBJECT_BYTES = 40 * 1024 * 1024
"""Bytes of a reply that is not streamed, decompressed: 512 vectors of 3,072 numbers."""

MAX_REFUSAL_BYTES = 64 * 1024
"""Bytes that are read of a refusal, decompressed; a longer body is cut. An error quotes 300
characters of it."""

_IS_BOUNDED = "mistral_service"
"""The extension that marks a response whose body is bounded already."""

_IDLE_SECONDS = 600.0
"""Seconds that an idle connection is kept open: no pause in a call is longer. If the server closes
it earlier, that is noticed at once."""

_PROBE_SECONDS = 20
"""Seconds after which TCP keepalive probes an idle connection. NATs and firewalls drop connections
silently."""

_MAX_HEADER_BYTES = 64 * 1024
"""Bytes of one header of an answer: gateways put policies and traces into them."""


class _BareAddresses(logging.Filter):
    """Removes user, password and query from the addresses that httpx logs with each request."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                each.copy_with(userinfo=b"", query=None) if isinstance(each, httpx.URL) else each
                for each in record.args
            )
        return True


logging.getLogger(httpx.__name__).addFilter(_BareAddresses())


class ReplyTooLong(httpx.TransportError):
    """A reply exceeds `MAX_REPLY_BYTES` or `MAX_OBJECT_BYTES`."""


def http_client() -> Any:
    """Make a client for `AsyncOpenAI(http_client=…)` that shares its connections with its kind.

    Proxies and certificates come from the environment (`HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`,
    …). Connections stay open between turns, so that no turn waits for a handshake; they are closed
    with the last client. Redirects are not followed. The client may be created before there is an
    event loop, and used in several.
    """
    return DefaultAsyncHttpxClient(transport=_SharedTransport(), follow_redirects=False)


def bound_replies(client: Any) -> None:
    """Make any `httpx.AsyncClient` decompress and bound its replies as ours does."""
    hooks: Any = getattr(client, "event_hooks", None)
    if hooks is not None and _bound not in hooks["response"]:
        hooks["response"].append(_bound)


async def _bound(response: httpx.Response) -> None:
    stream: Any = response.stream
    if _IS_BOUNDED not in response.extensions:
        reads = aiter(stream)

        async def read() -> bytes:
            async for data in reads:
                if data:
                    return data
            return b""

        bounded = _bounded_for(type(response).__module__.partition(".")[0])
        response.stream = bounded(
            read, stream.aclose, response.request, response.status_code, response.headers
        )


@functools.cache
def tls_context() -> ssl.SSLContext:
    """The TLS context that all clients share, with the certificates of the environment."""
    return httpx.create_ssl_context()


def _socket(address: Any) -> socket.socket:
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    _sockets.add(made)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _PROBE_SECONDS), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


class _Pool:
    """The connections of one event loop."""

    def __init__(self) -> None:
        self.users: WeakSet[_SharedTransport] = WeakSet()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ssl=tls_context(), keepalive_timeout=_IDLE_SECONDS, socket_factory=_socket
            ),
            auto_decompress=False,  # `_Bounded` does that
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            # `_proxy` reads the environment: aiohttp would do so in threads, for which a turn might
            # have to wait, and would replace the key by a password from ~/.netrc.
            trust_env=False,
        )


_pools: dict[asyncio.AbstractEventLoop, _Pool] = {}
_sockets: WeakSet[socket.socket] = WeakSet()
_of_parents: list[Any] = []


def _after_fork() -> None:
    """Leave the connections to the parent process: a child opens its own.

    Whatever a child writes to one, if only a TLS close alert, would corrupt the stream of the
    parent. So its copy of each file descriptor is redirected to `/dev/null`, and the objects are
    kept.
    """
    global _sockets
    _of_parents.append((dict(_pools), _sockets))
    nothing = os.open(os.devnull, os.O_RDWR)
    for each in list(_sockets):
        if each.fileno() >= 0:
            os.dup2(nothing, each.fileno(), inheritable=False)
    os.close(nothing)
    _pools.clear()
    _sockets = WeakSet()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


async def _pool_for(user: "_SharedTransport") -> _Pool:
    loop = asyncio.get_running_loop()
    if not tls_context.cache_info().currsize:
        await asyncio.to_thread(tls_context)  # reading all certificates takes a tenth of a second
    pool = _pools.get(loop)
    if pool is None or pool.session.closed:
        pool = _pools[loop] = _Pool()
        pool.users.add(user)  # before the next await: a pool without users is closed
        await _forget()
    pool.users.add(user)
    return pool


async def _forget() -> None:
    """Forget the connections of event loops that were closed without closing them."""
    for loop in [each for each in list(_pools) if each.is_closed()]:
        with contextlib.suppress(RuntimeError):
            if (pool := _pools.pop(loop, None)) is not None:
                await pool.session.close()


@atexit.register
def _at_exit() -> None:
    if _pools:
        asyncio.run(_forget())


def _proxy(url: URL) -> tuple[URL | None, dict[str, str]]:
    """The proxy for an address, from the environment, and its headers."""
    named = {} if proxy_bypass(url.host or "") else getproxies()
    text = named.get(url.scheme) or named.get("all")
    if not text:
        return None, {}
    proxy = URL(text if "://" in text else f"http://{text}")
    if proxy.scheme not in ("http", "https"):
        raise httpx.ProxyError(
            f"the environment has a proxy with an unsupported scheme: {proxy.scheme}"
        )
    if not proxy.user:
        return proxy, {}
    password = aiohttp.encode_basic_auth(proxy.user, proxy.password or "")
    return proxy.with_user(None), {"Proxy-Authorization": password}


class _SharedTransport(httpx.AsyncBaseTransport):
    """Sends requests over the pool of the running event loop."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        pool = await _pool_for(self)
        limits: dict[str, float | None] = request.extensions.get("timeout", {})
        body = await request.aread()
        # User and password are in the headers already.
        url = URL(str(request.url), encoded=True).with_user(None)
        headers = CIMultiDict(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw
        )
        proxy, for_proxy = _proxy(url)
        if url.scheme == "http":
            headers.update(for_proxy)
        with _errors_of_httpx(request):
            response = await pool.session.request(
                request.method,
                url,
                headers=headers,
                data=body or None,
                proxy=proxy,
                proxy_headers=for_proxy,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=limits.get("pool"),
                    sock_connect=limits.get("connect"),
                    sock_read=limits.get("read"),
                ),
            )

        async def close() -> None:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

        # No cookies: they would connect the calls that share the pool.
        fields = [(n, v) for n, v in response.raw_headers if n.lower() != b"set-cookie"]
        headers = httpx.Headers(fields)
        return httpx.Response(
            response.status,
            stream=_Bounded(response.content.readany, close, request, response.status, headers),
            headers=headers,
            extensions={
                "reason_phrase": (response.reason or "").encode("latin-1", "replace"),
                _IS_BOUNDED: True,
            },
        )

    async def aclose(self) -> None:
        for loop, pool in list(_pools.items()):
            pool.users.discard(self)
            # Connections can only be closed in their own event loop.
            if loop is asyncio.get_running_loop() and not pool.users:
                del _pools[loop]
                await pool.session.close()


class _Bounded(httpx.AsyncByteStream):
    """The bytes of a response, decompressed, up to a limit."""

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        close: Callable[[], Awaitable[None]],
        request: httpx.Request,
        status: int,
        headers: httpx.Headers,
    ) -> None:
        self._read = read
        self._close = close
        self._request = request
        # Removed, so that the client does not decompress the body again.
        self._encoding = headers.pop("content-encoding", "")
        self._refused = status >= 300
        self._streams = headers.get("content-type", "").startswith("text/event-stream")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        most = MAX_REPLY_BYTES if self._streams else min(MAX_REPLY_BYTES, MAX_OBJECT_BYTES)
        if self._refused:
            most = MAX_REFUSAL_BYTES
        body = decompressed(self._read, self._encoding, most, cut=self._refused)
        with _errors_of_httpx(self._request):
            async with contextlib.aclosing(body):
                async for data in body:
                    yield data

    async def aclose(self) -> None:
        await self._close()


@functools.cache
def _bounded_for(family: str) -> Any:
    """`_Bounded` as a stream of httpx or httpx2, whichever a client of the user belongs to."""
    if family == httpx.__name__:
        return _Bounded
    return type("_Bounded", (_Bounded, import_module(family).AsyncByteStream), {})


# From the specific to the general.
_HTTPX_ERRORS: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (aiohttp.ClientProxyConnectionError, httpx.ProxyError),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (Exception, httpx.ReadError),
)


@contextlib.contextmanager
def _errors_of_httpx(request: httpx.Request) -> Generator[None]:
    """Convert aiohttp's errors to those of httpx."""
    try:
        yield
    except (aiohttp.ClientError, ConnectionError) as e:
        error = next(ours for theirs, ours in _HTTPX_ERRORS if isinstance(e, theirs))
        raise error(str(e), request=request) from e
    except BodyTooLong as e:
        raise ReplyTooLong(str(e), request=request) from None
    except DecompressionError as e:
        raise httpx.DecodingError(str(e), request=request) from None
    except RuntimeError as e:
        # aiohttp raises this for broken framing that it finds between two reads.
        if "onnection closed" not in str(e):
            raise
        raise httpx.RemoteProtocolError(str(e), request=request) from e
