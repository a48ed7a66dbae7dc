"""Runs the endpoint: in a thread for tests, or as the whole process."""

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Sequence

import uvicorn
from starlette.types import ASGIApp

from mistral_service.local.app import Exchange, create_app
from mistral_service.local.behaviour import Behaviour
from mistral_service.local.checks import Checks
from mistral_service.local.limits import RateLimits
from mistral_service.local.pieces import Engine
from mistral_service.local.script import Script

KEEP_ALIVE_S = 75
"""Seconds for which an idle connection stays open: longer than clients keep theirs (httpx 5 s,
aiohttp 15 s), so that no request meets a connection that is just being closed."""
MOST_CONNECTIONS = 1_000
"""Concurrent connections of the process, streams included; a further one gets 503. A model answers
one request at a time, while the others wait."""

_START_SECONDS = 30.0


def bind(host: str, port: int) -> socket.socket:
    """Listen on a port, 0 for any free one; connections wait until they are served.

    Raises:
        OSError: If another program has the port, or the address is not this machine's. The message
            says what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named. Without it, an answer waits 40 ms
    # for the client to acknowledge the headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as e:
        listener.close()
        if e.errno == errno.EADDRINUSE:
            raise OSError(
                f"Port {port} is in use by another program: end that program, or choose another "
                f"port with --port."
            ) from None
        raise OSError(f"Cannot listen on {host} port {port}: {e.strerror}.") from None
    return listener


class LocalMistral:
    """The endpoint in a thread of its own, for the duration of a `with` block.

    Attributes:
        exchanges: Every request for a completion, vectors or moderation, with its answer.

    Example::

        with LocalMistral(Script(Reply("Hello."))) as mistral:
            llm = MistralLLMService(api_key="any", base_url=mistral.base_url)
    """

    def __init__(
        self,
        engine: Engine,
        checks: Checks | None = None,
        *,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: RateLimits | None = None,
        allow_hosts: Sequence[str] | None = None,
        behaviour: Behaviour | None = None,
    ) -> None:
        """Prepare the endpoint.

        Args:
            engine: What answers: a `Script`, `AsAsked`, or a `ModelEngine`.
            checks: What requests are validated against; by default as strict as can be.
            api_key: The one valid key; None accepts any key, but not a request without one.
            host: The address to listen on.
            port: The port; 0 for any free one.
            limits: The account's rate limits; None for no limits.
            allow_hosts: Further names of the endpoint, besides `localhost` and `host`. None allows
                any, as where it replaces a proxy in a test; pages of other sites are refused.
            behaviour: How another server answers chats, which it then imitates.
        """
        self.exchanges: list[Exchange] = []
        self.limits = limits
        self._app = create_app(
            engine,
            checks,
            api_key=api_key,
            exchanges=self.exchanges,
            limits=limits,
            host=host,
            allow_hosts=allow_hosts,
            behaviour=behaviour,
        )
        self._engine = engine
        self._address = (host, port)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    @property
    def base_url(self) -> str:
        """The address for a client's `base_url`: `http://127.0.0.1:PORT/v1`."""
        host = self._address[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/v1"

    @property
    def script(self) -> Script:
        """The script, to add replies while the endpoint runs.

        Raises:
            TypeError: If the engine is not a script.
        """
        if not isinstance(self._engine, Script):
            raise TypeError(f"{type(self._engine).__name__} answers here, and follows no script")
        return self._engine

    def start(self) -> "LocalMistral":
        """Listen; returns when the endpoint answers requests."""
        listener = bind(*self._address)
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            log_level="critical",
            lifespan="off",
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._server = server = uvicorn.Server(config)
        ready = threading.Event()

        async def run() -> None:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started and not serving.done():  # noqa: ASYNC110
                await asyncio.sleep(0.005)  # uvicorn offers no event to wait for
            ready.set()
            await serving
            await self._engine.close()

        self._thread = threading.Thread(
            target=lambda: asyncio.run(run()), name="local-mistral", daemon=True
        )
        self._thread.start()
        if not ready.wait(_START_SECONDS):
            raise TimeoutError(f"the local endpoint did not start within {_START_SECONDS:.0f} s")
        return self

    def stop(self) -> None:
        """Stop listening, and close open connections."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._server.force_exit = True
            self._thread.join(timeout=10)

    def __enter__(self) -> "LocalMistral":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(listener: socket.socket, app: ASGIApp, engine: Engine) -> None:
    """Run an application until the process is stopped (Ctrl-C, SIGTERM), then close its engine."""
    host, port = listener.getsockname()[:2]
    print(f"Mistral endpoint: http://{host}:{port}/v1", flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        lifespan="off",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=2,
    )

    async def run() -> None:
        try:
            await uvicorn.Server(config).serve(sockets=[listener])
        finally:
            await engine.close()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())
