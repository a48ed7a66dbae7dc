"""The report of a run, which can be pasted into an issue: no key, account or private host."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from mistral_service.conformance.answer import MOST_SAID, Json
from mistral_service.conformance.probe import Finding, Probe, State
from mistral_service.wire.errors import printable
from mistral_service.wire.secrets import Redactor, secrets_in
from mistral_service.wire.trees import object_of

KIND = "mistral-service conform"
"""The field `report` of a report."""

FORM = 1
"""The version of the report's format."""

_MOST_CAME = 500
_MOST_LISTED = 12
_MOST_BYTES = 4 * 1024 * 1024
_PUBLIC = ("api.mistral.ai", "localhost", "127.0.0.1", "::1")
_IDS = re.compile(
    r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"  # a UUID
    r"|\b[0-9a-fA-F]{16,}\b"
    r"|\b(?:org|acct|account|workspace|ws|proj|user|usr|req|request)[-_](?=\w*\d)[\w-]{6,}"
    r"|\b(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{28,}\b"
)
_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")


_REPLY_ID = "f1e2d3c4b5a6978877665544332211aa"


class NoReport(ValueError):
    """A file is not a report; the message says what is expected."""


class Scrub:
    """Removes from a text what identifies the account and a private host."""

    def __init__(self, key: str, host: str) -> None:
        """Prepare; the host is removed unless it is Mistral's, or this machine."""
        self._strike = Redactor(secrets_in(key))
        is_private = host and host not in _PUBLIC
        self._host = re.compile(re.escape(host), re.IGNORECASE) if is_private else None

    def text(self, text: str) -> str:
        """Redact a text of some hundred characters."""
        text = self._strike(text)
        if self._host is not None:
            text = self._host.sub("[host]", text)
        return _ADDRESS.sub("[address]", _IDS.sub("[id]", text))

    def data(self, value: Any) -> Any:
        """Redact every text in JSON."""
        if isinstance(value, str):
            return printable(self.text(value), MOST_SAID)
        if isinstance(value, Mapping):
            return {k: self.data(v) for k, v in cast("Mapping[str, Any]", value).items()}
        if isinstance(value, list | tuple):
            return [self.data(each) for each in cast("list[Any]", value)[:_MOST_LISTED]]
        return value


@dataclass(frozen=True)
class Row:
    """One probe in a report, and its finding: the fields of `Probe` and `Finding`.

    Parameters:
        state: `as assumed`, `differs` or `not known`.
    """

    name: str
    assumed: str
    source: str
    state: str
    came: str
    facts: Json = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Report:
    """What a run found.

    Parameters:
        server: The server, by its answers: `mistral`, `vllm`, `llama.cpp`, …
        says: The server, by its list of models.
        build: The server's build, as vLLM reports it; empty where it is not reported.
        where: `api.mistral.ai`, `this machine` or `elsewhere`.
        model: The model; of a fine-tuned one, its prefix only.
        date: The day, in ISO form.
        version: The version of `mistral_service`.
        python: The version of Python.
        requests: Requests that were sent.
        tokens: Tokens of requests and replies.
        dollars: Their cost, by the price list; None where the model is not on it.
        note: A remark on the whole, or empty.
        rows: The probes, in order.
    """

    server: str
    says: str
    build: str
    where: str
    model: str
    date: str
    version: str
    python: str
    requests: int
    tokens: int
    dollars: float | None
    note: str = ""
    rows: tuple[Row, ...] = ()

    def as_json(self) -> Json:
        """The report as JSON takes it."""
        return {"report": KIND, "form": FORM, **asdict(self)}

    @property
    def counts(self) -> dict[str, int]:
        """The number of probes by state."""
        return {state.value: sum(r.state == state.value for r in self.rows) for state in State}

    @property
    def summary(self) -> str:
        """The number of probes by state, in words."""
        return ", ".join(f"{count} {state}" for state, count in self.counts.items())

    @property
    def differs(self) -> bool:
        """Whether something is not as assumed."""
        return any(row.state == State.DIFFERS.value for row in self.rows)

    @classmethod
    def from_file(cls, path: Path) -> "Report":
        """Read a report.

        Raises:
            NoReport: If it is not a report, or has another version.
        """
        wanted = f"a report that `{KIND} --report FILE` wrote, with `form` {FORM}"

        def fault(why: str) -> NoReport:
            return NoReport(f"{path} {why}: expected is {wanted}.")

        try:
            is_large = path.stat().st_size > _MOST_BYTES
            data: object = None if is_large else json.loads(path.read_text(encoding="utf-8"))
        except OSError as e:
            raise fault(f"cannot be read ({e.strerror})") from None
        except (ValueError, RecursionError):
            raise fault("is not JSON") from None
        if is_large:
            raise fault(f"has more than {_MOST_BYTES} bytes")
        read = object_of(data)
        if read.pop("report", None) != KIND:
            raise fault("is no report")
        if (form := read.pop("form", None)) != FORM:
            raise fault(
                f"is a report of the form {form!r}, which this version of mistral_service does not "
                "read"
            )
        with suppress(TypeError, KeyError):
            rows = tuple(Row(**row) for row in read.pop("rows"))
            if all(isinstance(row.facts, dict) for row in rows):  # pyright: ignore[reportUnnecessaryIsInstance]
                return cls(**read, rows=rows)
        raise fault("has other fields than a report")


