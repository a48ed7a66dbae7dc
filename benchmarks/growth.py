"""How the costs grow: with the history, with the turns of a call, with the calls of a process.

CPU from a context to the first byte of its request, for histories of up to 2,000 messages with 20
images; memory and CPU of one call of 1,000 turns, with all that it says in its context; the delay
of a sentence's end with 1 to 500 calls on one core. The last two run the pipeline of `pipeline.py`.
Ours and Pipecat's own, as tables and as a chart.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pipeline
import speed
from speed import server

LENGTHS, IMAGES = (50, 250, 500, 1000, 2000), 20
TURNS = (10, 100, 250, 500, 1000)
CALLS = (1, 8, 16, 24, 32, 48, 64, 80, 96, 128, 192, 256, 384, 500)
LATE_MS = 2000.0
"""Milliseconds of delay at which more calls say nothing new."""
WHO = ("ours", "theirs")
NAMES = {"ours": "ours", "theirs": "Pipecat's own"}

Curve = dict[int, float]


def history(times: int) -> dict[str, Curve]:
    """CPU to the first byte (ms) by the messages of the history."""
    found: dict[str, Curve] = {who: {} for who in WHO}
    print(f"| messages, {IMAGES} images among them | ours (ms) | Pipecat's own (ms) | ratio |")
    print("|---|---|---|---|")
    with server(tokens=1) as base_url:
        for length in LENGTHS:
            taken = [
                [speed.measured("cpu_to_first_byte", who, base_url, length, IMAGES) for who in WHO]
                for _ in range(times)
            ]
            ours, theirs = map(statistics.median, zip(*taken, strict=True))
            found["ours"][length], found["theirs"][length] = ours, theirs
            ratio = statistics.median(a / b for a, b in taken)
            print(f"| {length} | {ours:.1f} | {theirs:.1f} | {ratio:.2f}× |", flush=True)
    return found


async def long_call(who: str, base_url: str) -> None:
    """Print the memory of a call, and CPU for a turn, after so many turns."""
    import gc

    import psutil

    async with pipeline.call(who, base_url) as voice:
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
            print(turns, f"{grown:.2f}", f"{cpu:.2f}", flush=True)


def turns() -> dict[str, Curve]:
    """CPU of a turn (ms) by the turns before it, in one long call; prints its memory as well."""
    found: dict[str, Curve] = {who: {} for who in WHO}
    memory: dict[str, Curve] = {who: {} for who in WHO}
    with server(tokens=20, text="sentences", rate=100_000) as base_url:
        for who in WHO:
            command = [sys.executable, __file__, "--one", who.replace("ours", "clause"), base_url]
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            for line in ran.stdout.splitlines()[-len(TURNS) :]:
                at, grown, cpu = line.split()
                memory[who][int(at)], found[who][int(at)] = float(grown), float(cpu)
    print(
        "| turns | memory, ours (MB) | Pipecat's own | CPU for a turn, ours (ms) | Pipecat's own |"
    )
    print("|---|---|---|---|---|")
    for at in TURNS:
        row = [f"{each[who][at]:.1f}" for each in (memory, found) for who in WHO]
        print(f"| {at:,} | {' | '.join(row)} |", flush=True)
    return found


def calls() -> dict[str, Curve]:
    """The delay of a sentence's end (ms, p99) by the calls on one core; the least of three runs."""
    found: dict[str, Curve] = {who: {} for who in WHO}
    with server(tokens=pipeline.TOKENS, rate=pipeline.RATE, text="sentences") as base_url:

        def delay(who: str, count: int) -> float:
            name = who.replace("ours", "clause")
            delays: list[float] = []
            while len(delays) < 3 and min(delays, default=speed.DELAYED) >= speed.DELAYED:
                [[p99, _]] = pipeline.measured("sentence_delay", base_url, count, who=[name])
                delays.append(p99)
                if p99 > LATE_MS:
                    break
            return min(delays)

        for who in WHO:
            for count in CALLS:
                found[who][count] = delay(who, count)
                if found[who][count] > LATE_MS:
                    break
    print("| calls on one core | p99 of the delay, ours (ms) | Pipecat's own (ms) |\n|---|---|---|")
    for count in CALLS:
        row = [f"{found[who][count]:.1f}" if count in found[who] else "–" for who in WHO]
        if row != ["–", "–"]:
            print(f"| {count} | {' | '.join(row)} |", flush=True)
    return found


def plot(path: Path, *found: dict[str, Curve]) -> None:
    """Draw the curves."""
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "axes.grid": True})
    figure, all_axes = pyplot.subplots(1, 3, figsize=(11, 3.2))
    colours = {"ours": "#fa5111", "theirs": "#8a8f98"}
    titles = (
        ("CPU to the first byte", f"messages ({IMAGES} images among them)"),
        ("CPU for a turn", "turns of the call so far"),
        ("Delay of a sentence's end, p99", "calls on one core"),
    )
    for axes, (title, label), curves in zip(all_axes, titles, found, strict=True):
        for who in WHO:
            style = {"color": colours[who], "label": NAMES[who], "marker": "o", "markersize": 3}
            axes.plot(list(curves[who]), list(curves[who].values()), **style)
        axes.set(title=title, xlabel=label, ylabel="ms")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    all_axes[-1].set(xscale="log", yscale="log", ylim=(0.5, None))
    all_axes[-1].axhline(speed.DELAYED, color="#444", linewidth=0.8, linestyle=":")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="runs of each history (default: 3)")
    parser.add_argument("--plot", type=Path, help="draw the curves, into this file")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        asyncio.run(long_call(*given.one))
    else:
        parts: tuple[Callable[[], dict[str, Curve]], ...]
        parts = (lambda: history(given.times), turns, calls)
        found = []
        for part in parts:
            found.append(part())
            print()
        if given.plot:
            plot(given.plot, *found)
