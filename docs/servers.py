"""Writes the tables of docs/servers.md from the reports in docs/servers/: `make docs`.

`mistral-service conform --base-url … --report docs/servers/NAME.json` writes a new report. A test
checks that the page is up to date.
"""

import json
import sys
from pathlib import Path

from mistral_service.conformance.probe import State
from mistral_service.conformance.probes import PROBES
from mistral_service.conformance.report import Report, Row, cell
from mistral_service.conformance.run import Plan
from mistral_service.turn.prices import PRICES

PAGE = Path(__file__).parent / "servers.md"
REPORTS = Path(__file__).parent / "servers"
TITLES = {
    "strict": "Mistral, as we assume it",
    "vllm": "vLLM",
    "llama.cpp": "llama.cpp of xllamacpp 2026.10",
}
"""The reports, and the titles of their columns. The first is of the strict endpoint."""

_MAX_CELL = 60

BEGIN = "<!-- Written by docs/servers.py from the reports in docs/servers/, from here … -->\n"
END = "<!-- … to here. -->\n"


def render() -> str:
    """The page, with the tables from the reports."""
    found = {name: Report.from_file(REPORTS / f"{name}.json") for name in TITLES}
    lines = [_cost(), "## What differs", "", *_run(found), "", *_table(found)]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{chr(10).join(lines)}\n{END}{rest.partition(END)[2]}"


def _cost() -> str:
    rows: dict[tuple[float, float], list[str]] = {}
    for model, price in PRICES.items():
        rows.setdefault((price.input, price.output), []).append(model)
    count = len(Plan.of("any").requests)
    prompts, replies = (sum(r.tokens[n] for r in Plan.of("any").requests) for n in (0, 1))
    lines = [
        "## What it costs",
        "",
        f"{len(PROBES)} probes, {count} requests; at most {prompts:,} tokens of requests and "
        f"{replies:,} of replies. By [the price list](observability.md), at most:",
        "",
        "| model | dollars |",
        "|---|---|",
    ]
    for models in rows.values():
        names = ", ".join(f"`{model}`" for model in models)
        lines.append(f"| {names} | {Plan.of(models[0]).dollars:.3f} |")
    return "\n".join(lines) + "\n"


def _run(found: dict[str, Report]) -> list[str]:
    lines = ["| | run on | as assumed | differs | not known |", "|---|---|---|---|---|"]
    for name, report in found.items():
        made = report.build or report.server
        count = report.counts
        lines.append(
            f"| {TITLES[name]} | {report.date}, {made} | {count['as assumed']} | "
            f"{count['differs']} | {count['not known']} |"
        )
    lines += [
        "",
        "vLLM runs with a small model of random weights, llama.cpp with SmolLM2-135M and Mistral's "
        "template. Results that depend on the model's text are not known there: they are marked ?.",
    ]
    return lines


def _table(found: dict[str, Report]) -> list[str]:
    lines = [f"| | {' | '.join(TITLES.values())} |", f"|---|{'---|' * len(TITLES)}"]
    same: list[str] = []
    for probe in PROBES:
        rows = [next(r for r in report.rows if r.name == probe.name) for report in found.values()]
        cells = [_cell(row) for row in rows]
        if len({_outcome(row) for row in rows} - {""}) == 1:
            same.append(probe.name)
        else:
            lines.append(f"| {cell(probe.name)} | {' | '.join(cells)} |")
    lines += ["", f"The same on all servers, as far as it is known: {', '.join(map(cell, same))}."]
    return lines


def _outcome(row: Row) -> str:
    """What two servers are compared by: neither the model's text nor that of an error."""
    if row.state == State.NOT_KNOWN.value:
        return ""
    refused = {k: v for k, v in row.facts.get("refused", {}).items() if k != "message"}
    return json.dumps([row.state, {**row.facts, "refused": refused}], sort_keys=True)


def _cell(row: Row) -> str:
    if row.state == State.NOT_KNOWN.value:
        return "?"
    refused = row.facts.get("refused")
    if refused:
        names = [refused["code"], refused["type"]]
        shown = [str(n) for n in names if n is not None and str(n) != str(refused["status"])]
        return cell(f"{refused['status']} {', '.join(shown)}".strip())
    came = row.came.replace("accepted, the beginning is ", "accepted, ")
    return cell(came if len(came) <= _MAX_CELL else came[:_MAX_CELL] + " …")


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE}\n")
    PAGE.write_text(render(), encoding="utf-8")
