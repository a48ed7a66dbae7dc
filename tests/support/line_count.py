"""How much work some code does, counted in lines that run: a busy machine changes nothing."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import mistral_service

PACKAGE = str(Path(mistral_service.__file__).parent)


def lines_of(work: Callable[[], Any]) -> int:
    """The lines of the package that run while some work is done."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "call":
            return trace if frame.f_code.co_filename.startswith(PACKAGE) else None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count
