"""Ports for servers that are started by others."""

import random
import socket


def free_port() -> int:
    """A port that nobody uses, and that no connection on its way out takes before it is bound."""
    while True:
        port = random.randint(20_000, 29_999)  # below those that systems hand out
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
