"""The decoder process: what runs in it, and its protocol.

`mistral_service.conversation.isolation` starts it. It has neither the bot's memory nor its
environment, and so no API key. It decodes in a fork of itself: there the kernel limits the memory
and CPU time of an image, and after an image that exceeds a limit, the next one has a new fork at
once.
"""

import contextlib
import json
import math
import os
import sys
import time
from io import FileIO
from typing import Any

from PIL import AvifImagePlugin, Image

from mistral_service.conversation.encoding import Encoded, Form, encode

CPU_SECONDS = 3
"""Seconds of CPU time for one image; the kernel counts whole seconds. The slowest JPEG of 64
megapixels takes 1.3, a photograph of a phone 0.1 to 0.3."""

_BASE_BYTES = 192 * 1024 * 1024
# Four bytes a pixel, eight times: two canvases of an animated WebP, and one copy each as bytes, as
# an image, opaque, scaled … A JPEG of four times the pixels fits as well.
_BYTES_PER_PIXEL = 4 * 8


_FAILED, _NO_MORE = 1, 2  # exit codes
_IMAGES_PER_FORK = 50  # a new fork takes some milliseconds, and page faults


def send(pipe: FileIO, head: dict[str, Any], data: bytes | bytearray = b"") -> None:
    """Write a message: the length of its head, the head as JSON, and the bytes of a file.

    Raises:
        OSError: If the other side has closed the pipe.
    """
    text = json.dumps({**head, "length": len(data)}).encode()
    for piece in (len(text).to_bytes(4, "big") + text, data):
        rest = memoryview(piece)
        while rest:
            rest = rest[pipe.write(rest) or 0 :]


def receive(pipe: FileIO, most: int) -> tuple[dict[str, Any], bytes]:
    """Read the head of a message, and its file, each of at most `most` bytes.

    Raises:
        EOFError: If the other side has closed the pipe.
        ValueError: If it is no valid message, or too long.
    """
    head = json.loads(_exactly(pipe, int.from_bytes(_exactly(pipe, 4, most), "big"), most))
    return head, _exactly(pipe, int(head["length"]), most)


def _exactly(pipe: FileIO, size: int, most: int) -> bytes:
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
    """Set the limits of this process for its next image."""
    import resource  # exists where fork exists

    for kind, value in (
        (resource.RLIMIT_AS, _BASE_BYTES + _BYTES_PER_PIXEL * form.pixels),
        (resource.RLIMIT_CPU, math.ceil(time.process_time()) + CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # the hard limit is lower
            resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


def _decode_in_fork(source: FileIO, sink: FileIO) -> bool:
    """Wait for images, and decode some, in a fork of this process."""
    pid = os.fork()
    if pid == 0:
        code = _FAILED
        try:
            more = all(_decode_next(source, sink, is_limited=True) for _ in range(_IMAGES_PER_FORK))
            code = 0 if more else _NO_MORE
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status:
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _NO_MORE:
            return False
        send(sink, {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0})
    return True


def _decode_next(source: FileIO, sink: FileIO, *, is_limited: bool = False) -> bool:
    try:
        head, data = receive(source, sys.maxsize)
    except EOFError:
        return False
    form = Form(**head["form"])
    if is_limited:
        _limit(form)
    made = encode(data, (0, 0), head["name"], form)
    if not isinstance(made, Encoded):
        send(sink, {"error": str(made)})
    elif made.unchanged:
        send(sink, {"unchanged": True, "type": made.mime_type, "size": made.size})
    else:
        send(sink, {"type": made.mime_type, "size": made.size}, made.data)
    return True


def main() -> None:
    """Decode images from standard input to standard output until the other side closes it."""
    with FileIO(0, "rb", closefd=False) as source, FileIO(os.dup(1), "wb") as sink:
        os.dup2(2, 1)  # what a library prints is not part of the protocol
        Image.init()
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each thread would have a memory arena of its own
        send(sink, {"ready": True})
        decode = _decode_in_fork if hasattr(os, "fork") else _decode_next
        while decode(source, sink):
            pass


if __name__ == "__main__":
    main()
