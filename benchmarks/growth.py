"""How the cost of a turn grows with the history, and the memory of a call with its turns.

CPU from a context to the first byte of its request, for histories of up to 2,000 messages with 20
images, ours and Pipecat's own; then one call of many turns in the pipeline of `pipeline.py`, with
all that it says in its context.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time

from pipeline import call
from speed import measured, server

LENGTHS, IMAGES = (50, 250, 500, 1000, 2000), 20
TURNS = (10, 100, 250, 500, 1000)


def history_table(times: int) -> None:
    """CPU to the first byte by the length of the history."""
    print(f"| messages, {IMAGES} images among them | ours (ms) | Pipecat's own (ms) | ratio |")
    print("|---|---|---|---|")
    with server(tokens=1) as base_url:
        for length in LENGTHS:
            taken = [
                [
                    measured("cpu_to_first_byte", who, base_url, length, IMAGES)
                    for who in ("ours", "theirs")
                ]
                for _ in range(times)
            ]
            ours, theirs = map(statistics.median, zip(*taken, strict=True))
            ratio = statistics.median(a / b for a, b in taken)
            print(f"| {length} | {ours:.1f} | {theirs:.1f} | {ratio:.2f}× |", flush=True)


async def long_call(who: str, base_url: str) -> None:
    """Print the memory of a call, and CPU for a turn, after so many turns."""
    import gc

    import psutil

    async with call(who, base_url) as voice:
        await voice.turn()
        gc.collect()
        before, done = psutil.Process().memory_info().rss, 1
        for turns in TURNS:
            cpu = time.process_time()
            for _ in range(turns - done):
                await voice.turn()
            cpu = (time.process_time() - cpu) / (turns - done) * 1e3
            gc.collect()
            grown = (psutil.Process().memory_info().rss - before) / 2**20
            done = turns
            print(turns, f"{grown:.1f}", f"{cpu:.1f}", flush=True)


def call_table() -> None:
    """Memory and CPU of a long call."""
    print(
        "| turns | memory, ours (MB) | Pipecat's own | CPU for a turn, ours (ms) | Pipecat's own |"
    )
    print("|---|---|---|---|---|")
    printed: list[list[str]] = []
    with server(tokens=20, text="sentences", rate=100_000) as base_url:
        for who in ("clause", "theirs"):
            command = [sys.executable, __file__, "--one", who, base_url]
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            printed.append(ran.stdout.splitlines()[-len(TURNS) :])
    for ours, theirs in zip(*printed, strict=True):
        turns, memory, cpu = ours.split()
        _, their_memory, their_cpu = theirs.split()
        print(f"| {turns} | {memory} | {their_memory} | {cpu} | {their_cpu} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="runs of each history (default: 3)")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        asyncio.run(long_call(*given.one))
    else:
        history_table(given.times)
        print()
        call_table()
