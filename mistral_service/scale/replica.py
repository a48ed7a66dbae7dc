"""One process with many calls: its start, its health, its shutdown."""

import asyncio
import contextlib
import faulthandler
import gc
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, cast

from fastapi import FastAPI
from loguru import logger

from mistral_service.client import MistralClient
from mistral_service.scale import metrics
from mistral_service.scale.args import Args, load_bot, read_secrets
from mistral_service.scale.budget import SharedBudget
from mistral_service.scale.calls import Bot, Calls
from mistral_service.scale.ingress import MayCall, create_app
from mistral_service.scale.limits import WS_MAX_SIZE
from mistral_service.scale.recorders import CallRecorders
from mistral_service.scale.store import Store
from mistral_service.wire.errors import MistralError, Reason

MOVE_BEFORE_S = 15.0
"""Seconds before the deadline of a shutdown at which the remaining calls move."""
STUCK_S = 5.0
"""Seconds of lag above which an event loop counts as stuck."""
WATCHDOG_S = 10.0
"""Seconds after which a process with a blocked event loop ends itself, with the stacks of its
threads in its log, so that its callers find another one. Ray would wait for its calls to end."""
_WATCH_S = 1.0
_MISTRAL_TIMEOUT_S = 10.0


class Replica:
    """One process: the bot, the services that it shares with others, and the ASGI application.

    Attributes:
        current: The replica of this process, once it has started.
        app: Its ASGI application.
    """

    current: ClassVar["Replica | None"] = None
    app: FastAPI | None = None

    def __init__(self, args: Args) -> None:
        """Make it; `start` does the work."""
        self.args = args
        self.calls: Calls | None = None
        self._lag = 0.0
        self._last_tick = time.monotonic()
        self._watcher: asyncio.Task[None] | None = None
        self._rate_limiter: SharedBudget | None = None
        self._closes: list[Callable[[], Awaitable[None]]] = []

    async def start(self) -> None:
        """Do what a call would otherwise wait for: imports, connections, a check of the key.

        Raises:
            ValueError: If something is missing; the replica does not start then.
        """
        read_secrets(os.environ)
        metrics_file = str(Path(__file__).with_name("turn_metrics.py"))
        others = os.environ.get("PIPECAT_SETUP_FILES", "")
        if metrics_file not in others:
            files = filter(None, [others, metrics_file])
            os.environ["PIPECAT_SETUP_FILES"] = os.pathsep.join(files)
        module = await asyncio.to_thread(load_bot, self.args.bot)
        recorders = await self._shared()
        if warm_up := getattr(module, "warm_up", None):
            await warm_up()
        await check_mistral()
        self.calls = Calls(
            cast(Bot, module.bot),
            limit=self.args.calls_per_replica,
            recorders=recorders,
            rate_limiter=self._rate_limiter,
        )
        model = os.environ.get("MISTRAL_MODEL") or "mistral-small-latest"
        status = {"engine": f"Mistral, model {model}", "model": model, "local": False}
        # The page offers a camera and a text field where the bot's module says so.
        status["camera"] = bool(getattr(module, "CAMERA", False))
        status["text"] = bool(getattr(module, "TEXT", False))
        self.app = create_app(
            self.calls,
            status,
            self.check_health,
            cast("MayCall | None", getattr(module, "may_call", None)),
            allowed_origins=self.args.allowed_origins,
            twilio_auth_token=os.environ.get("TWILIO_AUTH_TOKEN"),
        )
        # Modules stay loaded: a collection that includes them stops all calls for 0.1 s.
        gc.collect()
        gc.freeze()
        self._last_tick = time.monotonic()  # the start is not limited
        self._watcher = asyncio.create_task(self._watch())
        Replica.current = self

    async def close(self) -> None:
        """Close the connections to Redis after the last call: the others' shares grow at once."""
        faulthandler.cancel_dump_traceback_later()
        if self._watcher:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        for close in self._closes:
            await close()
        gc.unfreeze()
        Replica.current = None

    async def check_health(self) -> None:
        """Raise `RuntimeError` if the event loop is or was just stuck."""
        late = time.monotonic() - self._last_tick - _WATCH_S
        if max(late, self._lag) > STUCK_S:
            raise RuntimeError(f"The event loop was stuck for {max(late, self._lag):.1f} s.")

    async def _shared(self) -> CallRecorders | None:
        """Make the rate limiter and the recorders, where Redis is configured."""
        url = os.environ.get("REDIS_URL")
        if not url:
            logger.warning(
                "REDIS_URL is not set: calls are not recorded, and the rate budget is not shared"
            )
            return None
        self._rate_limiter = SharedBudget(
            url,
            requests_per_minute=self.args.requests_per_minute,
            tokens_per_minute=self.args.tokens_per_minute,
        )
        store = Store(url)
        self._closes = [self._rate_limiter.close, store.close]
        # Connect to Redis. While it is down, calls and the start of a replica go on without it.
        with contextlib.suppress(Exception):
            await store.claim("ready-ready", 1.0, create=False)
        return CallRecorders(store, keep_seconds=self.args.keep_seconds)

    async def _watch(self) -> None:
        """Measure the lag of the event loop, and move the calls before a shutdown's deadline."""
        move_at: float | None = None
        moving: asyncio.Task[None] | None = None
        while True:
            faulthandler.dump_traceback_later(WATCHDOG_S, exit=True)
            await asyncio.sleep(_WATCH_S)
            now = time.monotonic()
            self._lag, self._last_tick = max(0.0, now - self._last_tick - _WATCH_S), now
            metrics.LAG.record(self._lag)
            metrics.CALLS.record(len(self.calls or ()))
            metrics.CAPACITY.record(self.args.calls_per_replica)
            if self._rate_limiter:
                metrics.BUDGET_USED.record(self._rate_limiter.stats.used)
            if move_at is None and is_shutting_down():
                move_at = now + max(0.0, self.args.drain_seconds - MOVE_BEFORE_S)
                logger.info(f"Draining: {len(self.calls or ())} calls may continue for a while")
            limit_messages()
            if move_at is None:
                continue
            keep_connections_open()
            if now >= move_at and self.calls and (moving is None or moving.done()):
                moving = asyncio.create_task(self.calls.move(within=MOVE_BEFORE_S / 3))


