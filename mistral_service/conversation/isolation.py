"""Encoded images are decoded in a process with limits to its memory and time.

No check of a header bounds what a decoder does: scans without number in a JPEG, a million chunks
in a PNG, comments in a PPM that Pillow removes one by one. And decoders are written in C. So no
hostile byte is decoded in the bot's process, where it could stall or end every call.
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
from mistral_service.conversation.encoding import MOST_BYTES, Encoded, Form, printable
from mistral_service.conversation.parts import ImageError

# A backstop for a process that does nothing at all: a busy machine may be this slow.
_WALL_SECONDS = 60
_START_SECONDS = 60
# What the process needs to find its libraries; keys stay here.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "LANG")

_ENCODED_TYPES = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif"})


class NoProcess(ImageError):
    """No process can be started that decodes the image: the fault is not the image's."""


def encode(
    data: bytes | bytearray, size: tuple[int, int], name: str | None, form: Form
) -> Encoded | ImageError:
    """Make an image ready to be sent; what is encoded is decoded in another process.

    Takes and returns what `mistral_service.conversation.encoding.encode` does. To be called in a
    thread. Raw pixels are handled here: no decoder is needed, and they are as large as they say.
    """
    if not (name and name.startswith("image/")) or not data or len(data) > MOST_BYTES:
        return encoding.encode(data, size, name, form)
    if getattr(sys, "frozen", False) or not sys.executable:
        return encoding.encode(data, size, name, form)  # there is no Python to start
    try:
        decoder = _idle.pop()
    except IndexError:
        decoder = _Decoder()
    made = decoder.encode(data, name, form)
    _idle.append(decoder)
    return made


class _Decoder:
    """One process, started when it is needed, and anew when it has been ended."""

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
            return NoProcess(f"no process that decodes it can be started ({e or 'it ended'})")
        try:
            head, made = self._exchange({"form": asdict(form), "name": name}, data)
            return _answer(head, data, made)
        except (OSError, ValueError, EOFError, KeyError, TypeError):
            self.end()
            return ImageError(_why(0))

    def _start(self) -> None:
        if self._process is not None:
            return
        # The same modules as here, however they were found; and not the current folder's.
        environ = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
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

    def _exchange(
        self, head: dict[str, Any], data: bytes | bytearray
    ) -> tuple[dict[str, Any], bytes]:
        process: Any = self._process
        with self._within(_WALL_SECONDS):
            send(process.stdin, head, data)
            return receive(process.stdout, MOST_BYTES)

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
        """End the process, and what it may have forked."""
        process, self._process = self._process, None
        if process is not None:
            process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
            _kill(process)
            process.wait()
            process.stdout.close()  # pyright: ignore[reportOptionalMemberAccess]

    def forget(self) -> None:
        """Let go of the process after a fork: it is the parent's."""
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
            process.returncode = 0  # so that its end is not waited for


def _kill(process: subprocess.Popen[bytes]) -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


_decoders: list[_Decoder] = []
_idle: list[_Decoder] = []


def _answer(head: dict[str, Any], data: bytes | bytearray, made: bytes) -> Encoded | ImageError:
    """What the process said; it has read hostile bytes, so that nothing of it is taken on trust."""
    if "signal" in head:
        return ImageError(_why(int(head["signal"])))
    if "why" in head:
        why = printable(str(head["why"]))
        return ImageError(_TOO_MUCH_MEMORY if why == "MemoryError" else why)
    width, height = map(int, head["size"])
    kept = bool(head.get("kept"))
    if head["type"] not in _ENCODED_TYPES or bool(made) == kept:
        raise ValueError("no answer")
    return Encoded(
        bytes(data) if kept else made, str(head["type"]), (width, height), unchanged=kept
    )


_TOO_MUCH_MEMORY = "it takes more memory to decode than an image may"


def _why(number: int) -> str:
    if number == getattr(signal, "SIGXCPU", -1):
        return f"it takes longer than {CPU_SECONDS} seconds to decode"
    return "it breaks the process that decodes it, or takes too much memory or time"


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
