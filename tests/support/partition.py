"""Two machines, a caller, and everything between them that can break: does a function run once?

Each run holds one call. Its caller asks for a table, and at random moments the machine loses Redis
(both directions, or one), Redis is slow, the caller's line is cut in silence, or the machine is
paused or killed. Every booking is a line in a file, so that what runs twice stands there twice.

    python tests/support/partition.py --runs 200
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ingress_process
from callers import Caller, Turn
from counting import NOT_RUN, word
from cryptography.fernet import Fernet
from ports import free_port
from scale_redis import RedisServer
from tcp_relay import Wire
from waiting import until

ROOT = Path(__file__).parents[2]

# A process that has imported all of it is the parent of all machines: one that was killed is back
# at once.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["ingress_process"])

NOTICED_AFTER = 2.0
"""Seconds of silence after which a caller takes the machine for gone."""
GIVES_UP = 25.0
KINDS = ("redis", "redis there", "redis back", "slow", "line", "line there", "line back", "pause")
SPARE = ("kill",)
OTHER = "other redis"


@dataclass(frozen=True)
class Trouble:
    """What happens to the machine that has the call.

    Parameters:
        kind: One of `KINDS`, `kill`, or `OTHER`: the second machine's Redis is silent too.
        after: Seconds after the caller has asked.
        lasts: Seconds until it is over.
    """

    kind: str
    after: float
    lasts: float


@dataclass
class Outcome:
    """What came of a call.

    Parameters:
        troubles: What happened.
        runs: How often the function ran.
        heard: The words that the caller heard.
        errors: The errors that were reported.
        lost: Why the call was lost; None if it was not.
        moved: How often it was taken over.
    """

    troubles: Sequence[Trouble]
    runs: int
    heard: str
    errors: Sequence[str]
    lost: str | None
    moved: int

    @property
    def kind(self) -> str:
        """The outcome in a word."""
        if self.lost:
            return "call lost"
        if "booked" in self.heard:
            return "booked"
        if "unsure" + NOT_RUN in self.heard:
            return "told that it did not run"
        return "told unsure" if "unsure" in self.heard else "error" if self.errors else "silence"

    @property
    def wrong(self) -> str | None:
        """What may not come of a call, whatever happens; None if all is well."""
        kinds = {trouble.kind for trouble in self.troubles}
        redis = {kind for kind in kinds if "redis" in kind or kind == "slow"}
        if self.runs > 1:
            return "ran twice"
        if self.kind in ("silence", "call lost"):
            return self.kind
        if self.kind == "booked" and self.runs != 1:
            return "said to have run, and did not"
        if self.kind == "told that it did not run" and (self.runs or not redis):
            return "ran, and was said not to have" if self.runs else "refused without a reason"
        # Redis alone is no reason: the client is there, and keeps the note.
        return "did not run" if kinds == redis and not self.runs else None


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Have the parent of all machines, which starts with the first, find what it imports."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class Machine:
    """A process that takes calls, and its wire to Redis."""

    def __init__(self, redis: int, environment: dict[str, str], log: Path) -> None:
        self.port = free_port()
        self.redis = Wire(redis)
        self._environment = environment
        self._log = log
        self._process: Any = None

    async def start(self) -> None:
        """Start the process; returns when it takes calls."""
        if not self.redis.port:
            await self.redis.__aenter__()
        url = f"redis://127.0.0.1:{self.redis.port}/0"
        given = (self.port, url, self._environment, str(self._log))
        self._process = _FORKS.Process(target=ingress_process.serve, args=given, daemon=True)
        with _importable():
            self._process.start()
        deadline = time.monotonic() + 90
        while True:
            assert time.monotonic() < deadline, "a machine did not start"
            assert self._process.is_alive(), "a machine ended at once"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            await asyncio.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        os.kill(self._process.pid, number)

    async def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join(10)
            self._process = None

    async def aclose(self) -> None:
        """End the process and its wire."""
        await self.stop()
        await self.redis.__aexit__(None, None, None)


class Lane:
    """Two machines that take one call at a time."""

    def __init__(self, first: Machine, second: Machine, book: Path) -> None:
        self._first, self._second, self._book = first, second, book

    async def run(self, number: int, troubles: Sequence[Trouble]) -> Outcome:
        """Hold one call while all of it happens.

        Args:
            number: The caller's number, which no other call of the book has.
            troubles: What happens to the first machine.
        """
        first, second = self._first, self._second
        async with Wire(first.port) as line, Wire(second.port) as other:
            caller = Caller(f"ws://127.0.0.1:{line.port}/call", number, patience=NOTICED_AFTER)
            day = f"c{number}t3"
            caller.turns = [
                Turn(f"Caller {number}, turn 1: count to 2.", [word(number, 1, n) for n in (1, 2)]),
                Turn(f"Caller {number}, turn 3: book a table.", [word(number, 3, 1), "booked"]),
            ]
            caller.turn = caller.turns[0]
            calling = asyncio.create_task(caller.call(between=0.1))
            await until(lambda: caller.turn is caller.turns[1] or calling.done(), 60)
            caller.url = f"ws://127.0.0.1:{other.port}/call"  # who calls again gets the other one
            happening = [
                asyncio.create_task(self._happens(t, second if t.kind == OTHER else first, line))
                for t in troubles
            ]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(calling, GIVES_UP)
            # What the first machine still does is seen too.
            await asyncio.gather(*happening)
            line.heal()
            first.redis.heal()
            second.redis.heal()
            await asyncio.sleep(1.0)
        runs = sum(line.split()[1] == day for line in self._book.read_text().splitlines())
        turn = caller.turns[1]
        moved = max(0, len(caller.taken_up))
        return Outcome(troubles, runs, turn.heard, turn.errors, caller.lost, moved)

    async def _happens(self, trouble: Trouble, machine: Machine, line: Wire) -> None:
        await asyncio.sleep(trouble.after)
        what, *directions = trouble.kind.removeprefix("other ").split()
        match what:
            case "redis":
                machine.redis.cut(*directions)
            case "slow":
                machine.redis.slow(0.5)
            case "line":
                line.cut(*directions)
            case "pause":
                machine.signal(signal.SIGSTOP)
            case _:
                await machine.stop()
        await asyncio.sleep(trouble.lasts)
        match what:
            case "redis" | "slow":
                machine.redis.heal()
            case "line":
                line.heal()
            case "pause":
                machine.signal(signal.SIGCONT)
            case _:
                await machine.start()


def troubles_of(seed: int) -> list[Trouble]:
    """What happens in the run of a seed: one to three things, perhaps one to the other machine."""
    dice = random.Random(seed)
    kinds = dice.sample(KINDS, dice.choice((1, 1, 2, 2, 3)))
    if dice.random() < 0.15:
        kinds = [*(kind for kind in kinds if kind != "pause"), *SPARE]
    troubles = [Trouble(k, dice.uniform(0.0, 1.2), dice.uniform(1.5, 6.0)) for k in kinds]
    if dice.random() < 0.2:
        troubles.append(Trouble(OTHER, dice.uniform(0.0, 1.2), dice.uniform(1.5, 6.0)))
    return troubles


@contextlib.asynccontextmanager
async def lanes(count: int) -> AsyncIterator[tuple[list[Lane], RedisServer]]:
    """Pairs of machines with one Redis, the model that counts, and one book of tables."""
    with tempfile.TemporaryDirectory() as folder, RedisServer() as redis:
        book = Path(folder) / "book"
        book.touch()
        model = free_port()
        counting = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ROOT / "tests/support/counting.py")),
            *("--port", str(model), "--pause", "0.02", "--first", "0.8"),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        environment = {
            "MISTRAL_API_KEY": "k",
            "MISTRAL_BASE_URL": f"http://127.0.0.1:{model}/v1",
            "MISTRAL_SERVICE_KEEP_KEY": Fernet.generate_key().decode(),
            "BOOK_FILE": str(book),
        }
        machines = [
            Machine(redis.port, environment, Path(folder) / f"log-{n}") for n in range(2 * count)
        ]
        try:
            await asyncio.gather(*(machine.start() for machine in machines))
            pairs = zip(machines[::2], machines[1::2], strict=True)
            yield [Lane(one, two, book) for one, two in pairs], redis
        finally:
            for machine in machines:
                await machine.aclose()
            counting.kill()
            await counting.wait()


async def main(runs: int, seed: int, width: int) -> int:
    """Hold the calls, print what came of them; returns how many went wrong."""
    outcomes: list[tuple[int, Outcome]] = []
    async with lanes(width) as (pairs, _):
        seeds = iter(range(seed, seed + runs))

        async def drive(lane: Lane) -> None:
            for number in seeds:
                outcome = await lane.run(number, troubles_of(number))
                outcomes.append((number, outcome))
                if outcome.wrong:
                    print(number, outcome.wrong, outcome, flush=True)

        await asyncio.gather(*map(drive, pairs))
    twice = sum(outcome.runs > 1 for _, outcome in outcomes)
    kinds = Counter(outcome.kind for _, outcome in outcomes)
    moved = sum(outcome.moved for _, outcome in outcomes)
    ran = sum(outcome.runs == 1 for _, outcome in outcomes)
    print(f"{len(outcomes)} calls, {moved} takeovers; the function ran once in {ran}, ", end="")
    wrong = Counter(outcome.wrong for _, outcome in outcomes if outcome.wrong)
    print(f"twice in {twice}; heard: {dict(kinds)}; wrong: {dict(wrong)}")
    return sum(wrong.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=4)
    given = parser.parse_args()
    sys.exit(bool(asyncio.run(main(given.runs, given.seed, given.lanes))))
