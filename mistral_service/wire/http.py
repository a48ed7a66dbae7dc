"""The HTTP client: one pool of connections for all sessions of a process.

The face of it is the client that `openai` takes, so that what users know of that holds. The
connections under it are aiohttp's, which Pipecat brings along: its parser is written in C, and what
has come over the wire since the last look comes as one read, where httpx makes a read of every
token. A TLS context takes twenty milliseconds and most of a megabyte, so all sessions share one,
and those that run in one event loop share their connections. Each session still has a client of its
own, which it may close without asking the others.
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

from mistral_service.wire.unpacking import NotUnpackable, TooLong, unpacked

if TYPE_CHECKING:
    import httpx2 as httpx
else:
    # `openai` brings httpx or its successor httpx2.
    httpx = import_module(DefaultAsyncHttpxClient.__mro__[-2].__module__.partition(".")[0])

MAX_REPLY_BYTES = 64 * 1024 * 1024
"""Bytes that one streamed reply may have, unpacked: a thousand times what a long one has."""

MAX_OBJECT_BYTES = 40 * 1024 * 1024
"""Bytes that a reply may have that comes whole, unpacked: 512 vectors of 3,072 numbers."""

MAX_REFUSAL_BYTES = 64 * 1024
"""Bytes that are read of a refusal, unpacked. An error quotes 300 characters of it; a body that is
longer is cut here."""

_OURS = "mistral_service"
"""The extension that marks a response whose body is bounded already."""

_IDLE_SECONDS = 600.0
"""Seconds that a connection is kept without use: no pause in a call is longer. A server that closes
it earlier is noticed when it does."""

_PROBE_SECONDS = 20
"""Seconds after which the system asks an idle connection whether it still lives. Networks forget
connections, and do not say so."""

_MAX_HEADER_BYTES = 64 * 1024
"""Bytes that one header of an answer may have: gateways write policies and traces into them."""


class _BareAddresses(logging.Filter):
    """Takes user, password and query out of the addresses that httpx logs with each request."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                each.copy_with(userinfo=b"", query=None) if isinstance(each, httpx.URL) else each
                for each in record.args
            )
        return True


logging.getLogger(httpx.__name__).addFilter(_BareAddresses())


class ReplyTooLong(httpx.TransportError):
    """A reply grew past `MAX_REPLY_BYTES`, or `MAX_OBJECT_BYTES`."""


def http_client() -> Any:
    """Make an HTTP client whose connections are shared with all others of its kind.

    Proxies and certificates are taken from the environment (`HTTPS_PROXY`, `NO_PROXY`,
    `SSL_CERT_FILE`, …). Connections stay open between turns, so that no turn pays for a handshake;
    the last client that is closed closes them. Redirects are not followed.

    Returns:
        A client for `AsyncOpenAI(http_client=…)`. It may be made before there is an event loop, and
        used in several.
    """
    return DefaultAsyncHttpxClient(transport=_SharedTransport(), follow_redirects=False)


def bound_replies(client: Any) -> None:
    """Have the replies that another HTTP client reads unpacked here, and bounded as ours are.

    Args:
        client: An `httpx.AsyncClient` that was made elsewhere, or one of ours, whose replies are
            bounded already.
    """
    hooks: Any = getattr(client, "event_hooks", None)
    if hooks is not None and _bound not in hooks["response"]:
        hooks["response"].append(_bound)


async def _bound(response: httpx.Response) -> None:
    stream: Any = response.stream
    if _OURS not in response.extensions:
        reads = aiter(stream)

        async def read() -> bytes:
            async for data in reads:
                if data:
                    return data
            return b""

        response.stream = _bounded_for(type(response).__module__.partition(".")[0])(
            read,
            stream.aclose,
            response.request,
            response.status_code,
            response.headers,
        )


@functools.cache
def tls_context() -> ssl.SSLContext:
    """The TLS context that all clients share; certificates are those of the environment."""
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
            auto_decompress=False,  # the client does that
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            # `_proxy` reads the environment: aiohttp would do so in threads, for which a turn might
            # have to wait, and put a password of ~/.netrc in the place of the key.
            trust_env=False,
        )


_pools: dict[asyncio.AbstractEventLoop, _Pool] = {}
_sockets: WeakSet[socket.socket] = WeakSet()
_of_parents: list[Any] = []


