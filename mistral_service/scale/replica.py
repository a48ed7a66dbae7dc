"""One process that holds many calls: what it waits for before it takes any, its health, its end."""

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

from mistral_service.scale import metrics
from mistral_service.scale.args import Args, load_bot, read_secrets
from mistral_service.scale.calls import Bot, Calls
from mistral_service.scale.ingress import MayCall, create_app
from mistral_service.scale.limits import LARGEST

LEAVE_S = 15.0
"""Seconds before the deadline of a shutdown at which the calls that are left are sent elsewhere."""
STUCK_S = 5.0
"""Seconds of lag in which an event loop is held to be stuck."""
ENDS_S = 10.0
"""Seconds after which a process whose event loop stands still ends itself, with the stacks of its
threads in its log, so that its callers find another one. Ray would wait for its calls to end."""
_WATCH_S = 1.0
_READY_S = 10.0


class Replica:
    """One process: the bot, what it shares with others, and the door to it.

    Attributes:
        here: The one of this process, once it is ready.
        app: Its door.
    """

    here: ClassVar["Replica | None"] = None
    app: FastAPI | None = None

    def __init__(self, args: Args) -> None:
        """Begin; `ready` does what has to wait.

        Args:
            args: What the deployment was told.
        """
        self.args = args
        self.calls: Calls | None = None
        self._lag = 0.0
        self._beat = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._closes: list[Callable[[], Awaitable[None]]] = []

    async def ready(self) -> None:
        """Everything that a call would otherwise wait for: imports, connections, the key.

        Raises:
            ValueError: If something is missing; the replica is not started then.
        """
        read_secrets(os.environ)
        here = str(Path(__file__).with_name("turns.py"))
        others = os.environ.get("PIPECAT_SETUP_FILES", "")
        if here not in others:
            os.environ["PIPECAT_SETUP_FILES"] = os.pathsep.join(filter(None, [others, here]))
        module = await asyncio.to_thread(load_bot, self.args.bot)
        rate_limiter, recorders, stats = await self._shared()
        if warm_up := cast(
            "Callable[[], Awaitable[None]] | None", getattr(module, "warm_up", None)
        ):
            await warm_up()
        await _greet()
        self.calls = Calls(
            cast(Bot, module.bot),
            limit=self.args.calls_per_replica,
            recorders=recorders,
            rate_limiter=rate_limiter,
        )
        # What is loaded stays: to look through it stops all calls for a tenth of a second.
        gc.collect()
        gc.freeze()
        self._beat = time.monotonic()  # from now on: making ready may take as long as it likes
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(_tell(stats))]
        model = os.environ.get("MISTRAL_MODEL") or "mistral-small-latest"
        status = {"engine": f"Mistral, model {model}", "model": model, "local": False}
        # A bot that looks, or is written to, says so: the page offers what it takes.
        status["camera"] = bool(getattr(module, "CAMERA", False))
        status["text"] = bool(getattr(module, "TEXT", False))
        may_call = cast("MayCall | None", getattr(module, "may_call", None))
        self.app = create_app(
            self.calls,
            status,
            self.healthy,
            may_call,
            allowed_origins=self.args.allowed_origins,
            twilio_auth_token=os.environ.get("TWILIO_AUTH_TOKEN"),
        )
        Replica.here = self

    async def close(self) -> None:
        """Let go of Redis, when the last call has ended: the others' shares grow at once."""
        faulthandler.cancel_dump_traceback_later()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for close in self._closes:
            await close()
        gc.unfreeze()
        Replica.here = None

    async def healthy(self) -> None:
        """Say what is wrong, if something is.

        Raises:
            RuntimeError: If the event loop is or was just stuck.
        """
        late = time.monotonic() - self._beat - _WATCH_S
        if max(late, self._lag) > STUCK_S:
            raise RuntimeError(f"The event loop was stuck for {max(late, self._lag):.1f} s.")

    async def _shared(self) -> tuple[Any, Any, list[Any]]:
        """The gate and the recorders, where Redis is configured; and what they count."""
        url = os.environ.get("REDIS_URL")
        if not url:
            logger.warning("REDIS_URL is not set: calls are not kept, and the budget is not shared")
            return None, None, []
        from mistral_service.scale.budget import SharedBudget
        from mistral_service.scale.recorder import CallRecorders
        from mistral_service.scale.store import Store

        rate_limiter = SharedBudget(
            url,
            requests_per_minute=self.args.requests_per_minute,
            tokens_per_minute=self.args.tokens_per_minute,
        )
        store = Store(url)
        self._closes = [rate_limiter.close, store.close]
        # Redis may be away: calls then go on without it, and so does a replica that starts.
        with contextlib.suppress(Exception):
            await store.take("ready-ready", 1.0, create=False)
        recorders = CallRecorders(store, keep_seconds=self.args.keep_seconds)
        return rate_limiter, recorders, [rate_limiter.stats, store.stats]

    async def _watch(self) -> None:
        """Measure how late the loop is, and send the calls away before the replica is ended."""
        leaves: float | None = None
        moving: asyncio.Task[None] | None = None
        while True:
            faulthandler.dump_traceback_later(ENDS_S, exit=True)
            await asyncio.sleep(_WATCH_S)
            now = time.monotonic()
            self._lag, self._beat = max(0.0, now - self._beat - _WATCH_S), now
            metrics.LAG.record(self._lag)
            metrics.CALLS.record(len(self.calls or ()))
            metrics.CAPACITY.record(self.args.calls_per_replica)
            if leaves is None and shutting_down():
                leaves = now + max(0.0, self.args.drain_seconds - LEAVE_S)
                logger.info(f"Draining: {len(self.calls or ())} calls may go on for a while")
            bound_messages()
            if leaves is None:
                continue
            keep_lines_open()
            if now >= leaves and self.calls and (moving is None or moving.done()):
                moving = asyncio.create_task(self.calls.move(within=LEAVE_S / 3))


