"""Calls on one node of a cluster, and twice as many on two: `python benchmarks/scale.py`.

The nodes, the model, Redis and the callers all share this machine, so that the number of calls it
can hold says nothing of a node. What can be measured here is what a call costs: the CPU time of the
replicas that hold the calls, of the proxies before them and of all else that a node runs, per call.
A node holds as many calls as fit into its cores by that figure; and what a call costs on two nodes
beside what it costs on one tells how the figure grows.
"""

import argparse
import asyncio
import contextlib
import sys
from collections import Counter
from pathlib import Path

import psutil
import redis

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "scale")]

from callers import Caller, Heard  # noqa: E402
from cluster import Cluster  # noqa: E402

WORDS_PER_SECOND = 16
KINDS = {"ServeReplica": "replicas", "ProxyActor": "proxies", "haproxy": "proxies"}


def cpu(cluster: Cluster) -> Counter[str]:
    """CPU seconds used so far, by kind of process; those that hold calls, and all else of Ray's."""
    used: Counter[str] = Counter()
    for name in ("head", "node"):
        if name not in cluster.processes:
            continue
        for process in psutil.Process(cluster.processes[name].pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())
                kind = next((k for word, k in KINDS.items() if word in command), "rest")
                times = process.cpu_times()
                used[kind] += times.user + times.system
    return used


async def hold(cluster: Cluster, count: int, turns: int, words: int) -> Heard:
    """Hold so many calls, all of them in a turn nearly all of the time."""
    callers = [Caller(cluster.url, n, turns=turns, words=words) for n in range(1, count + 1)]
    await asyncio.gather(*(caller.call(between=0.2) for caller in callers))
    return Heard(callers)


def measure(cluster: Cluster, count: int, turns: int, words: int) -> dict[str, float]:
    """CPU milliseconds per second of a call, by kind, and Redis commands per turn."""
    store = redis.Redis(port=cluster.redis_port)
    asyncio.run(hold(cluster, 4, 1, 5))  # what is loaded late is loaded
    commands, before = store.info("stats")["total_commands_processed"], cpu(cluster)
    began = asyncio.run(_timed(cluster, count, turns, words))
    heard, seconds = began
    after = cpu(cluster)
    assert not heard.lost, heard.lost[:3]
    commands = store.info("stats")["total_commands_processed"] - commands
    figures = {kind: 1000 * (after[kind] - before[kind]) / (count * seconds) for kind in after}
    figures["redis"] = commands / (count * turns)
    figures["whole"] = 1 - len(heard.wrong) / (count * turns)
    firsts = heard.first_words
    figures["first"] = firsts[len(firsts) // 2]
    return figures


async def _timed(cluster: Cluster, count: int, turns: int, words: int) -> tuple[Heard, float]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    heard = await hold(cluster, count, turns, words)
    return heard, loop.time() - began


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20, help="calls per node")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--words", type=int, default=60)
    options = parser.parse_args()

    cluster = Cluster()
    try:
        cluster.start(nodes=1)
        cluster.deploy(nodes=1, replicas=1)
        one = measure(cluster, options.calls, options.turns, options.words)
        cluster.start_node()
        cluster.deploy(nodes=2, replicas=2)
        two = measure(cluster, 2 * options.calls, options.turns, options.words)
    finally:
        cluster.stop()

    print(f"{options.calls} written calls a node, {WORDS_PER_SECOND} words a second in each:")
    print(f"{'':44}{'one node':>10}{'two nodes':>11}")
    rows = {
        "replicas": "CPU ms a second of one call: the replica",
        "proxies": "  the proxy before it",
        "rest": "  all else of Ray, shared by the calls",
        "redis": "Redis commands per turn",
        "first": "seconds to the first word, median",
        "whole": "turns that were whole",
    }
    for key, name in rows.items():
        print(f"{name:44}{one.get(key, 0):10.2f}{two.get(key, 0):11.2f}")
    costs = [figures["replicas"] + figures.get("proxies", 0.0) for figures in (one, two)]
    print(f"{'calls per core, replica and proxy':44}{1000 / costs[0]:10.0f}{1000 / costs[1]:11.0f}")
    print(f"Calls on two nodes over calls on one: {2 * costs[0] / costs[1]:.2f}")


if __name__ == "__main__":
    main()