def _after_fork() -> None:
    """Leave the connections to the parent: a child opens its own.

    What a child wrote to one, if only a farewell when it is closed, would stand in the middle of
    what the parent says. So its copy of each is put in the place of `/dev/null`, and the objects
    are kept as they are.
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
        pool.users.add(user)  # before anything else happens: what no one uses is closed
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
    """The proxy that the environment names for an address, and the headers that it wants."""
    named = {} if proxy_bypass(url.host or "") else getproxies()
    text = named.get(url.scheme) or named.get("all")
    if not text:
        return None, {}
    proxy = URL(text if "://" in text else f"http://{text}")
    if proxy.scheme not in ("http", "https"):
        raise httpx.ProxyError(f"the environment names a proxy of a kind unknown: {proxy.scheme}")
    if not proxy.user:
        return proxy, {}
    password = aiohttp.encode_basic_auth(proxy.user, proxy.password or "")
    return proxy.with_user(None), {"Proxy-Authorization": password}


class _SharedTransport(httpx.AsyncBaseTransport):
    """Sends over the pool of whichever loop it is used in."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        pool = await _pool_for(self)
        limits: dict[str, float | None] = request.extensions.get("timeout", {})
        body = await request.aread()
        # A user and password in it stand in the headers already.
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

        # No cookie is kept: what a server says to one call is not said in another.
        fields = [(n, v) for n, v in response.raw_headers if n.lower() != b"set-cookie"]
        headers = httpx.Headers(fields)
        return httpx.Response(
            response.status,
            stream=_Bounded(response.content.readany, close, request, response.status, headers),
            headers=headers,
            extensions={
                "reason_phrase": (response.reason or "").encode("latin-1", "replace"),
                _OURS: True,
            },
        )

    async def aclose(self) -> None:
        for loop, pool in list(_pools.items()):
            pool.users.discard(self)
            # Connections can only be closed in the loop that they belong to.
            if loop is asyncio.get_running_loop() and not pool.users:
                del _pools[loop]
                await pool.session.close()


class _Bounded(httpx.AsyncByteStream):
    """The bytes of a response, unpacked, up to a bound."""

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
        # The client is to read it as a body that is not packed.
        self._encoding = headers.pop("content-encoding", "")
        self._refused = status >= 300
        self._streams = headers.get("content-type", "").startswith("text/event-stream")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        most = MAX_REPLY_BYTES if self._streams else min(MAX_REPLY_BYTES, MAX_OBJECT_BYTES)
        if self._refused:
            most = MAX_REFUSAL_BYTES
        body = unpacked(self._read, self._encoding, most, cut=self._refused)
        with _errors_of_httpx(self._request):
            async with contextlib.aclosing(body):
                async for data in body:
                    yield data

    async def aclose(self) -> None:
        await self._close()


@functools.cache
def _bounded_for(family: str) -> Any:
    """The same, as a stream of the family of httpx that a client of one's own comes from."""
    if family == httpx.__name__:
        return _Bounded
    return type("_Bounded", (_Bounded, import_module(family).AsyncByteStream), {})


@contextlib.contextmanager
def _errors_of_httpx(request: httpx.Request) -> Generator[None]:
    """Name aiohttp's errors as the client knows them."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as e:
        raise httpx.ConnectTimeout(str(e), request=request) from e
    except aiohttp.ServerTimeoutError as e:
        raise httpx.ReadTimeout(str(e), request=request) from e
    except aiohttp.ClientProxyConnectionError as e:
        raise httpx.ProxyError(str(e), request=request) from e
    except aiohttp.ClientConnectorError as e:
        raise httpx.ConnectError(str(e), request=request) from e
    except aiohttp.InvalidURL as e:
        raise httpx.UnsupportedProtocol(str(e), request=request) from e
    except aiohttp.ServerDisconnectedError as e:
        raise httpx.RemoteProtocolError(str(e), request=request) from e
    except (aiohttp.ClientError, ConnectionError) as e:
        raise httpx.ReadError(str(e), request=request) from e
    except TooLong as e:
        raise ReplyTooLong(str(e), request=request) from None
    except NotUnpackable as e:
        raise httpx.DecodingError(str(e), request=request) from None
    except RuntimeError as e:
        # What aiohttp says of a body whose framing is broken, if the break is met between reads.
        if "onnection closed" not in str(e):
            raise
        raise httpx.RemoteProtocolError(str(e), request=request) from e
