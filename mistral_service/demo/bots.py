"""Loads the file of a bot; needs nothing that the demo brings."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from mistral_service.demo import DemoError


def load_bot(path: Path) -> ModuleType:
    """A Python file with a function `bot`."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise DemoError(f"There is no Python file {path}: give --bot the path of a bot.")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent.resolve()))  # for what stands beside it
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        raise DemoError(
            f"{path} does not load ({type(e).__name__}: {e}): mend it, or name another with --bot."
        ) from e
    if not hasattr(module, "bot"):
        raise DemoError(
            f"{path} has no `async def bot(runner_args)`: add one, or name another with --bot."
        )
    return module
