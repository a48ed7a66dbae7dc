"""`python -m mistral_service.demo`: the command line of the demo."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mistral_service.demo import DemoError

# The wheel carries the example beside this file; a checkout has it where people look for it.
PACKAGED_BOT = Path(__file__).parent / "panel_bot.py"
SOURCE_BOT = Path(__file__).parents[2] / "examples" / "panel_bot.py"


_PROGRAM = "python -m mistral_service.demo"


def parse(arguments: Sequence[str] | None, program: str = _PROGRAM) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="A spoken conversation through MistralLLMService, in the browser.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=_port, default=7860, help="port to listen on (%(default)s)")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name under which the page may be opened, as of a tunnel or of this machine "
        "in its network; may be repeated (localhost and the address of --host always may)",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FILE.gguf",
        help="a model of your own that answers on this machine, even if MISTRAL_API_KEY is set",
    )
    parser.add_argument(
        "--speech",
        choices=["local", "mistral"],
        default="local",
        help="who hears and speaks: Whisper and Piper here, or Mistral's services (%(default)s)",
    )
    parser.add_argument(
        "--bot",
        type=Path,
        metavar="FILE.py",
        default=PACKAGED_BOT if PACKAGED_BOT.exists() else SOURCE_BOT,
        help="a file with `async def bot(runner_args)` (examples/panel_bot.py)",
    )
    parser.add_argument("--verbose", action="store_true", help="show what Pipecat logs")
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: give a number up to 65535")
    return int(text)


def main(arguments: Sequence[str] | None = None, program: str = _PROGRAM) -> int:
    """Run the demo until Ctrl-C; returns the exit status."""
    options = parse(arguments, program)
    # Read by the libraries when they are first imported. Two cores carry four models: a second
    # thread for one of them starves the others. And a model that is not on disk is an error to
    # report at once, not a download to wait for.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # However we are asked to end, the engine's process ends with us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from mistral_service.demo.launch import launch

        launch(options)
    except KeyboardInterrupt:
        print("\n  Ended.", flush=True)
    except ImportError as e:
        print(
            f"A package is missing ({e}): run `make demo`, or "
            "`pip install 'pipecat-mistral-service[demo]'`.",
            file=sys.stderr,
        )
        return 1
    except DemoError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
