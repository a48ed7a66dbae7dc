"""A cluster of two nodes, Redis and the model, all of it processes of this machine.

Every process is started here and ended here, by its id. What a node starts belongs to it: a node
that is killed takes its replicas with it, as a machine would.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from ports import free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait until something is true."""
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if found := condition():
                return found
        assert time.monotonic() < until, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.1)


def kill(process: psutil.Process | subprocess.Popen[Any]) -> None:
    """Kill a process and all that it started, at once, as a machine dies."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, 10)


class Cluster:
    """Redis, a model and two nodes of Ray, from `start()` to `stop()`."""

    def __init__(self, seconds_per_word: float = 0.4, **environment: str) -> None:
        """Prepare it.

        Args:
            seconds_per_word: How fast the model speaks; a voice has 150 words a minute.
            **environment: What else stands in the environment of its nodes.
        """
        self.seconds_per_word = seconds_per_word
        self.folder = Path(tempfile.mkdtemp(prefix="calls-"))
        self.redis_port, self.mistral_port, self.http_port = free_port(), free_port(), free_port()
        self.address = f"127.0.0.1:{free_port()}"
        self.book = self.folder / "book"
        self.book.touch()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("MISTRAL", "REDIS"))},
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_prestart_worker_first_driver": "0",
            # A busy machine takes longer than Ray waits for its own processes: 60 s, 30 s and 60 s.
            "RAY_gcs_server_request_timeout_seconds": "240",
            "RAY_raylet_start_wait_time_s": "240",
            "RAY_worker_register_timeout_seconds": "240",
            "MISTRAL_API_KEY": "a-key-that-nobody-may-see",
            "MISTRAL_BASE_URL": f"http://127.0.0.1:{self.mistral_port}/v1",
            "REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "BOOK_FILE": str(self.book),
            "BOOK_SECONDS": "0.5",
            **environment,
        }

    # --- what it is made of ---------------------------------------------------------------------

    def start(self, nodes: int = 2) -> None:
        """Start all of it; the second node arrives a little later."""
        self.start_redis()
        self._run(
            "mistral",
            [sys.executable, str(HERE / "counting.py"), "--port", str(self.mistral_port)]
            + ["--pause", str(self.seconds_per_word)],
        )
        self._run_ray(
            "head",
            ["--head", "--node-ip-address=127.0.0.1", f"--port={self.address.split(':')[1]}"]
            + ["--include-dashboard=false", f"--temp-dir={self.folder / 'ray'}"],
        )
        if nodes > 1:
            self.start_node()

    def start_redis(self) -> None:
        """Start Redis, without a memory of what was before."""
        self._run(
            "redis",
            ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1"]
            + ["--save", "", "--appendonly", "no", "--dir", str(self.folder)],
        )
        wait_for(
            lambda: socket.create_connection(("127.0.0.1", self.redis_port), 1), 10, "Redis"
        ).close()

    def start_node(self) -> None:
        """Start the second node."""
        self._run_ray("node", [f"--address={self.address}"])

    def kill(self, name: str) -> None:
        """Kill one of `redis`, `mistral`, `node`, `head`, with all that it has started."""
        kill(self.processes.pop(name))

    def stop(self) -> None:
        """End everything."""
        for name in ("node", "head", "mistral", "redis"):
            if name in self.processes:
                self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run_ray(self, name: str, options: list[str]) -> None:
        """Run a node of Ray, and wait until it has joined the cluster."""
        ray = shutil.which("ray", path=self.env["PATH"])
        assert ray, "ray is not installed"
        log = self.folder / f"{name}.log"

        def settled() -> bool:
            ended = self.processes[name].poll() is not None
            return ended or b"--block" in log.read_bytes()

        self._run(
            name,
            [ray, "start", *options, "--num-cpus=2", "--disable-usage-stats", "--block"],
        )
        wait_for(settled, 300, name)
        if self.processes[name].poll() is not None:
            self.kill(name)
            raise AssertionError(f"Ray has not started: {log.read_text()}")

    def _run(self, name: str, command: list[str]) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            command,
            env=self.env,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    # --- the calls ------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where calls are taken."""
        return f"ws://127.0.0.1:{self.http_port}/call"

    def deploy(self, name: str = "calls", **options: Any) -> None:
        """Deploy the calls, or another version of them, and wait until they are taken."""
        self.driver("deploy", str(self.http_port), repr(options))
        wait_for(
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/healthz", timeout=2),
            180,
            "the calls to be taken",
        )

    def limits(self, **change: int | None) -> dict[str, int | None]:
        """Change the model's rate limits, if any are given; returns what they are."""
        url = f"http://127.0.0.1:{self.mistral_port}/limits"
        key = {"Authorization": "Bearer any"}
        if change:
            body = json.dumps(change).encode()
            urllib.request.urlopen(urllib.request.Request(url, body, key, method="PUT"), timeout=10)
        return json.load(
            urllib.request.urlopen(urllib.request.Request(url, headers=key), timeout=10)
        )

    def driver(self, *arguments: str) -> str:
        """Run `driver.py` beside the cluster, and get what it prints."""
        done = subprocess.run(
            [sys.executable, str(HERE / "driver.py"), self.address, *arguments],
            env=self.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def replicas(self) -> list[psutil.Process]:
        """The processes that hold calls."""
        return [
            child
            for name in ("head", "node")
            if name in self.processes
            for child in psutil.Process(self.processes[name].pid).children(recursive=True)
            if "ServeReplica" in " ".join(_command(child))
        ]

    def booked(self) -> list[str]:
        """A line for every time that the function ran."""
        return self.book.read_text().splitlines()


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []
