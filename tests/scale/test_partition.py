"""A function runs once, whatever breaks between the machines, Redis and the caller."""

import asyncio

import pytest
from partition import OTHER, Lane, Outcome, Trouble, lanes, troubles_of

pytestmark = pytest.mark.timeout(300)

AT_ONCE, LONG = 0.1, 6.0
CASES = {
    "nothing breaks": [],
    "only Redis is silent: the client keeps the note": [Trouble("redis", AT_ONCE, LONG)],
    "only Redis is slow": [Trouble("slow", AT_ONCE, LONG)],
    "Redis is silent for both": [
        Trouble("redis", AT_ONCE, LONG),
        Trouble(OTHER, AT_ONCE, LONG),
        Trouble("line", AT_ONCE, LONG),
    ],
    "Redis and the line are silent: the next machine books": [
        Trouble("redis", AT_ONCE, LONG),
        Trouble("line", AT_ONCE, LONG),
    ],
    "what the machine sends is lost": [
        Trouble("redis there", AT_ONCE, LONG),
        Trouble("line back", AT_ONCE, LONG),
    ],
    "what the machine should get is lost": [
        Trouble("redis back", AT_ONCE, LONG),
        Trouble("line there", AT_ONCE, LONG),
    ],
    "Redis is slow and the line silent": [
        Trouble("slow", AT_ONCE, LONG),
        Trouble("line", AT_ONCE, LONG),
    ],
    "Redis is away, and the machine dies once the function has run": [
        Trouble("redis", AT_ONCE, LONG),
        Trouble("kill", 1.4, LONG),
    ],
    "Redis is away, and the machine sleeps": [
        Trouble("redis", AT_ONCE, LONG),
        Trouble("pause", 0.7, LONG),
    ],
}
# Each ran twice where a function started without a note.
SEEDS = (10, 34, 35, 48)


async def test_no_function_runs_twice_and_no_caller_is_left_in_silence():
    runs = [(1000 + n, troubles) for n, troubles in enumerate(CASES.values())]
    waiting = iter([*runs, *((seed, troubles_of(seed)) for seed in SEEDS)])
    outcomes: list[Outcome] = []

    async def drive(lane: Lane) -> None:
        for number, troubles in waiting:
            outcomes.append(await lane.run(number, troubles))

    async with lanes(4) as (pairs, _):
        await asyncio.gather(*map(drive, pairs))
    assert len(outcomes) == len(CASES) + len(SEEDS)
    assert [outcome for outcome in outcomes if outcome.runs > 1] == []
    assert [outcome for outcome in outcomes if outcome.kind in ("silence", "call lost")] == []
    assert [(outcome.wrong, outcome) for outcome in outcomes if outcome.wrong] == []
    assert any(outcome.moved for outcome in outcomes)
    assert sum(outcome.runs for outcome in outcomes) > 0
