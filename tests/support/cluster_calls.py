"""Many calls at once on a cluster, and what is expected of them at their end."""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable

from callers import COMES, Caller, Heard
from cluster import Cluster

RECONNECTS_WITHIN = 2.0


async def hold(
    cluster: Cluster,
    count: int,
    happens: Callable[[], Awaitable[object]] | None = None,
    *,
    turns: int = 3,
    words: int = 16,
    after: float = 7.0,
    over: float = 6.0,
    patience: float = COMES,
) -> Heard:
    """Hold so many calls; while they are all speaking, something happens."""
    before = len(cluster.booked())
    callers = [
        Caller(cluster.url, n, turns=turns, words=words, patience=patience)
        for n in range(1, count + 1)
    ]

    async def one(caller: Caller) -> None:
        await asyncio.sleep(over * caller.number / count)
        await caller.call()

    calls = [asyncio.create_task(one(caller)) for caller in callers]
    if happens is not None:
        await asyncio.sleep(after)
        await happens()
    await asyncio.gather(*calls)
    heard = Heard(callers)
    heard.booked = cluster.booked()[before:]
    away = heard.taken_up
    print(
        f"\n{count} calls, {count * turns} turns: {len(heard.lost)} calls lost, "
        f"{len(heard.wrong)} turns not whole, {len(heard.booked)} functions run, "
        f"{len(away)} calls taken up"
        + (f" after {away[-1]:.2f} s at most" if away else "")
        + f", first word {_percentile(heard.first_words, 50):.2f} s, "
        f"p99 {_percentile(heard.first_words, 99):.2f} s"
    )
    for turn in heard.wrong[:5]:
        print("   ", turn)
    return heard


def _percentile(values: list[float], percent: float) -> float:
    return values[min(len(values) - 1, math.floor(len(values) * percent / 100))] if values else 0.0


def nothing_is_lost(heard: Heard, *, within: float = RECONNECTS_WITHIN) -> None:
    """Every call was held to its end, every word heard once, every function run once."""
    assert heard.lost == []
    assert heard.wrong == []
    twice = [call for call, times in Counter(heard.booked).items() if times > 1]
    assert twice == []
    assert all(seconds < within for seconds in heard.taken_up), heard.taken_up
