"""`python -m mistral_service.local`: the endpoint by itself."""

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from mistral_service.local.app import create_app
from mistral_service.local.as_asked import AsAsked
from mistral_service.local.behaviour import Behaviour
from mistral_service.local.checks import VERSIONS, Checks
from mistral_service.local.engine import ModelEngine, ModelNotLoaded, bundled_model
from mistral_service.local.limits import RateLimits
from mistral_service.local.pieces import Engine
from mistral_service.local.script import Script
from mistral_service.local.server import bind, serve

API_KEY_VARIABLE = "MISTRAL_LOCAL_API_KEY"
"""The environment variable with the key, which keeps it out of the list of processes."""

_STOP_SECONDS = 5.0
"""Seconds for a graceful shutdown after standard input has ended; then the process is killed."""


def main(
    arguments: list[str] | None = None, program: str = "python -m mistral_service.local"
) -> int:
    """Run the endpoint; returns the exit status: 0 after a signal to stop, 1 if it cannot start.

    `program` is the name in its help.
    """
    options = _parser(program).parse_args(arguments)
    signal.signal(signal.SIGTERM, end)
    if options.until_eof:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    try:
        checks = Checks(versions=options.accept.split(","))
        limits = RateLimits(options.requests_per_minute, options.tokens_per_minute, options.window)
        behaviour = Behaviour.from_file(options.behave_as) if options.behave_as else None
        limited = options.requests_per_minute or options.tokens_per_minute
        # The port before the model, which takes seconds: a port in use is reported at once.
        with bind(options.host, options.port) as listener:
            engine = _engine(options)
            app = create_app(
                engine,
                checks,
                api_key=options.api_key,
                limits=limits if limited else None,
                host=listener.getsockname()[0],
                allow_hosts=options.allow_host,
                behaviour=behaviour,
            )
            serve(listener, app, engine)
    except (ModelNotLoaded, OSError, ValueError) as e:
        print(e, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _engine(options: argparse.Namespace) -> Engine:
    if options.script is not None:
        try:
            return Script.from_file(options.script)
        except json.JSONDecodeError as e:
            raise ValueError(f"{options.script} is not JSON: {e}") from None
    if options.no_model or (options.behave_as and options.model is None):
        return AsAsked()
    path = options.model or bundled_model()
    print(f"Loading {path.name} …", file=sys.stderr, flush=True)
    return ModelEngine(path, threads=options.threads)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="A Mistral endpoint on this machine, as strict as the real one.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="0: any (default: %(default)s)")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name of the endpoint, such as its container's; may be repeated "
        "(localhost and the address of --host are always allowed)",
    )
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument("--model", type=Path, help="a GGUF file (default: SmolLM2-135M)")
    answers.add_argument("--script", type=Path, help="a JSON file with the replies to give")
    answers.add_argument(
        "--no-model",
        action="store_true",
        help="answer at once, without a model, as a request asks: call the functions, follow the "
        "schema, think, cut",
    )
    parser.add_argument(
        "--as",
        dest="behave_as",
        type=Path,
        metavar="REPORT",
        help="refuse, accept and stream as another server does, by a report of `mistral-service "
        "conform` (answers without a model, unless one is named)",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the model (default: 1)")
    parser.add_argument(
        "--api-key",
        default=os.environ.get(API_KEY_VARIABLE),
        help=f"the one valid key (default: {API_KEY_VARIABLE}, else any)",
    )
    parser.add_argument("--requests-per-minute", type=int, help="the account's (default: no limit)")
    parser.add_argument("--tokens-per-minute", type=int, help="the account's (default: no limit)")
    parser.add_argument(
        "--window",
        type=float,
        default=60.0,
        help="seconds of the limits' minute (default: %(default)s)",
    )
    parser.add_argument(
        "--accept",
        default=",".join(VERSIONS),
        help="tokenizer versions whose validators must all accept (default: %(default)s)",
    )
    parser.add_argument(
        "--until-eof",
        action="store_true",
        help="end when standard input ends, as it does when the parent process ends",
    )
    return parser


def end(*_: object) -> NoReturn:
    """End the process in an orderly way, as Ctrl-C does: a handler of SIGTERM."""
    raise KeyboardInterrupt


def end_with_stdin() -> None:
    """End the process when standard input ends, which happens when its parent ends."""
    while os.read(sys.stdin.fileno(), 1024):  # not `sys.stdin.read`, whose lock outlives a failure
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
