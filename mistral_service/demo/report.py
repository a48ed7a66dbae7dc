"""What a call took, and the same as a bug report: versions, settings, the last turns, no key.

Pure but for `versions`, which asks what is installed.
"""

import platform
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("pipecat-mistral-service", "pipecat-ai", "openai", "aiohttp", "xllamacpp")
MOST_TURNS = 5
"""Turns that a report has: the last ones."""
MOST_STEPS = 60
"""Steps of a turn that are kept."""

COUNTS = ("attempts", "hedges", "hedges_won", "resumes", "fallbacks", "faults")


@dataclass
class TurnTrace:
    """One turn, step by step.

    Its steps have the seconds since it `began`, on the clock of `now` everywhere below. Its figures
    are what it took, as the page shows it.
    """

    began: float
    service: str
    steps: deque[tuple[float, str]] = field(
        default_factory=lambda: deque[tuple[float, str]](maxlen=MOST_STEPS)
    )
    figures: dict[str, Any] = field(default_factory=dict[str, Any])

    def note(self, now: float, text: str) -> None:
        """Something happened."""
        self.steps.append((now - self.began, text))

    def count(self, name: str, number: float | None) -> None:
        """Add to a figure; None leaves it unknown."""
        if number is not None:
            self.figures[name] = self.figures.get(name, 0) + number

    def lines(self) -> list[str]:
        """The turn as lines of text."""
        figures = ", ".join(f"{name} {value}" for name, value in self.figures.items())
        steps = [f"  {at:7.3f} s  {text}" for at, text in self.steps]
        return [f"turn on {self.service} ({figures or 'no figures'})", *steps]


def versions() -> dict[str, str]:
    """What is installed of the packages that a report is about."""
    found = {"Python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def bug_report(
    *,
    engine: str,
    installed: Mapping[str, str],
    settings: Mapping[str, str],
    faults: Iterable[str],
    turns: Iterable[TurnTrace],
) -> str:
    """A report in Markdown: versions by package, settings by service, and a line for each fault."""
    parts = ["## What happened", "", "(Write here what you saw, and what you expected.)", ""]
    parts += ["## Versions", "", *(f"- {name} {value}" for name, value in installed.items())]
    parts += [f"- answers come from {engine}", "", "## Settings", ""]
    parts += [line for name, value in settings.items() for line in (f"{name}:", f"`{value}`", "")]
    if broken := [f"- {line}" for line in faults]:
        parts += ["## Broken on purpose", "", *broken, ""]
    parts += ["## The last turns", "", "```"]
    parts += [line for turn in turns for line in turn.lines()]
    return "\n".join([*parts, "```", ""])
