"""`mistral-service lint`: what the message rules would change in a request, and why."""

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from mistral_service.cli.endpoint import CommandError
from mistral_service.conversation.conversion import Change, Conversion, Message, Messages, ToolFault
from mistral_service.conversation.foreign_parts import kind_of
from mistral_service.conversation.rules import RULES
from mistral_service.conversation.tools import convert_all_tools

_LONGEST = 400
_COLOURS = {"+": "green", "-": "red", " ": "dim"}


@dataclass(frozen=True)
class Step:
    """The changes of one rule, at least one, and the messages before and after it."""

    changes: list[Change]
    before: Messages
    after: Messages

    def diff(self) -> Iterator[str]:
        """The removed and added messages, one a line, marked `-` and `+`."""
        before, after = ([_line(m) for m in side] for side in (self.before, self.after))
        for line in difflib.unified_diff(before, after, n=1, lineterm=""):
            if not line.startswith(("---", "+++", "@@")):
                yield line


@dataclass(frozen=True)
class Report:
    """What the rules would change in a history.

    Parameters:
        steps: The rules that change something.
        messages: The messages that would be sent.
        faults: The tools that would be left out.
    """

    steps: list[Step]
    messages: Messages
    faults: list[ToolFault]

    @property
    def changes(self) -> list[Change]:
        """Every change, in the order of the rules."""
        return [change for step in self.steps for change in step.changes]

    def as_json(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "clean": not self.steps and not self.faults,
            "changes": [
                {"rule": change.rule, "message": change.index, "reason": change.reason}
                for change in self.changes
            ],
            "left_out": [{"tool": fault.name, "reason": fault.reason} for fault in self.faults],
            "messages": self.messages,
        }


def read_history(text: str, name: str) -> tuple[Messages, list[Any]]:
    """The messages and the tools of a history.

    Args:
        text: JSON: a list of messages, or a request with `messages` (`input`, `contents` for the
            APIs that call them so) and perhaps `tools`.
        name: The name of the file, for errors.

    Raises:
        CommandError: If the text is something else.
    """
    try:
        data: object = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise CommandError(f"{name} is not JSON: {e}") from None
    request: Message = cast("Message", data) if isinstance(data, dict) else {"messages": data}
    names = [name for name in ("messages", "input", "contents") if name in request]
    messages: object = request[names[0]] if names else None
    if not isinstance(messages, list):
        raise CommandError(
            f"{name} is not a history: it must be a list of messages, or an object with messages."
        )
    for place, message in enumerate(cast("list[object]", messages)):
        if not isinstance(message, dict) or not _is_message(cast("Message", message)):
            raise CommandError(f"{name}: message {place} is no object with a role.")
    tools: object = request.get("tools")
    return cast("Messages", messages), cast("list[Any]", tools) if isinstance(tools, list) else []


def read_file(path: Path) -> str:
    """Read a text file.

    Raises:
        CommandError: If it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise CommandError(f"{path} cannot be read: {e.strerror}.") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not a text in UTF-8.") from None


def lint(messages: Messages, tools: Sequence[Any] = ()) -> Report:
    """Apply the rules to a history, which is not changed, one at a time; and check its tools."""
    offered = convert_all_tools(tools)
    conversion = Conversion(has_tools=bool(offered.tools))
    conversion.begin(messages)
    steps: list[Step] = []
    for rule in RULES:
        before = len(conversion.changes)
        after = rule(messages, conversion)
        if len(conversion.changes) > before:
            steps.append(Step(conversion.changes[before:], messages, after))
        messages = after
    return Report(steps, messages, offered.faults)


def show(report: Report, name: str, console: Console) -> None:
    """Print the report on a file."""
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
    for fault in report.faults:
        console.print(Text.assemble(("tool ", "bold yellow"), str(fault)))
    count = len(report.changes)
    if count:
        rules = ", ".join(dict.fromkeys(change.rule for change in report.changes))
        said = f"{name}: {count} change{'s' if count > 1 else ''} before it is sent ({rules})."
        console.print(Text(said, "bold"))
    elif not report.faults:
        console.print(Text(f"{name}: goes out as it is.", "bold green"))


def _is_message(message: Message) -> bool:
    """Whether an object is a message; items and contents of other APIs may have no role."""
    role = message.get("role")
    return isinstance(role, str) or (role is None and bool(kind_of(message) or "parts" in message))


def _line(message: Message) -> str:
    line = json.dumps(message, ensure_ascii=False, default=str)
    return line if len(line) <= _LONGEST else line[:_LONGEST] + " …"
