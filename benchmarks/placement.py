"""Whether a call finds a replica with free capacity: a simulation, not a measurement.

Each node has a proxy. HAProxy knows its own connections and picks the replica with the fewest, in
turn among equals; Ray's own proxy asks two random replicas for their load. A full replica refuses,
and the caller tries again after 0.1, 0.2, 0.4, 0.8 and 1.6 s, as our page does.

    python benchmarks/placement.py
"""

import heapq
import random

CORES = 16
CALLS_PER_REPLICA = 8
ATTEMPTS = 5
"""The attempts of the page, within three seconds."""
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
        """The replica for a call; report the outcome with `note`."""
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
    """The shares of calls that the first replica refuses, and that all attempts refuse."""
    rng = random.Random(1)
    replicas = nodes * CORES
    proxies = [Proxy(replicas, rng) for _ in range(nodes)]
    held = [0] * replicas
    ends: list[tuple[float, int, Proxy]] = []
    now, first, all_ = 0.0, 0, 0
    counted = range(ARRIVALS // 3, ARRIVALS)  # the first third is the ramp-up
    for arrival in range(ARRIVALS):
        now += rng.expovariate(replicas * CALLS_PER_REPLICA * load)  # calls last 1 in the mean
        while ends and ends[0][0] <= now:
            _, replica, proxy = heapq.heappop(ends)
            held[replica] -= 1
            proxy.note(replica, -1)
        for attempt in range(ATTEMPTS):
            proxy = rng.choice(proxies)
            if haproxy:
                replica = proxy.place()
            else:
                replica = min(rng.sample(range(replicas), 2), key=held.__getitem__)
            taken = held[replica] < CALLS_PER_REPLICA
            if haproxy:
                proxy.note(replica, int(taken))
            if taken:
                held[replica] += 1
                heapq.heappush(ends, (now + rng.expovariate(1.0), replica, proxy))
                break
            if arrival in counted:
                first += attempt == 0
                all_ += attempt == ATTEMPTS - 1
    return first / len(counted), all_ / len(counted)


def main() -> None:
    """Print the table."""
    print("refused by the first replica, and by all five attempts\n")
    print("| nodes | load | HAProxy | Ray's proxy |")
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
