"""Servers to attack on this machine, and requests as no well-behaved client sends them."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from mistral_service.local.server import bind


@contextmanager
def listening(server: uvicorn.Server) -> Iterator[int]:
    """Run a server in a thread; yields its port."""
    sock = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@dataclass
class Answer:
    """What came back: the status (0 for none), the headers in lower case, the body."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def sentence(self) -> str:
        """The sentence of a refusal."""
        return json.loads(self.body)["detail"]


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | str | dict | list = b"",
    headers: list[tuple[str, str]] | Mapping[str, str] = (),
    version: str = "1.1",
) -> Answer:
    """Send one request, headers as they are given: two of a name, or none that is needed."""
    data = body if isinstance(body, bytes) else body if isinstance(body, str) else json.dumps(body)
    data = data.encode() if isinstance(data, str) else data
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    if data:
        pairs += [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
    lines = [f"{method} {path} HTTP/{version}", *(f"{k}: {v}" for k, v in pairs)]
    head = "\r\n".join([*lines, "Connection: close", "", ""]).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
        line.sendall(head)
        with contextlib.suppress(OSError):
            line.sendall(data)
        return read(line)


def read(line: socket.socket) -> Answer:
    """Read an answer until the line is closed."""
    got = b""
    with contextlib.suppress(OSError):
        while more := line.recv(65536):
            got += more
    head, _, body = got.partition(b"\r\n\r\n")
    first, *others = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (each.partition(":") for each in others)}
    return Answer(int(first.split()[1]) if first else 0, headers, body.decode("utf-8", "replace"))


def pour(port: int, head: str, piece: bytes, times: int) -> tuple[int, Answer]:
    """Send a body in pieces for as long as it is taken; returns the bytes that were.

    Args:
        port: The server's.
        head: The request's first line and headers, without `Host`.
        piece: What is sent again and again.
        times: How often at most.
    """
    taken = 0
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(f"{head}\r\nHost: localhost:{port}\r\n\r\n".encode())
        line.settimeout(5)  # a server that reads no further
        with contextlib.suppress(OSError):
            for _ in range(times):
                line.sendall(piece)
                taken += len(piece)
        return taken, read(line)
