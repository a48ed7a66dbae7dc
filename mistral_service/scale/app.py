"""The application for Ray Serve: one replica is one process that holds many calls.

    serve run mistral_service.scale.app:app bot=my_bots:bot

Deployed with a file: `deploy/serve.yaml` beside this module, `deploy/kuberay.yaml` on Kubernetes.
"""

import asyncio
import contextlib
import importlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, cast

from fastapi import FastAPI
from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from mistral_service.scale import metrics
from mistral_service.scale.calls import Bot, Calls
from mistral_service.scale.ingress import create_app

CALLS_PER_REPLICA = 80
"""Calls that a replica, which is a process on one core, may hold.

The service itself takes 152 replies at 50 tokens a second on a core, all speaking at once. Of that
core a third is left to the socket's audio and the detector of speech, and of the rest some must
be free: a core that is full is late for everybody.
"""
SPARE = 16
"""Requests beyond the calls: those that ask for the page or the state, and callers who are told in
words that all lines are taken."""
FREE_PART = 0.6
"""The part of its calls that a replica is meant to have: the rest can take a dead node's."""
LEAVE_S = 15.0
"""Seconds before the deadline of a shutdown at which the calls that are left are sent elsewhere."""
STUCK_S = 5.0
"""Seconds of lag in which an event loop is held to be stuck."""
_WATCH_S = 1.0
_READY_S = 10.0

_SECRETS = ("MISTRAL_API_KEY", "REDIS_URL", "MISTRAL_KEEP_KEY")
"""What is read from the environment, or from the file that `NAME_FILE` names."""