def limit_messages() -> None:
    """Limit the messages of new connections in Ray's server for HAProxy in this replica.

    By default that server buffers 16 MB of a message before our code gets any of it.
    """
    for server in _servers():
        server.config.ws_max_size = WS_MAX_SIZE


def keep_connections_open() -> None:
    """Keep calls open when Ray ends its server for HAProxy in this replica.

    Ray ends it half a minute into a drain, so that no new calls come, and waits for the others; but
    the server, uvicorn, closes their connections at its end.
    """
    for server in _servers():
        for connection in list(server.server_state.connections):
            if getattr(connection, "handshake_complete", False):
                connection.shutdown = lambda: None


def is_shutting_down() -> bool:
    """Whether Ray has begun to shut this replica down.

    Ray notifies a replica's own code only after all its requests, or not at all, so this reads a
    private attribute. Where a later Ray has none the answer is no, and calls that outlast the drain
    break: their clients call again, as after a crash.
    """
    return any(getattr(replica, "_shutting_down", False) for replica in _replicas())


def _servers() -> list[Any]:
    servers = [getattr(replica, "_direct_ingress_http_server", None) for replica in _replicas()]
    return [server for server in servers if hasattr(server, "server_state")]


def _replicas() -> list[Any]:
    from ray._private.worker import global_worker

    actors = cast("dict[Any, Any]", getattr(global_worker, "actors", {}))
    return [getattr(actor, "_replica_impl", None) for actor in actors.values()]


async def check_mistral() -> None:
    """Request Mistral's models once, which checks the key and opens a connection.

    Mistral may be down: it may be back at the first call, and each turn reports its own error.

    Raises:
        ValueError: If the key is wrong.
    """
    try:
        async with asyncio.timeout(_MISTRAL_TIMEOUT_S), MistralClient() as client:
            await client.models()
    except MistralError as e:
        if e.reason is Reason.KEY:
            raise ValueError(str(e)) from None
        logger.warning(f"Mistral does not answer yet: {e}")
    except TimeoutError:
        logger.warning("Mistral does not answer yet")
