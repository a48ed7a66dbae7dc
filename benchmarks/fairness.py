"""How callers share a budget that is too small: admissions by request size and clock skew.

    python benchmarks/fairness.py [--seconds 15]

Two machines, each a process of its own, share one account through a real Redis. A caller asks again
as soon as it is admitted, or after the reported wait where it is held back.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

WINDOW, TOKENS = 4.0, 24_000
LARGE, SMALL = 6_000, 300


async def machine(url: str, seconds: float, sizes: list[int]) -> dict[int, int]:
    """Run a caller for each request size; returns the admissions by size."""
    from mistral_service.scale.budget import SharedBudget
    from mistral_service.turn.shared_services import Rank, RequestEstimate
    from mistral_service.wire.errors import HeldBack

    budget = SharedBudget(url, tokens_per_minute=TOKENS, window=WINDOW)
    end, admitted = time.monotonic() + seconds, dict.fromkeys(sizes, 0)

    async def caller(size: int) -> None:
        while (left := end - time.monotonic()) > 0:
            try:
                await budget.acquire(RequestEstimate("account", "model", size, Rank.TURN))
            except HeldBack as e:
                await asyncio.sleep(min(e.retry_after or 0.0, left))
            else:
                admitted[size] += 1
                await asyncio.sleep(0.02)

    await asyncio.gather(*map(caller, sizes))
    await budget.close()
    return admitted


def child(skew: float, *arguments: object) -> subprocess.Popen[str]:
    """Start a machine whose clock is off by `skew` seconds."""
    code = (
        "import sys, time; real = time.time; skew = float(sys.argv[1]); "
        f"time.time = lambda: real() + skew; sys.path[:0] = {[str(Path(__file__).parent)]!r}; "
        "import fairness; fairness.in_child(*sys.argv[2:])"
    )
    command = [sys.executable, "-c", code, str(skew), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def in_child(url: str, seconds: str, sizes: str) -> None:
    import mistral_service.scale.budget  # noqa: F401  # loaded before all begin together
    from mistral_service.scale import shared_log

    shared_log._TIMEOUT_S = 10.0  # one that a busy machine holds up does not go by itself

    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asyncio.run(machine(url, float(seconds), json.loads(sizes)))))


async def use_up(url: str) -> None:
    """Use the whole budget of the window that begins now."""
    from mistral_service.scale.budget import SharedBudget
    from mistral_service.turn.shared_services import Rank, RequestEstimate

    budget = SharedBudget(url, tokens_per_minute=TOKENS, window=WINDOW)
    await budget.acquire(RequestEstimate("account", "model", TOKENS, Rank.TURN))
    await budget.close()


def together(
    seconds: float, *machines: tuple[float, list[int]], used_up: bool = False
) -> list[dict[str, int]]:
    """Run machines with their clocks and callers; returns the admissions of each, by size.

    With `used_up` they begin in a window in which nothing is left, and so all wait from the start,
    whichever machine is the first to ask.
    """
    from scale_redis import RedisServer

    with RedisServer() as redis:
        children = [child(skew, redis.url, seconds, sizes) for skew, sizes in machines]
        for each in children:
            assert each.stdout is not None
            each.stdout.readline()
        if used_up:
            asyncio.run(use_up(redis.url))
        for each in children:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        return [json.loads(each.communicate(timeout=seconds + 60)[0]) for each in children]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0)
    seconds = parser.parse_args().seconds
    print(f"{TOKENS} tokens in {WINDOW:g} s, for {seconds:g} s; admissions by size of the request")
    sizes = [LARGE] * 2 + [SMALL] * 4
    print("by size, four large callers and eight small:", together(seconds, (0, sizes), (0, sizes)))
    for skew in (5, -5, 3600, -3600):
        admitted = together(seconds, (0, [1_000] * 6), (skew, [1_000] * 6))
        print(f"a clock right, and one {skew:+} s off, six callers each:", admitted)


if __name__ == "__main__":
    main()