def bound_messages() -> None:
    """Bound the messages of new lines in the server that HAProxy reaches this replica by.

    Else that server holds 16 MB of each line before anything here sees a byte of them.
    """
    for server in _servers():
        server.config.ws_max_size = LARGEST


def keep_lines_open() -> None:
    """Let calls outlast the server that HAProxy reaches this replica by.

    Half a minute into a drain Ray ends that server, so that no new calls come, and waits for those
    that are there; the server, uvicorn, would close their lines in the same moment.
    """
    for server in _servers():
        for connection in list(server.server_state.connections):
            if getattr(connection, "handshake_complete", False):
                connection.shutdown = lambda: None


def shutting_down() -> bool:
    """Whether Ray has begun to shut this replica down.

    Ray tells a replica's own code only when all its requests have ended, or not at all; so this
    looks where Ray notes it. Where a later Ray keeps that elsewhere the answer is no, and calls
    that outlast the drain break as if the machine had: their callers come back all the same.
    """
    return any(getattr(replica, "_shutting_down", False) for replica in _replicas())


def _servers() -> list[Any]:
    servers = [getattr(replica, "_direct_ingress_http_server", None) for replica in _replicas()]
    return [server for server in servers if hasattr(server, "server_state")]


def _replicas() -> list[Any]:
    from ray._private.worker import global_worker

    actors = cast("dict[Any, Any]", getattr(global_worker, "actors", {}))
    return [getattr(actor, "_replica_impl", None) for actor in actors.values()]


async def _greet() -> None:
    """Ask Mistral for its models, once: the key is right, and the way there is open.

    A key that is wrong keeps the replica from starting. Mistral away does not: it may be back when
    the first call comes, and each turn says what is wrong in its own words.
    """
    from mistral_service.client import MistralClient
    from mistral_service.wire.errors import MistralError, Reason

    try:
        async with asyncio.timeout(_READY_S), MistralClient() as client:
            await client.models()
    except MistralError as e:
        if e.reason is Reason.KEY:
            raise ValueError(str(e)) from None
        logger.warning(f"Mistral does not answer yet: {e}")
    except TimeoutError:
        logger.warning("Mistral does not answer yet")


async def _tell(stats: list[Any]) -> None:
    """Pass on what the gate and the store have counted since the last time."""
    before: dict[str, float] = {}

    def grown(name: str, now: float) -> float:
        growth, before[name] = now - before.get(name, 0.0), now
        return growth

    while True:
        await asyncio.sleep(2 * _WATCH_S)
        for counted in stats:
            for rank, number in getattr(counted, "refused", {}).items():
                if more := grown(f"refused {rank.name}", number):
                    metrics.BUDGET_REFUSALS.record(more, rank=rank.name.lower())
            if (used := getattr(counted, "used", None)) is not None:
                metrics.BUDGET_USED.record(used)
            if more := grown("failures", getattr(counted, "failures", 0)):
                metrics.REDIS_FAILURES.record(more)
