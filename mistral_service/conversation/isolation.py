"""Decodes encoded images in a subprocess with limits on memory and CPU time.

No check of a header bounds the work of a decoder: any number of scans in a JPEG, a million chunks
in a PNG, comments in a PPM that Pillow removes one by one. And decoders are written in C. So no
untrusted image is decoded in the bot's process, where it could stall or end every call.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from dataclasses import asdict
from typing import Any, cast

from mistral_service.conversation import encoding
from mistral_service.conversation.decoder import CPU_SECONDS, receive, send
from mistral_service.conversation.encoding import MAX_IMAGE_BYTES, Encoded, Form, printable
from mistral_service.conversation.parts import ImageError

# A last resort for a process that hangs: a busy machine may be this slow.
_WALL_SECONDS = 60
_START_SECONDS = 60
# What the process needs to find its libraries; no API keys.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "LANG")

_ENCODED_TYPES = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif"})


class DecoderUnavailable(ImageError):
    """The decoder process cannot be started; nothing is wrong with the image."""


def encode(
    data: bytes | bytearray, size: tuple[int, int], name: str | None, form: Form
) -> Encoded | ImageError:
    """Encode an image for a request; an encoded file is decoded in another process.

    Takes and returns what `mistral_service.conversation.encoding.encode` does. Call it in a thread.
    Raw pixels are handled in this process: they need no decoder, and their size is known.
    """
    if not (name and name.startswith("image/")) or not data or len(data) > MAX_IMAGE_BYTES:
        return encoding.encode(data, size, name, form)
    if getattr(sys, "frozen", False) or not sys.executable:
        return encoding.encode(data, size, name, form)  # no Python to start
    try:
        process: Any = _idle_process() or _started()
    except (OSError, ValueError, EOFError) as e:
        return DecoderUnavailable(
            f"the process that decodes it cannot be started ({e or 'it ended'})"
        )
    try:
        with _killed_after(_WALL_SECONDS, process):
            send(process.stdin, {"form": asdict(form), "name": name}, data)
            head, file = receive(process.stdout, MAX_IMAGE_BYTES)
        made = _response(head, data, file)
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        _end(process)
        return ImageError(_reason_of_signal(0))
    _idle.append(process)
    return made


_Process = subprocess.Popen[bytes]
_processes: set[_Process] = set()
_idle: list[_Process] = []


def _idle_process() -> _Process | None:
    with contextlib.suppress(IndexError):
        while (process := _idle.pop()).poll() is not None:
            _end(process)
        return process
    return None


def _started() -> _Process:
    # The same import path as here, and without the current directory (-P).
    environ = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_ARENA_MAX": "1"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "mistral_service.conversation.decoder"],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environ,
        process_group=0 if os.name == "posix" else None,  # Ctrl-C is for the bot alone
    )
    _processes.add(process)
    try:
        with _killed_after(_START_SECONDS, process):
            receive(cast(Any, process.stdout), 1000)
    except (OSError, ValueError, EOFError):
        _end(process)
        raise
    return process


@contextlib.contextmanager
def _killed_after(seconds: float, process: _Process) -> Generator[None]:
    timer = threading.Timer(seconds, _kill, [process])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _kill(process: _Process) -> None:
    """Kill a process and its forks."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _end(process: Any) -> None:
    if process in _processes:
        _processes.discard(process)
        process.stdin.close()
        _kill(process)
        process.wait()
        process.stdout.close()


def _response(head: dict[str, Any], data: bytes | bytearray, made: bytes) -> Encoded | ImageError:
    """The response of the process; it has read untrusted bytes, so every field is checked."""
    if "signal" in head:
        return ImageError(_reason_of_signal(int(head["signal"])))
    if "error" in head:
        error = printable(str(head["error"]))
        return ImageError(_TOO_MUCH_MEMORY if error == "MemoryError" else error)
    width, height = map(int, head["size"])
    unchanged = bool(head.get("unchanged"))
    if head["type"] not in _ENCODED_TYPES or bool(made) == unchanged:
        raise ValueError("invalid response")
    file = bytes(data) if unchanged else made
    return Encoded(file, str(head["type"]), (width, height), unchanged)


_TOO_MUCH_MEMORY = "decoding it takes more memory than an image may use"


def _reason_of_signal(number: int) -> str:
    if number == getattr(signal, "SIGXCPU", -1):
        return f"decoding it takes more than {CPU_SECONDS} seconds of CPU time"
    return "decoding it crashes the decoder, or takes too much memory or time"


def _end_all() -> None:
    _idle.clear()
    for process in list(_processes):
        _end(process)


def _forget_all() -> None:
    """After a fork of the bot, the processes belong to the parent."""
    process: Any
    for process in _processes:
        process.stdin.close()
        process.stdout.close()
        process.returncode = 0  # so that `Popen` does not wait for it
    _processes.clear()
    _idle.clear()


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
