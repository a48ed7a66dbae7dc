"""What a call costs on a cluster of one node and of two: `python benchmarks/scale.py`.

The nodes, the model, Redis and the callers share this machine, so the number of calls that it holds
says nothing about a node. The CPU time of a call can be measured: that of the replicas that hold
the calls, of the proxies before them, of Redis, and of everything else on a node. A node holds as
many calls as fit into its cores by that figure. The cost on two nodes, compared with that on one,
shows how it grows.

Spoken calls are measured behind Ray's own proxy, and behind HAProxy, which Ray brings for Linux.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pipecat.frames.protobufs.frames_pb2 as protobufs
import psutil
import websockets

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from callers import Caller, Heard  # noqa: E402
from cluster import Cluster  # noqa: E402

KINDS = {"ServeReplica": "replica", "ProxyActor": "proxy", "HAProxyManager": "rest"}
FRAME_SECONDS = 0.02  # as our page and Twilio send sound
SPOKEN_BOT = str(Path(__file__).with_name("spoken_bot.py"))


class Speaker(Caller):
    """A caller whose microphone is on."""

    async def call(self, between: float = 0.5) -> None:
        """Hold the call."""
        microphone = asyncio.create_task(self._microphone())
        try:
            await super().call(between)
        finally:
            microphone.cancel()

    async def _microphone(self) -> None:
        sound = protobufs.AudioRawFrame(audio=bytes(640), sample_rate=16000, num_channels=1)
        frame = protobufs.Frame(audio=sound).SerializeToString()
        due = time.monotonic()
        while True:
            due += FRAME_SECONDS
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._socket is not None:
                with contextlib.suppress(websockets.ConnectionClosed):
                    await self._socket.send(frame)


@dataclass
class Case:
    """What is measured: the calls, and the cluster."""

    name: str
    nodes: int = 1
    calls: int = 20  # a node
    spoken: bool = False
    haproxy: bool = False


def cpu(cluster: Cluster) -> Counter[str]:
    """CPU seconds used so far, by kind of process."""
    used: Counter[str] = Counter()
    for name in ("head", "node", "redis"):
        if name not in cluster.processes:
            continue
        parent = psutil.Process(cluster.processes[name].pid)
        for process in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())
                kind = next((k for word, k in KINDS.items() if word in command), "rest")
                if name == "redis" or process.name() == "haproxy":
                    kind = "redis" if name == "redis" else "proxy"
                times = process.cpu_times()
                used[kind] += times.user + times.system
    return used


async def hold(cluster: Cluster, count: int, turns: int, words: int, spoken: bool) -> Heard:
    """Hold some calls at once; in spoken ones, the bot speaks half of the time."""
    kind = Speaker if spoken else Caller
    callers = [kind(cluster.url, n, turns=turns, words=words) for n in range(1, count + 1)]
    between = 0.4 * words if spoken else 0.2
    await asyncio.gather(*(caller.call(between) for caller in callers))
    return Heard(callers)


def measure(case: Case, turns: int, words: int) -> dict[str, float]:
    """CPU milliseconds per second of a call, by kind; of `rest`, per second of a node."""
    cluster = Cluster()
    if case.haproxy:
        home = cluster.folder / "haproxy"
        cluster.env |= {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(home / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(home / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(home),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(home / "server-state"),
        }
        home.mkdir()
    options = {"bot": SPOKEN_BOT} if case.spoken else {}
    try:
        cluster.start(nodes=case.nodes)
        cluster.deploy(nodes=case.nodes, replicas=case.nodes, **options)
        asyncio.run(hold(cluster, 4, 1, 5, case.spoken))  # warm up what loads lazily
        count, began, before = case.calls * case.nodes, time.monotonic(), cpu(cluster)
        heard = asyncio.run(hold(cluster, count, turns, words, case.spoken))
        seconds, after = time.monotonic() - began, cpu(cluster)
    finally:
        cluster.stop()
    assert not heard.lost, heard.lost[:3]
    of_a_call = 1000 / (count * seconds)
    figures = {kind: of_a_call * (after[kind] - before[kind]) for kind in after}
    figures["rest"] *= case.calls
    figures["both"] = figures["replica"] + figures["proxy"]
    figures["per core"] = 1000 / figures["both"]
    figures["first"] = heard.first_words[len(heard.first_words) // 2]
    figures["whole"] = 1 - len(heard.wrong) / (count * turns)
    return figures


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=3, help="how often one and two nodes are held")
    options = parser.parse_args()

    cases = [
        Case("written, one node", calls=10),
        Case("written, two nodes", calls=10, nodes=2),
        Case("spoken", calls=6, spoken=True),
        Case("spoken, HAProxy", calls=6, spoken=True, haproxy=True),
        Case("written, HAProxy", calls=10, haproxy=True),
    ]
    one, two, *others = cases
    # Alternating, since the load of the machine changes.
    pairs = [
        [measure(case, options.turns, options.words) for case in (one, two)]
        for _ in range(options.pairs)
    ]
    found = {
        case.name: {key: statistics.median(each[key] for each in column) for key in column[0]}
        for case, column in zip((one, two), zip(*pairs, strict=True), strict=True)
    }
    found |= {case.name: measure(case, options.turns, options.words) for case in others}

    print("CPU milliseconds per second of a call, 2.5 words a second while the bot speaks:")
    print(f"{'':34}" + "".join(f"{name:>20}" for name in found))
    rows = {
        "replica": "the replica that holds it",
        "proxy": "the proxy before it",
        "redis": "Redis, budget and conversation",
        "rest": "everything else of Ray, for a node",
        "per core": "calls per core, replica and proxy",
        "first": "seconds to the first word, median",
        "whole": "turns that were whole",
    }
    for key, row in rows.items():
        print(f"{row:34}" + "".join(f"{figures[key]:20.2f}" for figures in found.values()))
    grows = sorted(2 * on_one["both"] / on_two["both"] for on_one, on_two in pairs)
    ratios = ", ".join(f"{each:.2f}" for each in grows)
    print(f"Calls on two nodes over calls on one: {statistics.median(grows):.2f} (of {ratios})")


if __name__ == "__main__":
    main()
