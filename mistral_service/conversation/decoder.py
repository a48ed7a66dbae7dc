"""The process that decodes pictures: what runs in it, and how the two sides speak.

It is started by `mistral_service.conversation.isolation`. Nothing of the bot is in it: neither its
memory nor its environment, and so no key. It forks for each picture, which takes a millisecond:
what a hostile file can reach is its own copy, with limits to memory and time that the kernel holds.
"""

import contextlib
import io
import json
import os
import sys
from typing import Any, Protocol

from PIL import AvifImagePlugin, Image

from mistral_service.conversation.encoding import MOST_BYTES, Encoded, Form, encode

CPU_SECONDS = 3
"""Seconds of CPU time that one picture may take; the system counts whole ones. The slowest JPEG of
64 megapixels takes 1.3, a telephone's photograph 0.1 to 0.3."""

_BASE_BYTES = 192 * 1024 * 1024
# A canvas of four bytes a pixel, eight times: two for an animated WebP, one each for its pixels as
# bytes, as an image, opaque, scaled … A JPEG of four times the pixels fits in as well.
_BYTES_A_PIXEL = 4 * 8


def memory_for(form: Form) -> int:
    """Bytes of address space that the process may have while it decodes a picture."""
    return _BASE_BYTES + _BYTES_A_PIXEL * form.pixels


class Pipe(Protocol):
    """One end of a pipe, unbuffered."""

    def read(self, size: int, /) -> bytes | None:
        """Read at most so many bytes; none at the end."""
        ...

    def write(self, data: memoryview, /) -> int | None:
        """Write at most so many bytes."""
        ...


def send(pipe: Pipe, head: dict[str, Any], data: bytes | bytearray = b"") -> None:
    """Write a message: the length of its head, the head as JSON, and the bytes of a file.

    Args:
        pipe: Where to.
        head: What is said; plain values.
        data: The file.

    Raises:
        OSError: If the other side is gone.
    """
    text = json.dumps({**head, "length": len(data)}).encode()
    for piece in (len(text).to_bytes(4, "big") + text, data):
        rest = memoryview(piece)
        while rest:
            rest = rest[pipe.write(rest) or 0 :]


def receive(pipe: Pipe, most: int) -> tuple[dict[str, Any], bytes]:
    """Read a message.

    Args:
        pipe: Where from.
        most: Bytes that head and file may have.

    Returns:
        Its head, and the file.

    Raises:
        EOFError: If the other side is gone.
        ValueError: If it is no message, or too long.
    """
    head = json.loads(_exactly(pipe, int.from_bytes(_exactly(pipe, 4, most), "big"), most))
    return head, _exactly(pipe, int(head["length"]), most)


def _exactly(pipe: Pipe, size: int, most: int) -> bytes:
    if not 0 <= size <= most:
        raise ValueError(f"{size} bytes are more than {most}")
    data = bytearray()
    while len(data) < size:
        piece = pipe.read(min(size - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def _limit(form: Form) -> None:
    """Set the limits of this process, which decodes one picture."""
    import resource  # it is where there is a fork

    memory = memory_for(form)
    for kind, soft, hard in (
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_CPU, CPU_SECONDS, CPU_SECONDS + 1),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # the machine's own limit is lower
            resource.setrlimit(kind, (soft, hard))


def serve(source: Pipe, sink: Pipe) -> None:
    """Decode pictures until the other side is gone.

    Args:
        source: Where they come from.
        sink: Where they go.
    """
    if hasattr(os, "nice"):
        os.nice(5)  # voices go first
    Image.init()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each would have an arena of its own
    send(sink, {"ready": True})
    while True:
        try:
            head, data = receive(source, sys.maxsize)
        except EOFError:
            return
        if hasattr(os, "fork"):
            _decode_in_fork(sink, head, data)
        else:
            _decode(sink, head, data)


def _decode_in_fork(sink: Pipe, head: dict[str, Any], data: bytes) -> None:
    """Decode a picture in a copy of this process, which has nothing of any other picture."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            with io.FileIO(writing, "wb") as pipe:
                _limit(Form(**head["form"]))
                _decode(pipe, head, data)
        finally:
            os._exit(0)
    os.close(writing)
    with io.FileIO(reading, "rb") as pipe:
        try:
            answer = receive(pipe, MOST_BYTES)
        except (EOFError, ValueError):
            answer = None
    _, status = os.waitpid(pid, 0)
    send(sink, *(answer or ({"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}, b"")))


def _decode(sink: Pipe, head: dict[str, Any], data: bytes) -> None:
    made = encode(data, (0, 0), head["name"], Form(**head["form"]))
    if not isinstance(made, Encoded):
        send(sink, {"why": str(made)})
    elif made.unchanged:
        send(sink, {"kept": True, "type": made.mime_type, "size": made.size})
    else:
        send(sink, {"type": made.mime_type, "size": made.size}, made.data)


def main() -> None:
    """Run the process: pictures come on standard input, and go to standard output."""
    with io.FileIO(0, "rb", closefd=False) as source, io.FileIO(os.dup(1), "wb") as sink:
        os.dup2(2, 1)  # what a library prints is no answer
        serve(source, sink)


if __name__ == "__main__":
    main()
