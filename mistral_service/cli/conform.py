"""`mistral-service conform`: asks first, shows what comes, and writes the report."""

import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mistral_service import __version__
from mistral_service.cli.endpoint import Endpoint, Problem
from mistral_service.conformance import kinds, report
from mistral_service.conformance.answer import bounded
from mistral_service.conformance.asking import Asker
from mistral_service.conformance.probe import State
from mistral_service.conformance.report import Report, Row, Scrub
from mistral_service.conformance.run import CannotRun, Plan, Run
from mistral_service.wire.trees import object_of

DEFAULT_BUDGET = 0.06
"""Dollars that a run may cost: more than the dearest of Mistral's models takes."""

MOST_REQUESTS = 200
"""Requests that a run may send, those included that are sent again after a wait."""

_MARKS = {
    State.AS_ASSUMED.value: ("✓", "green"),
    State.DIFFERS.value: ("≠", "yellow"),
    State.NOT_KNOWN.value: ("?", "dim"),
}


def question(plan: Plan, endpoint: Endpoint, budget: float) -> str:
    """What is asked before anything is sent.

    Args:
        plan: What is to be sent.
        endpoint: Where.
        budget: Dollars that may be spent.
    """
    count = f"{len(plan.requests)} requests to {endpoint.host}"
    if endpoint.is_on_this_machine:
        return f"{count}, which is this machine."
    most = min(plan.dollars, budget)
    by = "the price list" if plan.known else "the dearest model of the price list"
    end = f"; it ends at the budget of ${budget:g}" if plan.dollars > budget else ""
    return f"{count}, at most ${_dollars(most)} by {by}{end}."


def ask(said: str, console: Console) -> None:
    """Ask whether to go on.

    Args:
        said: What is to happen.
        console: Where to ask.

    Raises:
        Problem: If the answer is no, or there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise Problem(f"{said} There is no terminal to ask on: --yes goes on without a question.")
    try:
        answer = console.input(f"{said} Continue? [y/N] ", markup=False)
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise Problem("Nothing was sent.")


def check_places(file: Path | None, captures: Path | None) -> None:
    """See that the report and the captures can be written, before anything is spent.

    Args:
        file: The report's file; None writes into the current folder.
        captures: The folder for captures; it is made.

    Raises:
        Problem: If one of them cannot be written.
    """
    folder = (file or Path("report.json")).absolute().parent
    if (file is not None and file.is_dir()) or not os.access(folder, os.W_OK):
        raise Problem(
            f"The report cannot be written to {file or folder}: name a file with --report."
        )
    if captures is not None:
        try:
            captures.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise Problem(
                f"{captures} cannot be made a folder for captures: {e.strerror}."
            ) from None


async def examine(
    endpoint: Endpoint,
    model: str,
    plan: Plan,
    *,
    budget: float,
    most_requests: int = MOST_REQUESTS,
    captures: Path | None = None,
    shown: Callable[[Row], None] | None = None,
) -> tuple[Report, str]:
    """Send the probes, and report what came.

    Args:
        endpoint: Where.
        model: The model that is asked.
        plan: What is sent.
        budget: Dollars that may be spent.
        most_requests: Requests that may be sent.
        captures: The folder for captures of streams; None saves none.
        shown: Called with each row as it is found.

    Returns:
        The report, and why the run ended early; empty where it did not.

    Raises:
        Problem: If nothing can be probed.
    """
    scrub = Scrub(endpoint.key, endpoint.host)
    rows: list[Row] = []
    asking = Asker(endpoint.base_url, endpoint.key, model, most_requests=most_requests)
    async with asking as asker:
        run = Run(asker, model, plan, budget=budget)
        try:
            await run.begin()
        except CannotRun as e:
            raise Problem(scrub.text(str(e))) from None
        async for probe, finding in run.findings():
            rows.append(report.row_of(probe, finding, scrub))
            if shown is not None:
                shown(rows[-1])
    says = kinds.said_by(run.listed, endpoint.base_url)
    seen = kinds.seen_in(run.plain, run.answers.get(("wrong type", 0)))
    differing = sum(row.state == State.DIFFERS.value for row in rows)
    found = Report(
        server=says if seen == "unknown" else seen,
        says=says,
        build=scrub.text(
            bounded(str(object_of(run.plain.body).get("system_fingerprint") or ""), 60)
        ),
        where=report.public_place(endpoint.host),
        model=report.public_model(model),
        date=datetime.now(UTC).date().isoformat(),
        version=__version__,
        python=platform.python_version(),
        requests=asker.requests,
        tokens=run.tokens,
        dollars=round(run.spent, 6) if plan.known and not endpoint.is_on_this_machine else None,
        note=kinds.contradiction(says, seen, differing),
        rows=tuple(rows),
    )
    if captures is not None:
        for name, text in report.captures(run.answers, scrub):
            (captures / name).write_text(text, encoding="utf-8")
    return found, run.stopped


def show(row: Row, console: Console) -> None:
    """Print one row of the table.

    Args:
        row: The row.
        console: Where to print.
    """
    mark, colour = _MARKS[row.state]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(width=23)
    grid.add_column()
    grid.add_row(Text(mark, f"bold {colour}"), Text(row.name, "bold"), Text(row.came))
    if row.state == State.DIFFERS.value:
        grid.add_row("", "", Text(f"assumed: {row.assumed}", colour))
    console.print(grid)


def show_end(found: Report, file: Path, stopped: str, console: Console) -> None:
    """Print what is to be said at the end.

    Args:
        found: The report.
        file: Where it was written.
        stopped: Why the run ended early; empty where it did not.
        console: Where to print.
    """
    cost = "" if found.dollars is None else f", ${_dollars(found.dollars)} by the price list"
    console.print()
    console.print(
        Text(
            f"{found.server}, {found.model}: {report.summary(found.rows)} "
            f"({found.requests} requests, {found.tokens} tokens{cost}).",
            "bold",
        )
    )
    for sentence in filter(None, (found.note, stopped and f"It ended early: {stopped}.")):
        console.print(Text(sentence, "yellow"))
    console.print(Text(f"The report is in {file}, without key and account.", "dim"))


def write(file: Path, text: str) -> None:
    """Write a report.

    Raises:
        Problem: If it cannot be written.
    """
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as e:
        raise Problem(f"The report cannot be written to {file}: {e.strerror}.") from None


def status_of(found: Report, stopped: str) -> int:
    """The exit status: 0 as assumed, 1 something differs, 2 it ended early and nothing did."""
    return 1 if found.differs else 2 if stopped else 0


def default_file(found: Report) -> Path:
    """The name of a report's file: `conform-vllm-2026-11-28.json`."""
    return Path(f"conform-{found.server}-{found.date}.json")


def _dollars(amount: float) -> str:
    return f"{amount:.3f}" if amount >= 0.01 else f"{amount:.4f}"
