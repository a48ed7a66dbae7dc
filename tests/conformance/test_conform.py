"""`mistral-service conform`: assumptions held against endpoints, and endpoints made of reports."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from command_line import run
from ports import free_port
from rich.console import Console
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from mistral_service.cli import conform
from mistral_service.cli.endpoint import CommandError, Endpoint
from mistral_service.conformance import report as reports
from mistral_service.conformance.answer import Answer
from mistral_service.conformance.probe import State
from mistral_service.conformance.probes import PROBES
from mistral_service.conformance.report import NoReport, Report, Scrub
from mistral_service.conformance.run import Plan
from mistral_service.local import (
    AsAsked,
    Behaviour,
    Checks,
    LocalMistral,
    RateLimits,
    Reply,
    Script,
)
from mistral_service.turn.prices import PRICES

ROOT = Path(__file__).parents[2]
SERVERS = ROOT / "docs" / "servers"
KEY = "a-key-that-is-nowhere-shown-7"
MODEL = "mistral-small-latest"
UNKNOWN = State.NOT_KNOWN.value


@pytest.fixture
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("MISTRAL_MODEL", raising=False)


@pytest.fixture
def strict() -> Iterator[LocalMistral]:
    """The strict endpoint, which answers in the way that it is asked."""
    limits = RateLimits(100_000, 1_000_000_000)
    with LocalMistral(AsAsked(), api_key=KEY, limits=limits) as mistral:
        yield mistral


def answering(app: Starlette) -> LocalMistral:
    """An endpoint in a thread that is another application."""
    mistral = LocalMistral(Script())
    mistral._app = app
    return mistral


async def found_at(mistral: LocalMistral, **options) -> tuple[Report, str]:
    endpoint = Endpoint(mistral.base_url, KEY)
    options = {"budget": 1.0, **options}
    return await conform.run_probes(endpoint, MODEL, Plan.of(MODEL), **options)


# --- the run ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_key")
def test_the_strict_endpoint_is_as_we_assume_in_everything(strict, tmp_path: Path):
    file = tmp_path / "report.json"
    result = run("conform", "--base-url", strict.base_url, "--yes", "--report", str(file))
    assert result.exit_code == 0, result.output
    report = Report.from_file(file)
    assert report.counts == {"as assumed": len(PROBES), "differs": 0, "not known": 0}
    assert (report.server, report.note) == ("mistral", "")
    assert KEY not in result.output + file.read_text()


@pytest.mark.usefixtures("_key")
def test_what_differs_is_shown_with_what_came(tmp_path: Path):
    script = Script(Reply("Yes.", times=None))
    with LocalMistral(script, Checks(hosted=False), api_key=KEY) as mistral:
        result = run(
            "conform",
            *("--base-url", mistral.base_url, "--yes", "--report", str(tmp_path / "r.json")),
        )
    assert result.exit_code == 1
    assert re.search("≠ +R10 nine images +accepted", result.output)
    assert "assumed: Nine images are refused: 400." in result.output
    assert re.search(r"\? +thoughts +the model thought nothing that is shown", result.output)


@pytest.mark.usefixtures("_key")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "mistral-smal-latest"], "did you mean mistral-small-latest?"),
        (["--budget", "-1"], "Invalid value"),
        (["--report", "/nowhere/report.json"], "The report cannot be written to"),
        (["--captures", "/dev/null/captures"], "cannot be created"),
        (["--base-url", "api.mistral.ai"], "is not the address of an endpoint"),
    ],
)
def test_what_cannot_run_says_so_in_a_sentence(strict, arguments: list[str], said: str):
    result = run("conform", "--base-url", strict.base_url, "--yes", *arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert not strict.exchanges


def test_a_refused_key_ends_it_before_a_probe(strict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MISTRAL_API_KEY", "another-key-123")
    result = run("conform", "--base-url", strict.base_url, "--yes")
    assert (result.exit_code, strict.exchanges) == (2, [])
    assert "did not accept the API key" in result.output
    assert "another-key-123" not in result.output


@pytest.mark.usefixtures("_key")
def test_a_closed_port_is_reported():
    result = run("conform", "--base-url", f"http://127.0.0.1:{free_port()}/v1", "--yes")
    assert result.exit_code == 2
    assert "cannot be reached: no connection" in result.output


@pytest.mark.usefixtures("_key")
def test_what_is_no_chat_endpoint_is_reported():
    page = Route("/{path:path}", lambda _: PlainTextResponse("<html>"), methods=["GET", "POST"])
    with answering(Starlette(routes=[page])) as mistral:
        result = run("conform", "--base-url", mistral.base_url, "--yes")
    assert result.exit_code == 2
    assert "is not a chat endpoint" in result.output


@pytest.mark.usefixtures("_key")
def test_without_a_terminal_it_does_not_begin_unasked(strict):
    result = run("conform", "--base-url", strict.base_url)
    assert (result.exit_code, strict.exchanges) == (2, [])
    assert "There is no terminal to ask on: --yes" in result.output


@pytest.mark.parametrize(
    ("typed", "begins"), [("y", True), ("YES ", True), ("", False), ("n", False)]
)
def test_on_a_terminal_it_begins_only_after_a_yes(typed: str, begins: bool, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda: typed)
    refusal = (
        contextlib.nullcontext()
        if begins
        else pytest.raises(CommandError, match="Nothing was sent")
    )
    with refusal:
        conform.confirm("93 requests.", Console())


def test_the_question_says_how_many_requests_and_what_they_cost_at_most():
    asked = conform.plan_sentence(Plan.of(MODEL), Endpoint("https://api.mistral.ai/v1", KEY), 0.06)
    assert re.fullmatch(
        r"\d+ requests to api.mistral.ai, at most \$0.0\d+ by the price list.", asked
    )
    unknown = conform.plan_sentence(Plan.of("new"), Endpoint("https://gpu.example/v1", KEY), 0.01)
    assert (
        "$0.010 by the most expensive model of the price list; it ends at the budget of $0.01"
        in unknown
    )


@pytest.mark.parametrize("model", PRICES)
def test_every_model_of_the_price_list_fits_the_default_budget(model: str):
    assert Plan.of(model).dollars < conform.DEFAULT_BUDGET


async def test_a_budget_and_a_count_of_requests_are_kept(strict):
    report, stopped = await found_at(strict, budget=0.0001)
    assert stopped == "the budget of $0.0001 would be exceeded"
    assert conform.status_of(report, stopped) == 2
    assert 2 < len(strict.exchanges) < 60
    before = len(strict.exchanges)
    report, stopped = await found_at(strict, most_requests=10)
    assert report.requests == 10
    assert len(strict.exchanges) - before <= 10
    assert "10 requests have been sent" in stopped


async def test_a_rate_limit_is_waited_for_once_and_then_not_known():
    async def limited(request) -> JSONResponse:
        asked = await request.json()
        if asked["messages"][-1]["content"] == "Say yes." and "stop" not in asked:
            choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}}
            return JSONResponse({"choices": [choice]})
        counted.append(asked)
        return JSONResponse({"message": "slow down"}, 429, {"Retry-After": "0"})

    counted: list[object] = []
    route = Route("/v1/chat/completions", limited, methods=["POST"])
    plan = Plan.of(MODEL, [probe for probe in PROBES if probe.name in ("stop", "top_p")])
    with answering(Starlette(routes=[route])) as mistral:
        report, _ = await conform.run_probes(
            Endpoint(mistral.base_url, KEY), MODEL, plan, budget=1.0
        )
    assert [row.state for row in report.rows] == ["as assumed", UNKNOWN]
    assert report.rows[1].came == "the rate limit is reached, also after a wait"
    assert len(counted) == 2


async def test_an_endpoint_that_lies_about_what_it_is_is_reported():
    liar = Behaviour.from_file(SERVERS / "vllm.json")
    liar.facts["models"].update(owners=["mistralai"], capabilities=True, aliases=True)
    with LocalMistral(AsAsked(), behaviour=liar) as mistral:
        report, _ = await found_at(mistral)
    assert report.note.startswith("The endpoint claims to be mistral, but answers as vllm does")


# --- the report ---------------------------------------------------------------------------------


def test_a_report_tells_nothing_of_who_asked():
    scrub = Scrub(KEY, "gpu.example.org")
    said = (
        f"Key {KEY} of org-8f3kd92kfj and anna@example.org at https://GPU.example.org:8000: "
        "request 3f2504e0-4f89-11d3-9a0c-0305e82c3301, f1e2d3c4b5a6978877665544332211aa"
    )
    assert scrub.text(said) == (
        "Key [key] of [id] and [address] at https://[host]:8000: request [id], [id]"
    )
    assert scrub.text("invalid_request_message_order 3230") == "invalid_request_message_order 3230"
    assert reports.public_model("ft:open-mistral-7b:587a6b29:20240514:7e773925") == "ft:…"
    assert reports.public_place("gpu.example.org") == "elsewhere"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "is no report"),
        ('{"report": "mistral-service conform", "form": 7}', "is a report of the form 7"),
        ('{"report": "mistral-service conform", "form": 1}', "has other fields than a report"),
    ],
)
def test_what_is_no_report_says_what_is_expected(tmp_path: Path, text: str, said: str):
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(NoReport, match=said) as reported:
        Behaviour.from_file(file)
    assert "expected is a report that `mistral-service conform --report FILE` wrote" in str(
        reported.value
    )
    served = run("serve", "--port", "0", "--as", str(file))
    assert served.exit_code == 1


async def test_markdown_and_captures_have_what_came(strict, tmp_path: Path):
    report, _ = await found_at(strict, captures=tmp_path)
    table = reports.markdown(report)
    assert "| as assumed | R6 | Ids of calls that are not nine letters and digits" in table
    assert table.count("\n| ") == len(PROBES) + 1
    capture = (tmp_path / "thoughts.sse").read_text()
    assert capture.startswith('data: {"id": "f1e2d3c4b5a6978877665544332211aa"')
    assert '"type": "thinking"' in capture
    assert capture.endswith("data: [DONE]\n\n")


# --- an endpoint made of a report ---------------------------------------------------------------


@pytest.mark.parametrize("server", ["vllm", "llama.cpp"])
async def test_an_endpoint_made_of_a_report_gives_the_same_report(server: str):
    was = Report.from_file(SERVERS / f"{server}.json")
    with LocalMistral(AsAsked(), behaviour=Behaviour.of(was)) as mistral:
        now, _ = await found_at(mistral)
    assert now.server == was.server
    reported = {row.name: (row.state, row.facts) for row in now.rows}
    for row in was.rows:
        if row.state != UNKNOWN:
            assert reported[row.name] == (row.state, row.facts), row.name


WAYS = [
    {
        "first chunk": {"role": None, "content": "words"},
        "last chunk": {"content": "none"},
        "usage in a stream": {"place": "after"},
        "[DONE]": {"done": False},
        "thoughts": {"form": "reasoning_content"},
        "calls whole": {"pieces": True},
        "calls together": {"together": False},
        "calls' index": {"index": "none"},
        "calls' ids": {"ids": "chatcmpl-tool-…"},
        "prefix": {"repeated": False},
    },
    {
        "first chunk": {"role": "assistant", "content": "absent"},
        "last chunk": {"content": "null"},
        "usage in a stream": {"place": "every"},
        "thoughts": {"form": "markup"},
        "calls together": {"together": False},
        "calls' index": {"index": "same"},
        "calls' end": {"reason": "stop"},
        "cached tokens": {"reported": False},
        "correlation id": {"header": False},
        "rate headers": {"headers": ["x-ratelimit-limit-requests"]},
    },
]
"""Two servers that differ in every form of a reply."""


@pytest.mark.parametrize("facts", WAYS, ids=["one", "another"])
async def test_every_form_of_a_reply_can_be_another_servers(facts: dict):
    with LocalMistral(AsAsked(), behaviour=Behaviour(MODEL, facts)) as mistral:
        report, _ = await found_at(mistral)
    reported = {row.name: row.facts for row in report.rows}
    for name, expected in facts.items():
        assert reported[name] == expected, name
        assert next(row.state for row in report.rows if row.name == name) == "differs"


@pytest.mark.parametrize(
    "odd", [{"n": "x", "max_tokens": "x"}, {"tools": "x", "tool_choice": []}, {"model": 7}]
)
def test_an_endpoint_made_of_a_report_answers_odd_bodies(odd: dict):
    body = {"messages": [{"role": "user", "content": "Hi."}], **odd}
    with LocalMistral(AsAsked(), behaviour=Behaviour(MODEL)) as mistral:
        url = f"{mistral.base_url}/chat/completions"
        answered = httpx.post(url, json=body, headers={"Authorization": "Bearer any"})
        assert answered.json()["choices"][0]["message"]["content"] == "Hi."
        refused = httpx.post(url, json=["x"], headers={"Authorization": "Bearer any"})
        assert refused.status_code == 422


def test_a_refusal_applies_to_its_own_probe_alone():
    """A predicate that holds for the bodies of other probes would refuse them too."""
    for probe in PROBES:
        if probe.applies_to is None:
            continue
        assert probe.applies_to(probe.requests[0].sent(MODEL)), probe.name
        for valid in probe.requests[1:]:
            assert not probe.applies_to(valid.sent(MODEL)), probe.name


def test_another_servers_way_is_served(tmp_path: Path):
    """As a user starts it: `mistral-service serve --as report.json`."""
    behaviour = Behaviour.from_file(SERVERS / "vllm.json")
    with LocalMistral(AsAsked(), behaviour=behaviour) as mistral:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello."}]}
        url = f"{mistral.base_url}/chat/completions"
        refused = httpx.post(url, json={**body, "tool_choice": "any"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "BadRequestError")
        assert httpx.post(url, json={**body, "seed": 7}).status_code == 200
        listed = httpx.get(f"{mistral.base_url}/models").json()["data"]
        assert [card["owned_by"] for card in listed] == ["vllm"]


# --- answers of any kind ------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, 7, [], [7, None, {"type": "text"}], {"a": 1}, "x"])
def test_no_form_of_an_answer_breaks_an_evaluation(content: object):
    chunk = {"choices": [{"delta": {"content": content, "tool_calls": content}}], "usage": content}
    whole = {
        "choices": [{"message": {"content": content, "tool_calls": content}}],
        "usage": content,
    }
    for answer in (
        Answer(200, body=whole),
        Answer(200, chunks=(chunk, {"choices": content}), garbled=1),
        Answer(400, body=content),
        Answer(400, body={"detail": content}),
        Answer(400, body={"error": {"message": content, "code": content, "type": content}}),
    ):
        for probe in PROBES:
            finding = probe.evaluate([answer] * len(probe.requests))
            json.dumps([finding.came, finding.facts])
