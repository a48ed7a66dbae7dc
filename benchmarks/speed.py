"""What our service costs, compared with Pipecat's own: `make bench`.

Each measurement is a process of its own, ours and Pipecat's alternating, several times. The table
has the medians, and the median of the ratios of each pair, which does not depend on the speed of
the machine. The server (`token_server.py`) is another process, whose work is not counted.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
os.environ.pop("MISTRAL_BASE_URL", None)

TOKENS = 2000
DELAYED = 20.0
"""The limit for the 99th percentile of the delay of tokens, in milliseconds."""


# --- a server -------------------------------------------------------------------------------------


@contextmanager
def server(**options: Any) -> Iterator[str]:
    """The server in a process of its own; yields its address."""
    arguments = [f"--{name}={value}" for name, value in options.items() if value is not None]
    process = subprocess.Popen(
        [sys.executable, str(HERE / "token_server.py"), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield f"{'https' if 'cert' in options else 'http'}://localhost:{port}/v1"
    finally:
        process.terminate()
        process.wait(10)


# --- one measurement, in a process of its own -----------------------------------------------------


def maker(who: str) -> Callable[[str], Any]:
    from loguru import logger

    logger.remove()
    warnings.simplefilter("ignore")
    if who == "ours":
        from mistral_service import MistralLLMService as Service
    else:
        from pipecat.services.mistral.llm import MistralLLMService as Service
    return lambda base_url: Service(api_key="k", base_url=base_url)


@asynccontextmanager
async def session(service: Any, warm: bool = True) -> AsyncIterator[Any]:
    """A pipeline of the service and a sink."""
    from pipecat.frames.frames import (
        EndFrame,
        LLMContextFrame,
        LLMFullResponseEndFrame,
        LLMTextFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.frame_processor import FrameProcessor
    from pipecat.workers.runner import WorkerRunner

    class Sink(FrameProcessor):
        """Records when words come, and when a reply has ended."""

        def __init__(self) -> None:
            super().__init__()
            self.ended = asyncio.Event()
            self.first = 0.0
            self.late: list[float] = []
            self.words = 0

        async def process_frame(self, frame: Any, direction: Any) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, LLMTextFrame):
                now = time.monotonic()
                self.first = self.first or now
                for word in frame.text.split():
                    self.words += 1
                    if "." in word:
                        self.late.append((now - float(word)) * 1e3)
            elif isinstance(frame, LLMFullResponseEndFrame):
                self.ended.set()
            await self.push_frame(frame, direction)

    sink = Sink()
    worker = PipelineWorker(
        Pipeline([service, sink]), cancel_on_idle_timeout=False, enable_rtvi=False
    )

    async def turn(messages: list[Any] | None = None) -> float:
        """One turn; returns seconds to the first word."""
        sink.ended.clear()
        sink.first = 0.0
        context = LLMContext(messages or [{"role": "user", "content": "Hello."}])
        began = time.monotonic()
        await worker.queue_frame(LLMContextFrame(context))
        await asyncio.wait_for(sink.ended.wait(), 60)
        return sink.first - began

    sink.turn = turn
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    try:
        if warm:
            await turn()
            sink.late.clear()
            sink.words = 0
        yield sink
    finally:
        await worker.queue_frame(EndFrame())
        await asyncio.wait_for(running, 20)


async def cpu_per_token(make: Callable[[str], Any], base_url: str) -> float:
    """Microseconds of CPU for a token."""
    async with session(make(base_url)) as sink:
        before = time.process_time()
        await sink.turn()
        spent = time.process_time() - before
        return spent / sink.words * 1e6


async def cpu_to_first_byte(
    make: Callable[[str], Any], base_url: str, length: int = 500, images: int = 8
) -> float:
    """Milliseconds of CPU from a context to the first byte sent."""
    from asyncio import selector_events
    from io import BytesIO

    import numpy
    from PIL import Image
    from pipecat.processors.aggregators.llm_context import LLMContext

    noise = numpy.random.default_rng(1).integers(0, 255, (48, 64, 3), dtype=numpy.uint8)
    image = Image.fromarray(noise).resize((640, 480), Image.Resampling.BILINEAR)
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=85)
    messages: list[Any] = []
    for number in range(length // 2 - images):
        messages.append({"role": "user", "content": f"Question {number}, put in some words. " * 3})
        messages.append({"role": "assistant", "content": f"Answer {number}, in a sentence. " * 5})
    for number in range(images):
        # What Pipecat makes of a camera's frame.
        messages.append(
            await LLMContext.create_image_message(
                format="RGB", size=image.size, image=image.tobytes(), text=f"Image {number}"
            )
        )
        messages.append({"role": "assistant", "content": "I see."})
    messages.append({"role": "user", "content": "And now?"})

    sent: list[float] = []
    transport: Any = selector_events._SelectorSocketTransport
    write = transport.write

    def noted(self: Any, data: Any) -> None:
        sent.append(time.process_time())
        write(self, data)

    transport.write = noted
    taken = []
    async with session(make(base_url)) as sink:
        for number in range(5):
            messages[-1] = {"role": "user", "content": f"And now, for the {number}th time?"}
            await asyncio.sleep(0.05)
            sent.clear()
            before = time.process_time()
            await sink.turn(messages)
            taken.append((sent[0] - before) * 1e3)
    return statistics.median(taken[1:])


async def cpu_of_one_more(make: Callable[[str], Any], base_url: str) -> float:
    """Milliseconds of CPU to make one more service in a process."""
    make(base_url)
    before = time.process_time()
    kept = [make(base_url) for _ in range(20)]
    return (time.process_time() - before) / len(kept) * 1e3


async def memory_of_one_more(make: Callable[[str], Any], base_url: str) -> float:
    """Kilobytes that one more idle session takes."""
    import psutil

    async with session(make(base_url)), contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(session(make(base_url)))
        gc.collect()
        before = psutil.Process().memory_info().rss
        for _ in range(30):
            await stack.enter_async_context(session(make(base_url)))
        gc.collect()
        return (psutil.Process().memory_info().rss - before) / 30 / 1024


async def p99_delay(make: Callable[[str], Any], base_url: str, sessions: int) -> float:
    """The 99th percentile of the delay of tokens, in milliseconds, with some sessions at once."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    async with contextlib.AsyncExitStack() as stack:
        sinks = []
        for _ in range(sessions):
            service = make(base_url)
            if hasattr(service._settings, "text_frames"):
                service._settings.text_frames = "token"  # it is the delay of tokens
            sinks.append(await stack.enter_async_context(session(service, warm=False)))
        began = time.monotonic()

        async def talk(sink: Any, wait: float) -> None:
            await asyncio.sleep(wait)
            await sink.turn()

        # Callers do not all begin at once.
        await asyncio.gather(*(talk(sink, i / sessions) for i, sink in enumerate(sinks)))
        assert time.monotonic() - began < 60
        # The first second is the ramp-up.
        late = sorted(ms for sink in sinks for ms in sink.late[50:])
        return late[int(len(late) * 0.99)]