class Args(BaseModel):
    """What a deployment may be told; nothing of it is secret.

    Parameters:
        bot: `module:function`, or the path of a file with `async def bot(runner_args)`.
        calls_per_replica: Calls that a replica may hold.
        min_replicas: Replicas that are always there.
        max_replicas: The most that there are.
        drain_seconds: How long the calls of a replica that shuts down may go on there; after that
            they are sent to other replicas.
        keep_seconds: How long a call whose line broke is kept.
        requests_per_minute: The most requests of all replicas, where less is wanted than Mistral
            allows.
        tokens_per_minute: The most tokens, likewise.
        cpus: Cores of a replica.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    bot: str = Field(min_length=1)
    calls_per_replica: int = Field(default=CALLS_PER_REPLICA, ge=1, le=2000)
    min_replicas: int = Field(default=1, ge=1, le=10_000)
    max_replicas: int = Field(default=100, ge=1, le=10_000)
    drain_seconds: float = Field(default=600.0, ge=1, le=86_400)
    keep_seconds: float = Field(default=60.0, ge=5, le=3600)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    cpus: float = Field(default=1.0, gt=0, le=64)


def read_args(given: Mapping[str, Any]) -> Args:
    """The arguments, judged.

    Raises:
        ValueError: If something of them is wrong; the sentence names the field, its value and what
            is allowed. A key is never quoted.
    """
    for name in given:
        if any(word in name.lower() for word in ("key", "secret", "password", "token_", "url")):
            raise ValueError(
                f"args: {name} looks like a secret, and args are shown in Ray's dashboard: "
                "set MISTRAL_API_KEY and REDIS_URL in the environment of the nodes, or name files "
                "with them in MISTRAL_API_KEY_FILE and REDIS_URL_FILE."
            )
    try:
        args = Args.model_validate(dict(given))
    except ValidationError as e:
        raise ValueError("; ".join(_sentence(error, given) for error in e.errors())) from None
    if args.max_replicas < args.min_replicas:
        raise ValueError(
            f"args: max_replicas is {args.max_replicas}: allowed is a number from min_replicas, "
            f"which is {args.min_replicas}."
        )
    return args


def _sentence(error: Any, given: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"args: there is no {name}: allowed are {', '.join(Args.model_fields)}."
    if error["type"] == "missing":
        return f"args: {name} is missing: give `module:function`, or the path of a bot's file."
    return f"args: {name} is {given.get(name)!r}: {error['msg'].lower()}."


def refuse_visible_secrets(runtime_env: Mapping[str, Any]) -> None:
    """Refuse a key in a runtime environment, which everybody who sees the dashboard can read.

    Raises:
        ValueError: If there is one.
    """
    for name in cast(Mapping[str, Any], runtime_env.get("env_vars") or {}):
        if name in _SECRETS:
            raise ValueError(
                f"runtime_env: env_vars has {name}, which `serve config` and the dashboard would "
                f"show: set it in the environment of the nodes, or name a file with it in "
                f"{name}_FILE."
            )


def read_secrets(environment: MutableMapping[str, str]) -> None:
    """Put what lies in mounted files where it is looked for.

    Args:
        environment: Is read, and added to: a name that is set keeps its value.

    Raises:
        ValueError: If a file cannot be read, or is empty.
    """
    for name in _SECRETS:
        path = environment.get(f"{name}_FILE")
        if environment.get(name) or not path:
            continue
        try:
            value = Path(path).read_text().strip()
        except OSError as e:
            raise ValueError(f"{name}_FILE: {path} cannot be read ({e.strerror}).") from None
        if not value:
            raise ValueError(f"{name}_FILE: {path} is empty: it must hold the value of {name}.")
        environment[name] = value


def load_bot(name: str) -> ModuleType:
    """The module of a bot, with a function `bot`.

    Args:
        name: `module:bot`, or the path of a file.

    Raises:
        ValueError: If there is none.
    """
    if name.endswith(".py"):
        from mistral_service.demo import DemoError
        from mistral_service.demo.launch import load_bot as load_file

        try:
            return load_file(Path(name))
        except DemoError as e:
            raise ValueError(f"args: bot is {name!r}: {e}") from None
    module_name, _, function = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as e:
        raise ValueError(
            f"args: bot is {name!r}: it does not load ({e}); allowed is `module:function`, or the "
            "path of a file."
        ) from None
    if not hasattr(module, function or "bot"):
        raise ValueError(f"args: bot is {name!r}: {module_name} has no {function or 'bot'}.")
    if function and function != "bot":
        module.bot = getattr(module, function)  # pyright: ignore[reportAttributeAccessIssue]
    return module


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
        gate, keepers, stats = await self._shared()
        if warm_up := cast(
            "Callable[[], Awaitable[None]] | None", getattr(module, "warm_up", None)
        ):
            await warm_up()
        await _greet()
        self.calls = Calls(
            cast(Bot, module.bot), limit=self.args.calls_per_replica, keepers=keepers, gate=gate
        )
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(_tell(stats))]
        model = os.environ.get("MISTRAL_MODEL") or "mistral-small-latest"
        status = {"engine": f"Mistral, model {model}", "model": model, "local": False}
        # A bot that looks, or is written to, says so: the page offers what it takes.
        status["camera"] = bool(getattr(module, "CAMERA", False))
        status["text"] = bool(getattr(module, "TEXT", False))
        self.app = create_app(self.calls, status, self.healthy)
        Replica.here = self

    async def healthy(self) -> None:
        """Say what is wrong, if something is.

        Raises:
            RuntimeError: If the event loop is or was just stuck.
        """
        late = time.monotonic() - self._beat - _WATCH_S
        if max(late, self._lag) > STUCK_S:
            raise RuntimeError(f"The event loop was stuck for {max(late, self._lag):.1f} s.")

    async def _shared(self) -> tuple[Any, Any, list[Any]]:
        """The gate and the keepers, where Redis is configured; and what they count."""
        url = os.environ.get("REDIS_URL")
        if not url:
            logger.warning("REDIS_URL is not set: calls are not kept, and the budget is not shared")
            return None, None, []
        from mistral_service.scale.budget import SharedBudget
        from mistral_service.scale.keeper import Keepers
        from mistral_service.scale.store import Store

        gate = SharedBudget(
            url,
            requests_per_minute=self.args.requests_per_minute,
            tokens_per_minute=self.args.tokens_per_minute,
        )
        store = Store(url)
        # Redis may be away: calls then go on without it, and so does a replica that starts.
        with contextlib.suppress(Exception):
            await store.take("ready-ready", 1.0, create=False)
        keepers = Keepers(store, keep_seconds=self.args.keep_seconds)
        return gate, keepers, [gate.stats, store.stats]

    async def _watch(self) -> None:
        """Measure how late the loop is, and send the calls away before the replica is ended."""
        leaves: float | None = None
        while True:
            await asyncio.sleep(_WATCH_S)
            now = time.monotonic()
            self._lag, self._beat = max(0.0, now - self._beat - _WATCH_S), now
            metrics.LAG.record(self._lag)
            metrics.CALLS.record(len(self.calls or ()))
            metrics.CAPACITY.record(self.args.calls_per_replica)
            if leaves is None and shutting_down():
                leaves = now + max(0.0, self.args.drain_seconds - LEAVE_S)
                logger.info(f"Draining: {len(self.calls or ())} calls may go on for a while")
            if leaves is not None and now >= leaves and self.calls:
                await self.calls.move(within=LEAVE_S / 3)


def shutting_down() -> bool:
    """Whether Ray has begun to shut this replica down.

    Ray tells a replica's own code only when all its requests have ended, or not at all; so this
    looks where Ray notes it. Where a later Ray keeps that elsewhere the answer is no, and calls
    that outlast the drain break as if the machine had: their callers come back all the same.
    """
    from ray._private.worker import global_worker

    actors = cast("dict[Any, Any]", getattr(global_worker, "actors", {}))
    return any(
        getattr(getattr(actor, "_replica_impl", None), "_shutting_down", False)
        for actor in actors.values()
    )


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


_deployment, _ingress = cast(Any, serve).deployment, cast(Any, serve).ingress  # half typed


def door() -> FastAPI:
    """The door of this process; Ray asks for it once the deployment's constructor has run."""
    if Replica.here is None or Replica.here.app is None:
        raise RuntimeError("The door was asked for before the replica was ready.")
    return Replica.here.app


