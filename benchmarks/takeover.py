"""What a taken-up call costs: CPU of the machine that takes calls over, beside that of new calls.

Two machines (processes), Redis and a model on loopback. Some calls begin on one machine, which is
then killed in mid-sentence; their callers come back to the other. The CPU of that machine is taken
from the kill until every call speaks again. New calls on the same machine are the floor: most of it
is Pipecat, which builds a pipeline for each call.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from callers import Caller, Heard  # noqa: E402
from cluster import wait_for  # noqa: E402
from cryptography.fernet import Fernet  # noqa: E402
from ingress_process import serve  # noqa: E402
from ports import free_port  # noqa: E402

WORD_S = 0.8
"""Seconds between the words of a reply, as in `make test-scale`."""
SPEAKS_S = 3.0
"""Seconds after which every call has begun to speak."""


def is_up(port: int) -> None:
    """Wait until something listens on a port."""
    wait_for(lambda: socket.create_connection(("127.0.0.1", port), 1), 60, str(port)).close()


def cpu(process: multiprocessing.Process) -> float:
    """CPU seconds that a process has used."""
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


async def measure(calls: int, machines: list[tuple[multiprocessing.Process, str]]) -> list[float]:
    """CPU milliseconds for a call that is taken up, for a new one; seconds of the last takeover."""
    (first, first_url), (second, second_url) = machines
    await asyncio.gather(*(Caller(second_url, 900 + n, turns=1, words=3).call() for n in range(3)))

    async def begin(url: str, number: int) -> tuple[list[Caller], list[asyncio.Task[None]]]:
        callers = [Caller(url, number + n, turns=1, words=16, patience=30) for n in range(calls)]
        return callers, [asyncio.create_task(caller.call()) for caller in callers]

    before = cpu(second)
    _, tasks = await begin(second_url, 500)
    await asyncio.sleep(SPEAKS_S)
    new = cpu(second) - before
    await asyncio.gather(*tasks)

    callers, tasks = await begin(first_url, 1)
    await asyncio.sleep(SPEAKS_S)
    before = cpu(second)
    for caller in callers:
        caller.url = second_url
    first.kill()
    await asyncio.sleep(SPEAKS_S)
    taken_up = cpu(second) - before
    await asyncio.gather(*tasks)
    heard = Heard(callers)
    assert not heard.lost, heard.lost
    assert not heard.wrong, heard.wrong
    assert len(heard.taken_up) == calls
    return [taken_up / calls * 1e3, new / calls * 1e3, heard.taken_up[-1]]


def run(calls: int) -> list[float]:
    """One measurement, with everything started and ended for it."""
    redis_port, model_port, *ports = (free_port() for _ in range(4))
    with tempfile.TemporaryDirectory() as folder:
        book = Path(folder) / "book"
        book.touch()
        environment = {
            "MISTRAL_API_KEY": "any",
            "MISTRAL_BASE_URL": f"http://127.0.0.1:{model_port}/v1",
            "BOOK_FILE": str(book),
            "BOOK_SECONDS": "0.5",
            "CALL_KEYS": Fernet.generate_key().decode(),
        }
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        redis = ["redis-server", "--port", str(redis_port), "--save", "", "--dir", folder]
        model = [sys.executable, str(ROOT / "tests/support/counting.py"), "--port", str(model_port)]
        servers = [
            subprocess.Popen(redis, **quiet),
            subprocess.Popen(
                [*model, "--pause", str(WORD_S)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                **quiet,
            ),
        ]
        spawn = multiprocessing.get_context("spawn")
        address = f"redis://127.0.0.1:{redis_port}/0"
        machines = [
            spawn.Process(
                target=serve, args=(port, address, environment, f"{folder}/{port}.log"), daemon=True
            )
            for port in ports
        ]
        try:
            for machine in machines:
                machine.start()
            for port in (redis_port, model_port, *ports):
                is_up(port)
            urls = [f"ws://127.0.0.1:{port}/call" for port in ports]
            return asyncio.run(measure(calls, list(zip(machines, urls, strict=True))))
        finally:
            for process in (*machines, *servers):
                process.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=40, help="(default: 40)")
    parser.add_argument("--times", type=int, default=5, help="(default: 5)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run(given.calls)))
    else:
        command = [sys.executable, __file__, "--one", "--calls", str(given.calls)]
        taken = [
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(given.times)
        ]
        taken_up, new, slowest = (statistics.median(column) for column in zip(*taken, strict=True))
        print("| CPU of the machine, for one call | ms |\n|---|---|")
        print(f"| taken up, until it speaks again | {taken_up:.1f} |")
        print(f"| new, until it speaks | {new:.1f} |\n")
        print(f"{given.calls} calls at once: the last is taken up after {slowest:.2f} s")