def row_of(probe: Probe, finding: Finding, scrub: Scrub) -> Row:
    """A probe's row in a report."""
    return Row(
        probe.name,
        probe.assumed,
        probe.source,
        finding.state.value,
        printable(scrub.text(finding.came), _MOST_CAME),
        scrub.data(finding.facts),
    )


def public_model(model: str) -> str:
    """A model's name without the account that a fine-tuned one has in it."""
    return "ft:…" if model.startswith("ft:") else model


def public_place(host: str) -> str:
    """Where an endpoint is, without the name of a private host."""
    if host == "api.mistral.ai":
        return host
    return "this machine" if host in _PUBLIC else "elsewhere"


def markdown(report: Report) -> str:
    """A report in Markdown, for an issue."""
    cost = [] if report.dollars is None else [f"${report.dollars:.4f}"]
    made = (f"mistral_service {report.version}", f"Python {report.python}", report.where)
    sent = (f"{report.requests} requests", f"{report.tokens} tokens", *cost)
    lines = [
        f"### conform: {report.model}, {report.server}, {report.date}",
        "",
        f"{', '.join((*made, *filter(None, [report.build])))}; {', '.join(sent)}; "
        f"{report.summary}.",
        *(["", report.note] if report.note else []),
        "",
        "| | probe | assumed | what came |",
        "|---|---|---|---|",
    ]
    for row in report.rows:
        cells = (row.state, row.name, row.assumed, row.came)
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """A text as a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def captures(answers: Mapping[tuple[str, int], Any], scrub: Scrub) -> Iterator[tuple[str, str]]:
    """The streams of a run, in the form of `tests/captures/*.sse`.

    Yields:
        The name of a file, and its text; each stream once.
    """
    seen: set[int] = set()
    for (name, place), answer in answers.items():
        if not answer.raw or id(answer) in seen:
            continue
        seen.add(id(answer))
        text: str = answer.raw.decode("utf-8", "replace")
        for chunk in answer.chunks:
            if isinstance(chunk.get("id"), str) and chunk["id"]:
                text = text.replace(chunk["id"], _REPLY_ID)
        # The scrub takes any id for one that identifies somebody.
        lines = [
            _REPLY_ID.join(map(scrub.text, line.split(_REPLY_ID))) for line in text.split("\n")
        ]
        word = re.sub(r"\W+", "_", name).strip("_")
        yield f"{word}{f'_{place + 1}' if place else ''}.sse", "\n".join(lines)
