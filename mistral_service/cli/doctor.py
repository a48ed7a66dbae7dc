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
    """Print findings as they come.

    Args:
        findings: The findings.
        console: Where to print.

    Returns:
        All findings.
    """
    shown: list[Finding] = []
    async for finding in findings:
        shown.append(finding)
        mark, colour = _MARKS[finding.state]
        row = _grid()
        row.add_row(Text(mark, f"bold {colour}"), Text(finding.name, "bold"), Text(finding.said))
        if finding.advice:
            row.add_row("", "", Text(f"→ {finding.advice}", colour))
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


def _grid() -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(width=14)
    grid.add_column()
    return grid


def _bars(seconds: Sequence[float]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", style="dim")
    grid.add_column(width=_BAR_WIDTH)
    for each in seconds:
        bar = Bar(max(seconds), 0, each, width=_BAR_WIDTH, color="cyan")
        grid.add_row(f"{each * 1000:.0f} ms", bar)
    return grid