@_deployment(name="calls")
@_ingress(door)
class Deployment:
    """What Ray Serve runs in each replica."""

    async def __init__(self, args: Args) -> None:
        """Take calls once all is ready: Ray waits for this.

        Args:
            args: What the deployment was told.
        """
        metrics.use_ray()
        self._replica = Replica(args)
        await self._replica.ready()

    async def check_health(self) -> None:
        """Ray's question, answered on the event loop that calls run on: a stuck one is late."""
        await self._replica.healthy()


def app(args: dict[str, Any]) -> serve.Application:
    """The application, for `import_path: mistral_service.scale.app:app`.

    Args:
        args: See `Args`.

    Raises:
        ValueError: If something of them is wrong.
    """
    import ray

    told = read_args(args)
    refuse_visible_secrets(ray.get_runtime_context().runtime_env if ray.is_initialized() else {})
    deployment = Deployment.options(
        max_ongoing_requests=told.calls_per_replica + SPARE,
        # Whom no replica has room for hears so at once, and not silence in a queue.
        max_queued_requests=SPARE,
        backpressure_config=BackpressureConfig(retry_after_s=2),
        autoscaling_config=AutoscalingConfig(
            min_replicas=told.min_replicas,
            max_replicas=told.max_replicas,
            target_ongoing_requests=max(1.0, told.calls_per_replica * FREE_PART),
            upscale_delay_s=5,  # a replica is ready after some ten seconds more
            downscale_delay_s=600,  # calls are long; what goes must drain
            metrics_interval_s=2,
            look_back_period_s=10,
        ),
        graceful_shutdown_timeout_s=told.drain_seconds,
        graceful_shutdown_wait_loop_s=2,
        health_check_period_s=5,
        health_check_timeout_s=10,
        ray_actor_options={"num_cpus": told.cpus},
    )
    return deployment.bind(told)
