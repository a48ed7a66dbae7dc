"""The configuration of a deployment: its arguments, which are public, its secrets, and its bot."""

import importlib
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mistral_service.local.origins import check

CALLS_PER_REPLICA = 8
"""Spoken calls that a replica, which is a process on one core, may hold.

One takes about a twelfth of a core behind HAProxy: audio both ways and voice activity detection
(`benchmarks/scale.py`). A third of the core stays free: a full core is late for every call.
"""

_SECRETS = ("MISTRAL_API_KEY", "REDIS_URL", "MISTRAL_SERVICE_KEEP_KEY", "TWILIO_AUTH_TOKEN")
"""Read from the environment, or from the file that `NAME_FILE` names."""

_TOKEN = "RAY_AUTH_TOKEN"
"""It allows to run code on every node. Ray reads it, or the file of `RAY_AUTH_TOKEN_PATH`."""


class Args(BaseModel):
    """The arguments of a deployment; none of them is secret.

    Parameters:
        bot: `module:function`, or the path of a file with `async def bot(runner_args)`.
        calls_per_replica: Calls that a replica may hold.
        min_replicas: The fewest replicas.
        max_replicas: The most replicas.
        drain_seconds: How long the calls of a replica that shuts down may continue there; after
            that they move to other replicas.
        keep_seconds: How long the record of a call lasts after its connection broke.
        requests_per_minute: The most requests of all replicas, where less is wanted than Mistral
            allows.
        tokens_per_minute: The most tokens, likewise.
        cpus: Cores of a replica.
        allowed_origins: Sites whose pages may call, in addition to our own page:
            `https://app.example.org`, or `app.example.org`.
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
    allowed_origins: list[str] = Field(default_factory=list[str])


def read_args(given: Mapping[str, Any]) -> Args:
    """Validate the arguments.

    Raises:
        ValueError: If one is not valid; the sentence names the field, its value and what is
            allowed. A key is never quoted.
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
    check(args.allowed_origins, "args: allowed_origins")
    return args


def _sentence(error: Any, given: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"args: there is no {name}: allowed are {', '.join(Args.model_fields)}."
    if error["type"] == "missing":
        return f"args: {name} is missing: give `module:function`, or the path of a bot's file."
    return f"args: {name} is {given.get(name)!r}: {error['msg'].lower()}."


def refuse_visible_secrets(runtime_env: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a key in a runtime environment: the dashboard shows it to everyone."""
    for name in cast(Mapping[str, Any], runtime_env.get("env_vars") or {}):
        if name in (*_SECRETS, _TOKEN):
            file = f"{name}_PATH" if name == _TOKEN else f"{name}_FILE"
            raise ValueError(
                f"runtime_env: env_vars has {name}, which `serve config` and the dashboard would "
                f"show: set it in the environment of the nodes, or name a file with it in {file}."
            )


def read_secrets(environment: MutableMapping[str, str]) -> None:
    """Read secrets from mounted files into the environment; a variable that is set stays.

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
    """The module of a bot, `module:bot` or the path of a file, with a function `bot`.

    Raises:
        ValueError: If there is none.
    """
    if name.endswith(".py"):
        from mistral_service.demo import DemoError
        from mistral_service.demo.bots import load_bot as load_file

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
