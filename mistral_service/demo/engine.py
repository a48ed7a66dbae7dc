"""Who answers: Mistral's API, or a small model in a process of its own."""

import collections
import os
import re
import secrets
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from mistral_service.demo import DemoError
from mistral_service.local.__main__ import API_KEY_VARIABLE
from mistral_service.wire.access import DEFAULT_BASE_URL
from mistral_service.wire.models import DEFAULT_MODEL

LOCAL_LINE = "the local model, small and offline: it shows the plumbing, not the wisdom"

READY_POLL_S = 0.1
STOP_TIMEOUT_S = 2.0
_LISTENS = re.compile(r"Mistral endpoint: http://127\.0\.0\.1:(\d+)/v1$")
"""What the child says as soon as it has a port."""


@dataclass(frozen=True)
class Engine:
    """Which engine answers, as the terminal and the page say it."""

    local: bool
    line: str
    model: str


def choose(environ: Mapping[str, str], model: Path | None) -> Engine:
    """Mistral's API if there is a key, otherwise the local model; a named file always wins."""
    if model is None and environ.get("MISTRAL_API_KEY"):
        address = environ.get("MISTRAL_BASE_URL") or DEFAULT_BASE_URL
        host = urlsplit(address).hostname or address
        name = environ.get("MISTRAL_MODEL") or DEFAULT_MODEL
        where = "Mistral's API" if host == "api.mistral.ai" else f"the endpoint at {host}"
        return Engine(local=False, line=f"{where}, model {name}", model=name)
    name = model.stem if model else "SmolLM2 135M Instruct"
    return Engine(local=True, line=LOCAL_LINE, model=name)


class LocalEngine:
    """`python -m mistral_service.demo.endpoint`, the strict endpoint with a model, as a child.

    Use as a context manager: the child ends with the block, or with this process.
    """

    def __init__(
        self,
        model: Path,
        verbose: bool = False,
        api_key: str | None = None,
        *,
        scripted_calls: bool = True,
    ) -> None:
        """Start loading a GGUF file.

        By default the one right key is a new one that begins with `local`. What the child says is
        passed on to stderr if `verbose`. `scripted_calls` are for a model that cannot call.
        """
        self.api_key = api_key or f"local-{secrets.token_urlsafe(16)}"
        self._port = 0  # the child chooses one, and says which
        self._verbose = verbose
        self._said: collections.deque[str] = collections.deque(maxlen=20)
        environ = {key: value for key, value in os.environ.items() if key != "MISTRAL_API_KEY"}
        environ[API_KEY_VARIABLE] = self.api_key
        # The child reads a pipe that nothing is written to. It ends with this process, so the child
        # ends too, even where this one is killed and can end nothing itself.
        options = ["--port", "0", "--model", str(model)]
        options += ["--scripted-calls"] if scripted_calls else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mistral_service.demo.endpoint", *options],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert self._process.stdout is not None  # noqa: S101
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), daemon=True
        )
        self._reader.start()

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()

    @property
    def base_url(self) -> str:
        """Where the endpoint answers, as `MISTRAL_BASE_URL` wants it; known once it is ready."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def faults_url(self) -> str:
        """Where faults are asked for; known once it is ready."""
        return f"http://127.0.0.1:{self._port}/faults"

    def wait_until_ready(self, waiting: Callable[[], None]) -> None:
        """Return once the endpoint answers, calling `waiting` after every second of waiting.

        Raises:
            DemoError: If the child ended instead, with the last thing that it said.
        """
        next_call = time.monotonic() + 1
        while not self._answers():
            if self._process.poll() is not None:
                self._reader.join(1)
                said = [line for line in self._said if line.strip()]
                raise DemoError(said[-1] if said else "The local engine ended without a word.")
            if time.monotonic() >= next_call:
                next_call += 1
                waiting()
            time.sleep(READY_POLL_S)

    def _answers(self) -> bool:
        if not self._port:
            return False
        request = urllib.request.Request(
            f"{self.base_url}/models", headers={"Authorization": f"Bearer {self.api_key}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=2) as response:
                return response.status == 200
        except OSError:
            return False

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            if found := _LISTENS.match(line):
                self._port = int(found[1])
            else:
                self._said.append(line.strip())
            if self._verbose:
                print(line, end="", file=sys.stderr)