async def first_turn(make: Callable[[str], Any], base_url: str) -> float:
    """Milliseconds from the first context to the first word."""
    async with session(make(base_url), warm=False) as sink:
        await asyncio.sleep(1.5)  # the caller says something
        return await sink.turn() * 1e3


# --- a distant server -----------------------------------------------------------------------------


def certificate(folder: Path) -> Path:
    """A certificate of our own for localhost, with its key, in one file."""
    path = folder / "localhost.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]
        + ["/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        + ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True,
        capture_output=True,
    )
    path.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return path


async def delaying_proxy(port: int, seconds: float) -> asyncio.Server:
    """A TCP proxy to a port that delays every byte, each way."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(65536):
            loop.call_later(seconds, writer.write, data)
        loop.call_later(seconds, writer.close)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(forward(reader, there[1]), forward(there[0], writer))

    return await asyncio.start_server(accept, "127.0.0.1", 0)


# --- all together ---------------------------------------------------------------------------------

ONE = {
    "cpu_per_token": cpu_per_token,
    "cpu_to_first_byte": cpu_to_first_byte,
    "cpu_of_one_more": cpu_of_one_more,
    "memory_of_one_more": memory_of_one_more,
    "p99_delay": p99_delay,
    "first_turn": first_turn,
}


def measured(what: str, who: str, base_url: str, *more: Any, **environment: str) -> float:
    """One measurement, in a process of its own."""
    command = [sys.executable, __file__, "--one", what, who, base_url, *map(str, more)]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, **environment}
    )
    if ran.returncode:
        raise RuntimeError(ran.stderr[-2000:])
    return float(ran.stdout.split()[-1])


def pairs(times: int, measure: Callable[[str], float]) -> tuple[float, float, float]:
    """Medians of ours and theirs, and the median of the ratios."""
    taken = [(measure("ours"), measure("theirs")) for _ in range(times)]
    ours, theirs = zip(*taken, strict=True)
    ratio = statistics.median(a / b for a, b in taken)
    return statistics.median(ours), statistics.median(theirs), ratio


def least_delay(who: str, base_url: str, count: int) -> float:
    """The lowest of three: other load of the machine only adds to it."""
    delays: list[float] = []
    while len(delays) < 3 and min(delays, default=DELAYED) >= DELAYED:
        delays.append(measured("p99_delay", who, base_url, count))
    return min(delays)


def most_sessions(who: str, base_url: str, finest: int = 2) -> int:
    """The most sessions whose tokens are in time, by doubling and then by bisection."""
    good, bad = 0, 8
    while least_delay(who, base_url, bad) < DELAYED:
        good, bad = bad, bad * 2
    while bad - good > finest:
        middle = (good + bad) // 2
        if least_delay(who, base_url, middle) < DELAYED:
            good = middle
        else:
            bad = middle
    return good


@contextmanager
def distant_server(seconds: float) -> Iterator[Callable[[str], float]]:
    """A distant server over TLS; yields a function that measures a first turn there."""
    with tempfile.TemporaryDirectory() as folder:
        cert = certificate(Path(folder))
        with server(tokens=5, cert=cert) as base_url:
            there = int(base_url.rsplit(":", 1)[1].split("/")[0])
            loop = asyncio.new_event_loop()
            proxy = loop.run_until_complete(delaying_proxy(there, seconds))
            thread = threading.Thread(target=loop.run_forever, daemon=True)
            thread.start()
            here = f"https://localhost:{proxy.sockets[0].getsockname()[1]}/v1"
            trusted = {"SSL_CERT_FILE": str(Path(folder) / "cert.pem")}
            try:
                yield lambda who: measured("first_turn", who, here, **trusted)
            finally:
                loop.call_soon_threadsafe(loop.stop)
                thread.join(10)


def rows(times: int, only: str) -> Iterator[tuple[str, str, Callable[[], tuple[float, ...]]]]:
    def row(name: str, form: str, what: str, **options: Any) -> Any:
        def measure() -> tuple[float, ...]:
            with server(**options) as base_url:
                return pairs(times, lambda who: measured(what, who, base_url))

        return name, form, measure

    def sessions() -> tuple[float, ...]:
        with server(tokens=200, rate=50) as base_url:
            ours, theirs = (most_sessions(who, base_url) for who in ("ours", "theirs"))
        return ours, theirs, ours / theirs

    def over_tls() -> tuple[float, ...]:
        with distant_server(0.04) as first_turn_of:
            return pairs(times, first_turn_of)

    all_rows = [
        row("CPU per token, burst of 2,000 (µs)", "{:.1f}", "cpu_per_token", tokens=TOKENS),
        row("CPU per token at 50 tokens/s (µs)", "{:.0f}", "cpu_per_token", tokens=150, rate=50),
        row(
            "CPU from context to first byte, 500 messages, 8 images (ms)",
            "{:.1f}",
            "cpu_to_first_byte",
            tokens=1,
        ),
        row("CPU to make one more service (ms)", "{:.2f}", "cpu_of_one_more", tokens=1),
        row("memory of one more idle session (KB)", "{:.0f}", "memory_of_one_more", tokens=1),
        (
            "sessions at 50 tokens/s on one core, p99 of added delay under 20 ms, token by token",
            "{:.0f}",
            sessions,
        ),
        ("first turn's first word over TLS, 80 ms away (ms)", "{:.0f}", over_tls),
    ]
    yield from (row for row in all_rows if only in row[0])


def main(times: int, only: str) -> None:
    print("| | ours | Pipecat's own | ratio |")
    print("|---|---|---|---|")
    for name, form, measure in rows(times, only):
        ours, theirs, ratio = measure()
        print(
            f"| {name} | {form.format(ours)} | {form.format(theirs)} | {ratio:.2f}× |", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="pairs of each (default: 3)")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        what, who, base_url, *more = given.one
        measure: Callable[..., Awaitable[float]] = ONE[what]
        print(asyncio.run(measure(maker(who), base_url, *map(int, more))))
    else:
        main(given.times, given.only)
