"""`mistral-service lint`: what the message rules would change in a history, and why."""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from mistral_service.cli.endpoint import Problem
from mistral_service.conversation.rules import RULES
from mistral_service.conversation.run import Change, Message, Messages, Run

_LONGEST = 400
_COLOURS = {"+": "green", "-": "red", " ": "dim"}


@dataclass(frozen=True)
class Step:
    """What one rule did.

    Parameters:
        changes: What it changed, and why; at least one.
        before: The messages that it was given.
        after: The messages that it made of them.
    """

    changes: list[Change]
    before: Messages
    after: Messages

    def diff(self) -> Iterator[str]:
        """The messages that are no more, and those that are new, one a line, marked `-` and `+`."""
        before, after = ([_line(m) for m in side] for side in (self.before, self.after))
        for line in difflib.unified_diff(before, after, n=1, lineterm=""):
            if not line.startswith(("---", "+++", "@@")):
                yield line


@dataclass(frozen=True)
class Report:
    """What the rules make of a history.

    Parameters:
        steps: What each rule did that did something.
        messages: The messages that would be sent.
    """

    steps: list[Step]
    messages: Messages

    @property
    def changes(self) -> list[Change]:
        """Every change, in the order of the rules."""
        return [change for step in self.steps for change in step.changes]

    def as_json(self) -> dict[str, Any]:
        """The report for a program to read."""
        return {
            "clean": not self.steps,
            "changes": [
                {"rule": change.rule, "message": change.index, "reason": change.reason}
                for change in self.changes
            ],
            "messages": self.messages,
        }


def read_history(text: str, name: str) -> tuple[Messages, bool]:
    """Read a history.

    Args:
        text: JSON: a list of messages, or a request with `messages` and perhaps `tools`.
        name: What the file is called, for errors.

    Returns:
        The messages, and whether functions are offered beside them.

    Raises:
        Problem: If the text is something else.
    """
    try:
        data: object = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise Problem(f"{name} is not JSON: {e}") from None
    request: Message = cast("Message", data) if isinstance(data, dict) else {"messages": data}
    messages: object = request.get("messages")
    if not isinstance(messages, list):
        raise Problem(f"{name} is no history: a list of messages, or an object with messages.")
    for place, message in enumerate(cast("list[object]", messages)):
        if not isinstance(message, dict) or not isinstance(
            cast("Message", message).get("role"), str
        ):
            raise Problem(f"{name}: message {place} is no object with a role.")
    return cast("Messages", messages), bool(request.get("tools"))


def read_file(path: Path) -> str:
    """Read a text file.

    Raises:
        Problem: If it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise Problem(f"{path} cannot be read: {e.strerror}.") from None
    except UnicodeDecodeError:
        raise Problem(f"{path} is not a text in UTF-8.") from None


def lint(messages: Messages, *, has_tools: bool = False) -> Report:
    """See what the rules make of a history, one rule at a time.

    Args:
        messages: The history; left as it is.
        has_tools: Whether functions are offered beside it.

    Returns:
        The report.
    """
    run = Run(has_tools=has_tools)
    run.begin(messages)
    steps: list[Step] = []
    for rule in RULES:
        told = len(run.changes)
        after = rule(messages, run)
        if len(run.changes) > told:
            steps.append(Step(run.changes[told:], messages, after))
        messages = after
    return Report(steps, messages)


def show(report: Report, name: str, console: Console) -> None:
    """Print a report.

    Args:
        report: The report.
        name: What the file is called.
        console: Where to print.
    """
    for step in report.steps:
        for change in step.changes:
            console.print(
                Text.assemble(
                    (f"{change.rule:<4}", "bold yellow"),
                    (f"message {change.index}  ", "cyan"),
                    change.reason,
                )
            )
        for line in step.diff():
            text = Text(f"{line[:1]} {line[1:]}", _COLOURS[line[:1]])
            console.print(Padding(text, (0, 0, 0, 4), expand=False))
        console.print()
    count = len(report.changes)
    if count:
        rules = ", ".join(dict.fromkeys(change.rule for change in report.changes))
        said = f"{name}: {count} change{'s' if count > 1 else ''} before it is sent ({rules})."
        console.print(Text(said, "bold"))
    else:
        console.print(Text(f"{name}: goes out as it is.", "bold green"))


def _line(message: Message) -> str:
    line = json.dumps(message, ensure_ascii=False, default=str)
    return line if len(line) <= _LONGEST else line[:_LONGEST] + " …"
