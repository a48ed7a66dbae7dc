"""Redis clients from a URL: one server, the master that Sentinels name, or a Cluster.

| URL | |
|---|---|
| `redis://:PASSWORD@HOST:6379/0`, `unix://…` | one server |
| `redis+sentinel://:PASSWORD@HOST:26379,HOST:26379/SERVICE/0` | the master of a service |
| `redis+cluster://:PASSWORD@HOST:6379,HOST:6379` | a Cluster |

`rediss` in place of `redis` speaks TLS. The query takes the arguments of redis-py's connection,
such as `ssl_ca_certs`; `sentinel_username` and `sentinel_password`, for Sentinels that want them;
and `replicas`, the number of replicas that have to confirm what `run_script` writes.
"""

import asyncio
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlunsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

REDIS_ERRORS = (RedisError, OSError)
"""The exceptions that mean that Redis is down; a `TimeoutError` is an `OSError`."""

_CANCEL_AGAIN_S = 0.2

_PORTS = {"": 6379, "sentinel": 26379, "cluster": 6379}
_OURS = ("sentinel_username", "sentinel_password", "replicas")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True)
class Address:
    """Where Redis is.

    Parameters:
        kind: Empty for one server, `sentinel`, or `cluster`.
        hosts: Names and ports: of the Sentinels, or of some nodes of the Cluster.
        service: What the Sentinels call the master.
        url: The same in redis-py's form, for one host.
        replicas: How many replicas confirm a write.
        sentinel: The credentials for Sentinels: `username`, `password`.
    """

    kind: str
    hosts: tuple[tuple[str, int], ...]
    service: str
    url: str = field(repr=False)
    replicas: int = 0
    sentinel: dict[str, str] = field(default_factory=dict[str, str], repr=False)

    @classmethod
    def read(cls, url: str) -> "Address":
        """Read a URL.

        Raises:
            ValueError: If it has none of the forms above. The sentence leaves out the rest of it,
                which may hold a password.
        """
        # urlsplit takes one host, and some versions of Python refuse several with an IPv6 one.
        match = _URL.fullmatch(url)
        scheme, netloc, path, options = match.groups("") if match else ("", "", "", "")
        plain, _, kind = scheme.partition("+")
        if scheme != "unix" and (plain not in ("redis", "rediss") or kind not in _PORTS):
            raise ValueError(
                f"redis_url begins with {scheme!r}: allowed are redis://, rediss://, unix://, "
                "and with +sentinel or +cluster behind redis or rediss"
            )
        query = parse_qsl(options)
        ours = {name: value for name, value in query if name in _OURS}
        rest = urlencode([(name, value) for name, value in query if name not in _OURS])
        replicas = ours.pop("replicas", "0")
        if not re.fullmatch(r"\d", replicas) or (kind == "cluster" and replicas != "0"):
            allowed = "0, since a Cluster's are not asked" if kind == "cluster" else "0 to 9"
            raise ValueError(f"redis_url: replicas is {replicas!r}: allowed is {allowed}")
        sentinel = {name.removeprefix("sentinel_"): value for name, value in ours.items()}
        if scheme == "unix":
            whole = f"unix://{netloc}{path}{'?' if rest else ''}{rest}"
            return cls("", (), "", whole, int(replicas))
        user, at, listed = netloc.rpartition("@")
        hosts = tuple(_host(each, _PORTS[kind]) for each in listed.split(","))
        service = db = ""
        if kind == "sentinel":
            service, _, db = path.strip("/").partition("/")
        if kind == "sentinel" and not service:
            raise ValueError(
                "redis_url: redis+sentinel:// names no service: allowed is …/SERVICE/0"
            )
        if not kind and "," in listed:
            raise ValueError("redis_url has several hosts: allowed with +sentinel or +cluster")
        path = path if not kind else f"/{db or 0}" if kind == "sentinel" else ""
        (name, port), *_ = hosts
        one = f"{user}{at}{f'[{name}]' if ':' in name else name}:{port}"
        url = urlunsplit((plain, one, path, rest, ""))
        return cls(kind, hosts, unquote(service), url, int(replicas), sentinel)


def _host(text: str, port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text or "localhost")
    if found is None or (found[2] and not 0 < int(found[2]) < 65536):
        raise ValueError(
            "redis_url: a host cannot be read: allowed is HOST:PORT, with commas between"
        )
    return found[1].strip("[]"), int(found[2] or port)


def connect(
    address: Address, *, timeout: float, retry: Retry, decode_responses: bool = False
) -> Any:
    """Make a `redis.asyncio.Redis` or `RedisCluster`; nothing is connected yet.

    Both take scripts, whose keys have one hash tag.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": retry,
        "decode_responses": decode_responses,
    }
    if address.kind == "":
        return cast(Any, Redis).from_url(address.url, **options)
    options |= cast("dict[str, Any]", parse_url(address.url))
    options.pop("host", None)
    options.pop("port", None)
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    if address.kind == "cluster":
        from redis.asyncio.cluster import ClusterNode

        options.pop("db", None)
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return cast(Any, RedisCluster)(startup_nodes=nodes, **options)
    secure = {name: value for name, value in options.items() if name.startswith(("ssl", "socket_"))}
    # One Sentinel that is down is not asked again: there are others.
    sentinel_options = secure | address.sentinel | {"retry": Retry(NoBackoff(), 0)}
    sentinels = Sentinel(list(address.hosts), sentinel_kwargs=sentinel_options, **options)
    return cast(Any, sentinels).master_for(address.service)


async def run_script(
    client: Any, script: Any, keys: list[str], args: list[Any], *, replicas: int, within: float
) -> tuple[Any, bool]:
    """Run a script that writes, and wait until replicas have the write: one round trip.

    Redis confirms a write before it is replicated: a master that dies may lose it. Returns the
    script's answer, and whether so many replicas have confirmed it within some seconds.
    """
    if not replicas:
        return await script(keys=keys, args=args), True

    async def once() -> tuple[Any, int]:
        # WAIT is about the writes of its own connection.
        pipe = client.pipeline(transaction=False)
        pipe.evalsha(script.sha, len(keys), *keys, *args)
        pipe.execute_command("WAIT", replicas, max(1, round(within * 1000)))
        answer, confirmed = await pipe.execute()
        return answer, int(confirmed)

    try:
        answer, confirmed = await once()
    except NoScriptError:
        await client.script_load(script.script)
        answer, confirmed = await once()
    return answer, confirmed >= replicas


async def cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks that use Redis, and wait until they have ended.

    `redis` sends with `asyncio.wait_for`, which in Python 3.11 swallows a cancellation that comes
    at the moment of its success: a task that goes on is cancelled again.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)  # what they failed with is of no interest
