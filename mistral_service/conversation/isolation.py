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
        decoder = _idle.pop()
    except IndexError:
        decoder = _Decoder()
    made = decoder.encode(data, name, form)
    _idle.append(decoder)
    return made


class _Decoder:
    """One subprocess, started when it is needed, and restarted after it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        _decoders.append(self)

    def encode(self, data: bytes | bytearray, name: str, form: Form) -> Encoded | ImageError:
        if self._process is not None and self._process.poll() is not None:
            self.end()
        try:
            self._start()
        except (OSError, ValueError, EOFError) as e:
            self.end()
            return DecoderUnavailable(
                f"the process that decodes it cannot be started ({e or 'it ended'})"
            )
        process: Any = self._process
        try:
            with self._within(_WALL_SECONDS):
                send(process.stdin, {"form": asdict(form), "name": name}, data)
                head, made = receive(process.stdout, MAX_IMAGE_BYTES)
            return _response(head, data, made)
        except (OSError, ValueError, EOFError, KeyError, TypeError):
            self.end()
            return ImageError(_reason_of_signal(0))

    def _start(self) -> None:
        if self._process is not None:
            return
        # The same import path as here, and without the current directory (-P).
        environ = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_ARENA_MAX": "1"}
        process = self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mistral_service.conversation.decoder"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ,
            process_group=0 if os.name == "posix" else None,  # Ctrl-C is for the bot alone
        )
        with self._within(_START_SECONDS):
            receive(cast(Any, process.stdout), 1000)

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Any:
        timer = threading.Timer(seconds, _kill, [self._process])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def end(self) -> None:
        """Kill the process and its forks."""
        process, self._process = self._process, None
        if process is not None:
            process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
            _kill(process)
            process.wait()
            process.stdout.close()  # pyright: ignore[reportOptionalMemberAccess]

    def forget(self) -> None:
        """Drop the process after a fork of the bot: it belongs to the parent."""
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
            process.returncode = 0  # so that `Popen` does not wait for it


def _kill(process: subprocess.Popen[bytes]) -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


_decoders: list[_Decoder] = []
_idle: list[_Decoder] = []


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
    for decoder in _decoders:
        decoder.end()


def _forget_all() -> None:
    for decoder in _decoders:
        decoder.forget()
    _decoders.clear()
    _idle.clear()


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
