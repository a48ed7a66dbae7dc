"""Whether a caller finds the replica that has room: a model of it, not a measurement.

Each node has a proxy, which knows its own connections (HAProxy: the fewest of them, in turn where
that is equal), or asks two replicas of all how full they are (Ray's own proxy). A replica that is
full refuses, and the caller calls again: after 0.1, 0.2, 0.4, 0.8, 1.6 s, as our page does.

    python benchmarks/placement.py
"""

import heapq
import random

CORES = 16
CALLS_PER_REPLICA = 8
ATTEMPTS = 5
"""Those that the page makes within three seconds."""
ARRIVALS = 60_000


class Proxy:
    """HAProxy's `leastconn`: the replica with the fewest connections, in turn among equals."""

    def __init__(self, replicas: int, random_: random.Random) -> None:
        self._turn = 0
        self._count = [0] * replicas
        order = list(range(replicas))
        random_.shuffle(order)
        self._heap = [(0, turn - replicas, replica) for turn, replica in enumerate(order)]
        heapq.heapify(self._heap)

    def place(self) -> int:
        """The replica that a call is sent to; `note` what came of it."""
        while True:
            count, _, replica = heapq.heappop(self._heap)
            if count == self._count[replica]:
                return replica

    def note(self, replica: int, change: int) -> None:
        """A call begins or ends; 0 if it was refused."""
        self._count[replica] += change
        self._turn += 1
        heapq.heappush(self._heap, (self._count[replica], self._turn, replica))


def simulate(nodes: int, load: float, *, haproxy: bool) -> tuple[float, float]:
    """The parts of callers whom their first machine refuses, and all that they try."""
    dice = random.Random(1)
    replicas = nodes * CORES
    proxies = [Proxy(replicas, dice) for _ in range(nodes)]
    held = [0] * replicas
    ends: list[tuple[float, int, Proxy]] = []
    now, first, all_ = 0.0, 0, 0
    counted = range(ARRIVALS // 3, ARRIVALS)  # the first third fills the house
    for arrival in range(ARRIVALS):
        now += dice.expovariate(replicas * CALLS_PER_REPLICA * load)  # calls last 1 in the mean
        while ends and ends[0][0] <= now:
            _, replica, proxy = heapq.heappop(ends)
            held[replica] -= 1
            proxy.note(replica, -1)
        for attempt in range(ATTEMPTS):
            proxy = dice.choice(proxies)
            if haproxy:
                replica = proxy.place()
            else:
                replica = min(dice.sample(range(replicas), 2), key=held.__getitem__)
            taken = held[replica] < CALLS_PER_REPLICA
            if haproxy:
                proxy.note(replica, int(taken))
            if taken:
                held[replica] += 1
                heapq.heappush(ends, (now + dice.expovariate(1.0), replica, proxy))
                break
            if arrival in counted:
                first += attempt == 0
                all_ += attempt == ATTEMPTS - 1
    return first / len(counted), all_ / len(counted)


def main() -> None:
    """Print the table."""
    print("refused by the first machine, and by all five that are tried\n")
    print("| nodes | full to | HAProxy | Ray's proxy |")
    print("|---|---|---|---|")
    for nodes in (2, 8, 26):
        for load in (0.6, 0.8, 0.9):
            cells = [
                f"{first:.1%}, {all_:.2%}"
                for first, all_ in (simulate(nodes, load, haproxy=h) for h in (True, False))
            ]
            print(f"| {nodes} | {load:.0%} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
