"""`mistral-service conform`: asks for confirmation, shows the findings, writes the report."""

import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mistral_service import __version__
from mistral_service.cli import doctor
from mistral_service.cli.endpoint import CommandError, Endpoint
from mistral_service.conformance import identify, report
from mistral_service.conformance.probe import State
from mistral_service.conformance.raw_client import RawClient
from mistral_service.conformance.report import Report, Row, Scrub
from mistral_service.conformance.run import CannotRun, Plan, Run
from mistral_service.wire.errors import printable
from mistral_service.wire.trees import object_of

DEFAULT_BUDGET = 0.06
"""Dollars that a run may cost: enough for the most expensive of Mistral's models."""

MOST_REQUESTS = 200
"""Requests that a run may send, retries included."""

_MARKS = {
    State.AS_ASSUMED.value: ("✓", "green"),
    State.DIFFERS.value: ("≠", "yellow"),
    State.NOT_KNOWN.value: ("?", "dim"),
}


def plan_sentence(plan: Plan, endpoint: Endpoint, budget: float) -> str:
    """What a run would send, and its cost, in a sentence; the budget is in dollars."""
    count = f"{len(plan.requests)} requests to {endpoint.host}"
    if endpoint.is_on_this_machine:
        return f"{count}, which is this machine."
    most = min(plan.dollars, budget)
    by = "the price list" if plan.known else "the most expensive model of the price list"
    end = f"; it ends at the budget of ${budget:g}" if plan.dollars > budget else ""
    return f"{count}, at most ${_dollars(most)} by {by}{end}."


def confirm(said: str, console: Console) -> None:
    """Ask for confirmation.

    Raises:
        CommandError: If the answer is no, or there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise CommandError(
            f"{said} There is no terminal to ask on: --yes goes on without a question."
        )
    try:
        answer = console.input(f"{said} Continue? [y/N] ", markup=False)
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise CommandError("Nothing was sent.")


def check_outputs(file: Path | None, captures: Path | None) -> None:
    """Check that the report and the captures can be written, before anything is spent.

    Without a file, the report goes into the current folder. The folder for captures is created.

    Raises:
        CommandError: If one of them cannot be written.
    """
    folder = (file or Path("report.json")).absolute().parent
    if (file is not None and file.is_dir()) or not os.access(folder, os.W_OK):
        raise CommandError(
            f"The report cannot be written to {file or folder}: name a file with --report."
        )
    if captures is not None:
        try:
            captures.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise CommandError(
                f"The folder {captures} for captures cannot be created: {e.strerror}."
            ) from None


async def run_probes(
    endpoint: Endpoint,
    model: str,
    plan: Plan,
    *,
    budget: float,
    most_requests: int = MOST_REQUESTS,
    captures: Path | None = None,
    shown: Callable[[Row], None] | None = None,
) -> tuple[Report, str]:
    """Send the probes, and report the findings; `shown` is called with each row as it comes.

    Returns:
        The report, and why the run ended early; empty where it did not.

    Raises:
        CommandError: If the endpoint cannot be probed.
    """
    scrub = Scrub(endpoint.key, endpoint.host)
    rows: list[Row] = []
    raw = RawClient(endpoint.base_url, endpoint.key, model, most_requests=most_requests)
    async with raw as client:
        run = Run(client, model, plan, budget=budget)
        try:
            await run.begin()
        except CannotRun as e:
            raise CommandError(scrub.text(str(e))) from None
        async for probe, finding in run.findings():
            rows.append(report.row_of(probe, finding, scrub))
            if shown is not None:
                shown(rows[-1])
    says = identify.claimed_server(run.catalogue, endpoint.base_url)
    seen = identify.observed_server(run.plain, run.answers.get(("wrong type", 0)))
    differing = sum(row.state == State.DIFFERS.value for row in rows)
    found = Report(
        server=says if seen == "unknown" else seen,
        says=says,
        build=scrub.text(
            printable(str(object_of(run.plain.body).get("system_fingerprint") or ""), 60)
        ),
        where=report.public_place(endpoint.host),
        model=report.public_model(model),
        date=datetime.now(UTC).date().isoformat(),
        version=__version__,
        python=platform.python_version(),
        requests=client.requests,
        tokens=run.tokens,
        dollars=round(run.spent, 6) if plan.known and not endpoint.is_on_this_machine else None,
        note=identify.contradiction(says, seen, differing),
        rows=tuple(rows),
    )
    if captures is not None:
        for name, text in report.captures(run.answers, scrub):
            (captures / name).write_text(text, encoding="utf-8")
    return found, run.stopped


def show(row: Row, console: Console) -> None:
    """Print one row of the table."""
    grid = doctor.marked_row(_MARKS[row.state], row.name, row.came, width=23)
    if row.state == State.DIFFERS.value:
        grid.add_row("", "", Text(f"assumed: {row.assumed}", _MARKS[row.state][1]))
    console.print(grid)


def show_end(found: Report, file: Path, stopped: str, console: Console) -> None:
    """Print the summary; `stopped` says why the run ended early, and is empty where it did not."""
    cost = "" if found.dollars is None else f", ${_dollars(found.dollars)} by the price list"
    console.print()
    console.print(
        Text(
            f"{found.server}, {found.model}: {found.summary} "
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
        CommandError: If it cannot be written.
    """
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as e:
        raise CommandError(f"The report cannot be written to {file}: {e.strerror}.") from None


def status_of(found: Report, stopped: str) -> int:
    """The exit status: 0 as assumed, 1 if something differs, 2 if it only ended early."""
    return 1 if found.differs else 2 if stopped else 0


def _dollars(amount: float) -> str:
    return f"{amount:.3f}" if amount >= 0.01 else f"{amount:.4f}"
