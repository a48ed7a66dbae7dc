"""`mistral-service doctor`: prints the findings."""

from collections.abc import AsyncIterator, Sequence

from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mistral_service.cli.checks import Finding, State

_MARKS = {
    State.GOOD: ("✓", "green"),
    State.NOTE: ("·", "dim"),
    State.WARNING: ("!", "yellow"),
    State.FAULT: ("✗", "red"),
}
_BAR_WIDTH = 40


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether a bot can speak: no finding is a fault."""
    return all(finding.state is not State.FAULT for finding in findings)


async def show(findings: AsyncIterator[Finding], console: Console) -> list[Finding]:
    """Print findings as they come; returns all of them."""
    shown: list[Finding] = []
    async for finding in findings:
        shown.append(finding)
        row = marked_row(_MARKS[finding.state], finding.name, finding.said, width=14)
        if finding.advice:
            row.add_row("", "", Text(f"→ {finding.advice}", _MARKS[finding.state][1]))
        if finding.seconds:
            row.add_row("", "", _bars(finding.seconds))
        console.print(row)
    counts = {state: sum(f.state is state for f in shown) for state in State}
    console.print()
    if counts[State.FAULT]:
        console.print(Text("A bot could not speak like this.", "bold red"))
    elif counts[State.WARNING]:
        console.print(Text("A bot can speak; see the lines marked with !.", "bold yellow"))
    else:
        console.print(Text("A bot can speak.", "bold green"))
    return shown


def marked_row(mark: tuple[str, str], name: str, said: str, *, width: int) -> Table:
    """A row of a mark with its colour, a name of some width, and what is said."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(width=width)
    grid.add_column()
    grid.add_row(Text(mark[0], f"bold {mark[1]}"), Text(name, "bold"), Text(said))
    return grid


def _bars(seconds: Sequence[float]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", style="dim")
    grid.add_column(width=_BAR_WIDTH)
    longest = max(seconds)
    for each in seconds:
        shown = max(each, longest / _BAR_WIDTH)  # a whole block at least
        bar = Bar(longest, 0, shown, width=_BAR_WIDTH, color="cyan")
        grid.add_row(f"{each * 1000:.0f} ms", bar)
    return grid
