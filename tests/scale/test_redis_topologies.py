"""Redis in more than one piece: Sentinels, a replica that confirms, a Cluster; each is real."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from ports import free_port
from recorded import Client
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from scale_redis import slow_redis_is_up
from waiting import until

from mistral_service.reply.calls import PlannedCall
from mistral_service.scale import connect
from mistral_service.scale.budget import SharedBudget
from mistral_service.scale.connect import Address
from mistral_service.scale.recorders import CallRecorders
from mistral_service.scale.sealing import Codec
from mistral_service.scale.store import Store
from mistral_service.turn.shared_services import Rank, RequestEstimate
from mistral_service.wire.errors import HeldBack

__all__ = ["slow_redis_is_up"]

pytestmark = pytest.mark.usefixtures("slow_redis_is_up")

ASK = RequestEstimate("account", "model", 100, Rank.TURN)
PASSWORD = "a-password"


def port_with_a_bus() -> int:
    """A free port of which the one 10,000 above is free too: a Cluster's node listens on both."""
    for _ in range(1000):
        port = free_port()
        with contextlib.suppress(OSError, OverflowError), socket.socket() as bus:
            bus.bind(("127.0.0.1", port + 10_000))
            return port
    pytest.fail("no two ports 10,000 apart are free")


class Servers:
    """Some `redis-server` processes on free ports."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *options: str, config: str | None = None, port: int = 0) -> int:
        port, program = port or free_port(), shutil.which("redis-server")
        assert program is not None
        folder = self._home / str(port)
        folder.mkdir()
        command = [program]
        if config is not None:
            (folder / "redis.conf").write_text(config)
            command.append(str(folder / "redis.conf"))
        command += ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        self._processes[port] = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        return port

    def signal(self, port: int, number: signal.Signals) -> None:
        os.kill(self._processes[port].pid, number)

    def end(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait(60)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    started = Servers(tmp_path)
    try:
        yield started
    finally:
        started.end()


async def info(port: int, section: str, password: str | None = PASSWORD) -> dict[str, object]:
    """What a server says of itself; empty while it says nothing."""
    client = Redis(port=port, password=password, socket_timeout=1)
    try:
        return await client.info(section)
    except (RedisError, OSError):
        return {}
    finally:
        await client.aclose()


async def becomes(port: int, section: str, password: str | None = PASSWORD, **wanted: str) -> None:
    for _ in range(300):
        told = await info(port, section, password)
        if all(str(told.get(name)).startswith(value) for name, value in wanted.items()):
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"{port} should become {wanted}, and is {told}")


async def with_replica(servers: Servers) -> tuple[int, int]:
    """A server, and one that follows it."""
    master = servers.start("--requirepass", PASSWORD, "--masterauth", PASSWORD)
    replica = servers.start(
        *("--requirepass", PASSWORD, "--masterauth", PASSWORD, "--repl-diskless-sync-delay", "0"),
        *("--replicaof", "127.0.0.1", str(master)),
    )
    await becomes(replica, "replication", role="slave", master_link_status="up")
    return master, replica


async def test_a_replica_confirms_what_was_written_or_the_caller_knows(servers: Servers):
    master, replica = await with_replica(servers)
    address = Address.read(f"redis://:{PASSWORD}@127.0.0.1:{master}/0?replicas=1")
    client = connect.connect(address, timeout=3.0, retry=Retry(NoBackoff(), 0))
    script = client.register_script("return redis.call('INCR', KEYS[1])")

    async def count() -> tuple[object, bool]:
        options = {"replicas": address.replicas, "within": 1.0}
        return await connect.run_script(client, script, ["a"], [], **options)

    try:
        assert await count() == (1, True)
        servers.signal(replica, signal.SIGSTOP)
        assert await count() == (2, False)
        servers.signal(replica, signal.SIGCONT)
        assert await count() == (3, True)
    finally:
        servers.signal(replica, signal.SIGCONT)
        await client.aclose()


async def test_a_function_waits_for_the_replica_that_would_take_over(servers: Servers):
    master, replica = await with_replica(servers)
    store = Store(f"redis://:{PASSWORD}@127.0.0.1:{master}/0?replicas=1", timeout=2.0)
    recorders = CallRecorders(store, codec=Codec([Fernet.generate_key().decode()]))
    recorder = await recorders.open()
    try:
        assert await recorder.on_function_calls([PlannedCall("call00001", "book", {})]) == ()
        servers.signal(replica, signal.SIGSTOP)
        assert list(await recorder.on_function_calls([PlannedCall("call00002", "book", {})])) == [
            "call00002"
        ]
        # What needs no note does not wait for it.
        await recorder.on_turn_end(complete=True)
        await until(lambda: store.stats.operations > 3)
        servers.signal(replica, signal.SIGCONT)
        assert await recorder.on_function_calls([PlannedCall("call00003", "book", {})]) == ()
        after_a_failover = Redis(port=replica, password=PASSWORD)
        kept = await after_a_failover.hget(f"call:{recorder.id}", "calls")
        await after_a_failover.aclose()
        assert set(recorders.codec.unpack(kept)) == {"call00001", "call00003"}
    finally:
        servers.signal(replica, signal.SIGCONT)
        await recorder.close(over=False)
        await store.close()


async def test_sentinels_lead_to_the_new_master_which_knows_what_was_let_out(servers: Servers):
    master, replica = await with_replica(servers)
    sentinel = servers.start(
        "--sentinel",
        config=f"sentinel monitor calls 127.0.0.1 {master} 1\nsentinel auth-pass calls {PASSWORD}\n"
        # Longer than a heartbeat on a busy machine: the outage is seen before it is over.
        "sentinel down-after-milliseconds calls 5000\nsentinel failover-timeout calls 3000\n"
        "requirepass of-the-sentinels\n",
    )
    await becomes(
        sentinel, "sentinel", "of-the-sentinels", master0="{'name': 'calls', 'status': 'ok'"
    )
    gone = free_port()
    url = (
        f"redis+sentinel://:{PASSWORD}@127.0.0.1:{gone},127.0.0.1:{sentinel}/calls/0"
        "?sentinel_password=of-the-sentinels"
    )
    budget = SharedBudget(url, requests_per_minute=4, margin=0)
    try:
        for _ in range(3):
            await budget.acquire(ASK)
        await until(lambda: budget._account(ASK).last_totals is not None)
        assert not budget.stats.local
        servers.signal(master, signal.SIGKILL)
        await until(lambda: budget.stats.local)
        await becomes(replica, "replication", role="master")
        for _ in range(200):
            if not budget.stats.local:
                break
            await asyncio.sleep(0.1)
        assert not budget.stats.local
        await budget.acquire(ASK)
        with pytest.raises(HeldBack):
            await budget.acquire(ASK)
    finally:
        await budget.close()


async def test_a_cluster_holds_the_budget_of_each_account_on_one_node(servers: Servers):
    options = ("--cluster-enabled", "yes", "--requirepass", PASSWORD, "--masterauth", PASSWORD)
    ports = [servers.start(*options, port=port_with_a_bus()) for _ in range(3)]
    for port in ports:
        await becomes(port, "cluster", cluster_enabled="1")
    nodes = [f"127.0.0.1:{port}" for port in ports]
    made = await asyncio.create_subprocess_exec(
        *("redis-cli", "-a", PASSWORD, "--no-auth-warning", "--cluster", "create", *nodes),
        *("--cluster-replicas", "0", "--cluster-yes"),
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await made.wait() == 0
    for port in ports:
        await cluster_is_ok(port)
    url = f"redis+cluster://:{PASSWORD}@{','.join(nodes)}"
    budgets = [SharedBudget(url, requests_per_minute=3, margin=0) for _ in range(2)]
    try:
        for account in "abcdef":
            ask = RequestEstimate(account, "model", 100, Rank.TURN)
            for budget in (*budgets, budgets[0]):
                await budget.acquire(ask)
            with pytest.raises(HeldBack):
                await budgets[1].acquire(ask)
        await until(lambda: all(budget.stats.processes == 2 for budget in budgets))
        assert not any(budget.stats.local for budget in budgets)
    finally:
        await asyncio.gather(*(budget.close() for budget in budgets))


async def cluster_is_ok(port: int) -> None:
    client = Redis(port=port, password=PASSWORD)
    try:
        for _ in range(300):
            with contextlib.suppress(RedisError):
                if (await client.execute_command("CLUSTER INFO"))["cluster_state"] == "ok":
                    return
            await asyncio.sleep(0.1)
    finally:
        await client.aclose()
    pytest.fail(f"the cluster of {port} is not ready")


# --- addresses ------------------------------------------------------------------------------------


def test_an_address_is_read_in_each_of_its_forms():
    one = Address.read("rediss://calls:p%40ss@host:6380/2?ssl_ca_certs=/ca.crt&replicas=2")
    assert (one.kind, one.hosts, one.replicas) == ("", (("host", 6380),), 2)
    assert one.url == "rediss://calls:p%40ss@host:6380/2?ssl_ca_certs=%2Fca.crt"
    many = Address.read("rediss+sentinel://:pw@one,[::1]:26380/calls/3?sentinel_username=u")
    assert (many.kind, many.service) == ("sentinel", "calls")
    assert many.hosts == (("one", 26379), ("::1", 26380))
    assert (many.url, many.sentinel) == ("rediss://:pw@one:26379/3", {"username": "u"})
    cluster = Address.read("redis+cluster://[::1]:7000,two:7001")
    assert cluster.hosts == (("::1", 7000), ("two", 7001))
    assert cluster.url == "redis://[::1]:7000"
    assert Address.read("unix:///run/redis.sock?db=1").url == "unix:///run/redis.sock?db=1"
    assert "pw" not in repr(many)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://:very-secret@host", "begins with 'http'"),
        ("redis+gossip://:very-secret@host", "begins with 'redis+gossip'"),
        ("redis+sentinel://:very-secret@host:26379", "names no service"),
        ("redis://:very-secret@one,two", "several hosts"),
        ("redis://:very-secret@host:99999", "a host cannot be read"),
        ("redis+sentinel://:very-secret@a:b:c/calls", "a host cannot be read"),
        ("redis+cluster://:very-secret@host?replicas=1", "replicas is '1'"),
        ("redis://:very-secret@host?replicas=many", "replicas is 'many'"),
        ("redis://:very-secret@[host", "cannot be read"),
        ("redis://:very-secret@ho\u2100st", "cannot be read"),
        ("", "begins with ''"),
    ],
)
def test_an_address_that_cannot_be_read_is_not_repeated(url: str, words: str):
    with pytest.raises(ValueError, match=r"^redis_url") as e:
        SharedBudget(url)
    assert words in str(e.value)
    assert "very-secret" not in str(e.value)
    assert e.value.__cause__ is None


async def test_a_call_that_replicas_do_not_know_to_be_ours_starts_nothing_without_them(
    servers: Servers,
):
    master, replica = await with_replica(servers)
    store = Store(f"redis://:{PASSWORD}@127.0.0.1:{master}/0?replicas=1", timeout=2.0)
    recorders = CallRecorders(store, codec=Codec([Fernet.generate_key().decode()]))
    one = await recorders.open()
    servers.signal(replica, signal.SIGSTOP)
    new = await recorders.open()
    two = await recorders.open(one.id)
    try:
        new.client = two.client = Client()
        # A new call is no other machine's. One that was taken over is, if the replica leads.
        assert await new.on_function_calls([PlannedCall("call00001", "book", {})]) == ()
        assert list(await two.on_function_calls([PlannedCall("call00002", "book", {})])) == [
            "call00002"
        ]
        servers.signal(replica, signal.SIGCONT)
        assert await two.on_function_calls([PlannedCall("call00003", "book", {})]) == ()
    finally:
        servers.signal(replica, signal.SIGCONT)
        for recorder in (one, new, two):
            await recorder.close(over=False)
        await store.close()
