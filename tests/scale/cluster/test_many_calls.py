"""Calls on two nodes of a cluster, and everything that can break under them.

The short form (`make test`) holds 24 calls and kills a replica; the long one (`make test-scale`)
holds 200, and breaks all the rest.
"""

import asyncio
import math
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from callers import Heard
from cluster import Cluster
from cluster_calls import RECONNECTS_WITHIN, hold, nothing_is_lost

pytestmark = [pytest.mark.scale, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[3]
MANIFEST = ROOT / "mistral_service/scale/deploy/kuberay.yaml"
DEPLOYED = {"replicas": 4, "calls_per_replica": 150, "drain_seconds": 20.0}


@pytest.fixture
def many(request: pytest.FixtureRequest) -> int:
    """How many calls are held."""
    return 200 if request.config.getoption("--scale") == "long" else 24


@pytest.fixture
def within(request: pytest.FixtureRequest) -> float:
    """How soon a call has to be taken up; of no meaning on a machine that does other things."""
    return RECONNECTS_WITHIN if request.config.getoption("--scale") == "long" else math.inf


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two nodes that take calls."""
    # Two cores have to hold the nodes, the model and all the callers: 200 hear a slow speaker, or
    # the machine itself is what is late.
    long = request.config.getoption("--scale") == "long"
    cluster = Cluster(seconds_per_word=0.8 if long else 0.25)
    try:
        cluster.start()
        cluster.deploy(**DEPLOYED)
        yield cluster
    finally:
        cluster.stop()


async def test_a_crowd_is_held(cluster: Cluster, many: int, within: float):
    heard = await hold(cluster, many)
    nothing_is_lost(heard, within=within)
    assert heard.taken_up == []
    assert len(heard.booked) == many


async def test_a_replica_dies_in_mid_sentence(cluster: Cluster, many: int, within: float):
    async def dies() -> None:
        victim = cluster.replicas()[0]
        os.kill(victim.pid, signal.SIGKILL)

    heard = await hold(cluster, many, dies)
    nothing_is_lost(heard, within=within)
    assert heard.taken_up, "nobody was on the replica that died"


def test_no_key_is_shown(cluster: Cluster):
    assert "a-key-that-nobody-may-see" not in cluster.driver("status")
    for log in (cluster.folder / "ray").rglob("*.*"):
        if log.is_file() and log.suffix in (".log", ".out", ".err", ".json"):
            assert b"a-key-that-nobody-may-see" not in log.read_bytes(), log


@pytest.mark.long
async def test_redis_is_restarted_with_nothing_in_it(cluster: Cluster, many: int):
    async def restarts() -> None:
        await asyncio.to_thread(cluster.kill, "redis")
        await asyncio.to_thread(cluster.start_redis)

    nothing_is_lost(await hold(cluster, many, restarts))


@pytest.mark.long
async def test_redis_is_gone_for_20_seconds(cluster: Cluster, many: int):
    async def is_gone() -> None:
        await asyncio.to_thread(cluster.kill, "redis")
        await asyncio.sleep(20)
        await asyncio.to_thread(cluster.start_redis)

    nothing_is_lost(await hold(cluster, many, is_gone, turns=8))


@pytest.mark.long
async def test_a_new_version_takes_over_under_load(cluster: Cluster, many: int):
    async def updates() -> None:
        await asyncio.to_thread(cluster.deploy, **{**DEPLOYED, "calls_per_replica": 151})

    before = {p.pid for p in cluster.replicas()}
    heard = await hold(cluster, many, updates, turns=12)
    nothing_is_lost(heard)
    assert heard.taken_up, "nobody was sent elsewhere"
    assert before.isdisjoint(p.pid for p in cluster.replicas())


@pytest.mark.long
async def test_a_replica_that_is_stuck_is_replaced(cluster: Cluster, many: int):
    cluster.deploy(**DEPLOYED, bot=str(ROOT / "tests/support/stuck_bot.py"))
    victim = cluster.replicas()[0]

    async def is_stuck() -> None:
        (cluster.folder / f"stick-{victim.pid}").touch()

    heard = await hold(cluster, many // 4, is_stuck, turns=5, patience=3.0)
    print("   ", [round(seconds, 2) for seconds in heard.taken_up])
    cluster.deploy(**DEPLOYED)
    # Three seconds to notice; who then meets the same machine again waits five for its answer, and
    # after ten it has ended itself.
    nothing_is_lost(heard, within=3 + 5 + 5)
    assert heard.taken_up[len(heard.taken_up) // 2] < 3 + RECONNECTS_WITHIN
    assert heard.taken_up, "nobody was on the replica that was stuck"
    assert not victim.is_running()


@pytest.mark.long
async def test_replicas_come_with_the_calls(cluster: Cluster):
    cluster.driver("delete")  # replicas that are there would stay for ten minutes
    cluster.deploy(calls_per_replica=5, min_replicas=1, max_replicas=4, drain_seconds=20.0)
    before = len(cluster.replicas())
    heard = await hold(cluster, 15, turns=9, over=30.0)
    after = len(cluster.replicas())
    cluster.deploy(**DEPLOYED)
    nothing_is_lost(heard)
    assert (before, after) == (1, 4)


@pytest.mark.long
async def test_a_node_is_taken_away_in_order(cluster: Cluster, many: int):
    """What the manifest does before it ends a pod; what is on the node goes to the other one."""
    before_it_stops = next(
        container["lifecycle"]["preStop"]["exec"]["command"][-1]
        for document in yaml.safe_load_all(MANIFEST.read_text())
        for group in document["spec"].get("rayClusterConfig", {}).get("workerGroupSpecs", [])
        for container in group["template"]["spec"]["containers"]
    )
    drain, _, _ = before_it_stops.partition("&&")
    command = drain.replace("660", "25")

    async def leaves() -> None:
        await asyncio.to_thread(cluster.driver, "drain", command)

    # Half of the calls: half of the cores are left for them.
    heard = await hold(cluster, many // 2, leaves, turns=5)
    nothing_is_lost(heard)
    assert heard.taken_up, "nobody was on the node that went"
    cluster.driver("nodes", "1")
    cluster.kill("node")
    cluster.start_node()
    cluster.driver("running", "4")


@pytest.mark.long
async def test_the_budget_is_halved(cluster: Cluster, many: int):
    """Of what is asked for then, a third is too much; in a minute that was begun with plenty."""
    asked_for = 8 * many  # a minute, or somewhat more

    async def load() -> tuple[Heard, int]:
        async def halves() -> None:
            await asyncio.to_thread(cluster.limits, requests_per_minute=asked_for * 2 // 3)

        refused = cluster.limits(requests_per_minute=asked_for * 4 // 3)["refused"] or 0
        try:
            heard = await hold(cluster, many, halves, turns=9, after=20)
            return heard, (cluster.limits()["refused"] or 0) - refused
        finally:
            cluster.limits(requests_per_minute=None)

    shared, refused = await load()
    cluster.deploy(**DEPLOYED, bot=str(ROOT / "tests/support/alone_bot.py"))
    await asyncio.sleep(61)  # the minute of the account
    alone, refused_alone = await load()
    cluster.deploy(**DEPLOYED)
    print(f"429s: {refused} with a shared budget, {refused_alone} without")
    for heard in (shared, alone):
        assert heard.lost == []
        assert [call for call, times in Counter(heard.booked).items() if times > 1] == []
        # Whom there is no room for is told so: nobody waits in silence, or hears a word twice.
        assert [turn for turn in heard.wrong if not turn.told] == []
    assert refused <= many / 50
    assert refused_alone > 10 * max(refused, 10)
    # What is left for certainty, 5 %, is all that it costs.
    answered, answered_alone = (9 * many - len(heard.wrong) for heard in (shared, alone))
    assert answered > 0.85 * answered_alone


@pytest.mark.long
async def test_a_whole_node_dies(cluster: Cluster, many: int):
    async def dies() -> None:
        await asyncio.to_thread(cluster.kill, "node")

    heard = await hold(cluster, many, dies)
    nothing_is_lost(heard)
    assert heard.taken_up, "nobody was on the node that died"
    cluster.start_node()
