"""Calls behind HAProxy, which the files that ship put before the replicas."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from cluster import Cluster, wait_for
from cluster_calls import hold, nothing_is_lost

pytestmark = [pytest.mark.scale, pytest.mark.timeout(600)]

DEPLOYED = {"replicas": 2, "calls_per_replica": 30, "drain_seconds": 120.0, "nodes": 1}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node; on two, which share this machine, HAProxy would want its port twice."""
    cluster = Cluster(
        0.25,
        RAY_SERVE_ENABLE_HA_PROXY="1",
        RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S="3600",
        RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S="1",
        RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S="2",  # 30 by default
    )
    try:
        cluster.start(nodes=1)
        cluster.deploy(**DEPLOYED)
        yield cluster
    finally:
        cluster.stop()


async def test_calls_go_on_while_their_replica_drains(cluster: Cluster):
    before = {p.pid for p in cluster.replicas()}

    async def updates() -> None:
        await asyncio.to_thread(cluster.deploy, **{**DEPLOYED, "calls_per_replica": 31})

    heard = await hold(cluster, 12, updates, turns=7, after=4.0, over=3.0)
    nothing_is_lost(heard)
    assert heard.taken_up == []  # nobody was sent elsewhere before two minutes were over
    wait_for(lambda: before.isdisjoint(p.pid for p in cluster.replicas()), 180, "the old to end")


@pytest.mark.long
async def test_a_replica_dies(cluster: Cluster):
    async def dies() -> None:
        os.kill(cluster.replicas()[0].pid, signal.SIGKILL)

    heard = await hold(cluster, 12, dies, after=4.0, over=3.0)
    nothing_is_lost(heard)
    assert heard.taken_up, "nobody was on the replica that died"
