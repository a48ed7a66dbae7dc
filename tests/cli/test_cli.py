"""The command line, run as a user runs it, against an endpoint."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from command_line import SECRET, run
from fault_proxy import untrusted
from PIL import Image
from ports import free_port
from rich.console import Console
from waiting import until_now

from mistral_service.cli import checks, doctor, lint, tools
from mistral_service.conversation.conversion import Conversion
from mistral_service.conversation.rules import apply_rules
from mistral_service.local import Checks, Reply
from mistral_service.wire.models import Catalogue

ROOT = Path(__file__).parents[2]
HISTORY = [
    {"role": "user", "content": "Hello."},
    {
        "role": "assistant",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "w", "arguments": "{}"}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    {"role": "user", "content": "Thanks."},
]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("MISTRAL_MODEL", raising=False)


def start(*arguments: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    first = f"{code}\nimport sys; from mistral_service.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", first, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


# --- all of it ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["doctor", "lint", "chat", "models", "conform", "serve", "demo"]
)
def test_every_command_explains_itself(command: str):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"mistral-service {command}" in result.output


def test_without_typer_a_sentence_says_what_to_install():
    ran = start("doctor", code="import sys; sys.modules['typer'] = None")
    assert ran.returncode == 1
    assert "pip install 'pipecat-mistral-service[cli]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_command_line_loads_no_pipecat():
    ran = start(
        code="import mistral_service.cli.app, sys; "
        "sys.exit('pipecat' in sys.modules or 'mistral_common' in sys.modules)"
    )
    assert ran.returncode == 0


@pytest.mark.parametrize("command", [["doctor"], ["models"], ["chat", "Hi."]])
def test_without_a_key_a_sentence_says_where_keys_are_made(command: list[str]):
    result = run(*command)
    assert result.exit_code == 1
    assert "set MISTRAL_API_KEY" in result.output


@pytest.mark.parametrize("command", [["models"], ["chat", "Hi."]])
def test_a_refused_key_is_reported_and_not_shown(command: list[str], serve, monkeypatch):
    mistral = serve(api_key="the right one")
    monkeypatch.setenv("MISTRAL_API_KEY", SECRET)
    result = run(*command, "--base-url", mistral.base_url)
    assert result.exit_code == 1
    assert "did not accept the API key" in result.output


def test_an_address_that_is_none_is_reported():
    result = run("models", "--base-url", "api.mistral.ai")
    assert result.exit_code == 1
    assert "begin with http:// or https://" in result.output


def test_a_fault_of_our_own_is_a_sentence_too(monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(lint, "read_file", broken)
    result = run("lint", "any.json")
    assert "A fault of mistral-service itself, ZeroDivisionError: by nothing" in result.output


def test_a_shell_can_complete_the_commands():
    ran = start(
        "doc",
        code="import sys; sys.argv[0] = 'mistral-service'",
        _MISTRAL_SERVICE_COMPLETE="complete_bash",
        COMP_WORDS="mistral-service do",
        COMP_CWORD="1",
    )
    assert ran.stdout.split() == ["doctor"]


# --- doctor -------------------------------------------------------------------------------------


def test_the_doctor_finds_all_well(serve):
    mistral = serve(Reply("Hello to you.", first_wait=0.02, times=None))
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert "A bot can speak." in result.output
    assert len(mistral.exchanges) == 5
    assert len(re.findall(r"\d+ ms .*█", result.output)) == 5


def test_a_quick_try_beside_a_slow_one_has_a_bar_as_well():
    console = Console(width=60)
    with console.capture() as shown:
        console.print(doctor._bars([0.026, 1.023]))
    quick, slow = shown.get().splitlines()
    assert re.fullmatch(r" *26 ms █ *", quick)
    assert re.fullmatch(r"1023 ms █{20,} *", slow)


def test_the_doctor_tells_a_program(serve):
    serve(Reply("Hello to you.", times=None))
    result = run("doctor", "--json", "--tries", "2")
    report = json.loads(result.output)
    assert report["healthy"] is True
    found = {finding["name"]: finding for finding in report["findings"]}
    assert set(found) == {
        "versions",
        "connection",
        "TLS",
        "key",
        "clock",
        "model",
        "first word",
    }
    assert found["clock"]["state"] == "good"
    assert len(found["first word"]["seconds"]) == 2


def test_the_doctor_knows_the_wrong_key(serve, monkeypatch):
    mistral = serve(api_key="the right one")
    monkeypatch.setenv("MISTRAL_API_KEY", SECRET)
    result = run("doctor")
    assert result.exit_code == 1
    assert re.search("✗ +key", result.output)
    assert "make a new key at console.mistral.ai" in result.output
    assert not mistral.exchanges


def test_the_doctor_knows_what_the_model_should_be_called(serve):
    serve()
    result = run("doctor", "--model", "mistral-smal-latest")
    assert result.exit_code == 1
    assert "did you mean mistral-small-latest?" in result.output


def test_the_doctor_tells_a_refused_request(serve):
    serve(Reply(status=429, body={"message": "Rate limit exceeded", "code": "1300"}))
    result = run("doctor")
    assert result.exit_code == 1
    assert "rate limit is reached" in result.output


def test_the_doctor_knows_a_closed_port():
    result = run("doctor", "--base-url", f"http://127.0.0.1:{free_port()}/v1")
    assert result.exit_code == 1
    assert "does anything listen there?" in result.output


def test_the_doctor_knows_a_certificate_that_nobody_trusts():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError):
                untrusted().wrap_socket(connection, server_side=True)

        threading.Thread(target=accept, daemon=True).start()
        result = run("doctor", "--base-url", f"https://127.0.0.1:{listener.getsockname()[1]}/v1")
    assert result.exit_code == 1
    assert re.search("✗ +TLS", result.output)
    assert "SSL_CERT_FILE" in result.output


@pytest.mark.parametrize(
    ("apart", "said"), [(0, "agrees"), (-600, "600 s ahead"), (600, "behind"), (None, "no date")]
)
def test_the_clock_is_held_against_the_servers(apart, said):
    theirs = datetime.now(UTC) + timedelta(seconds=apart or 0)
    date = None if apart is None else format_datetime(theirs, usegmt=True)
    finding = checks._clock(date, time.time())
    assert said in finding.said
    assert (finding.state is checks.State.WARNING) == bool(apart)


def test_a_model_that_will_be_gone_is_warned_of():
    card = {
        "id": "old",
        "capabilities": {"completion_chat": True, "function_calling": False},
        "deprecation": "2026-12-01T00:00:00Z",
        "deprecation_replacement_model": "new",
    }
    able, future = checks._model(Catalogue.from_reply([card]), "old")
    assert able.advice == "a bot with functions needs another model"
    assert (future.said, future.advice) == ("old is gone from 2026-12-01 on", "use new")


# --- lint ---------------------------------------------------------------------------------------


def test_lint_shows_rule_reason_and_difference(tmp_path: Path):
    file = tmp_path / "history.json"
    file.write_text(json.dumps(HISTORY))
    result = run("lint", str(file))
    assert result.exit_code == 1
    assert "R6  message 1  gave its calls ids" in result.output
    assert '- {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}' in result.output
    assert '+ {"role": "assistant", "content": "Understood."}' in result.output
    assert "2 changes before it is sent (R6, R2)." in result.output


def test_lint_says_what_is_sent_and_that_is_clean(tmp_path: Path):
    file = tmp_path / "history.json"
    file.write_text(json.dumps({"messages": HISTORY, "tools": [{"type": "function"}]}))
    result = run("lint", "--json", str(file))
    report = json.loads(result.output)
    assert (result.exit_code, report["clean"]) == (1, False)
    assert [change["rule"] for change in report["changes"]] == ["R6", "R2"]
    assert report["messages"] == apply_rules(HISTORY, Conversion(has_tools=True))
    request = {"model": "mistral-small-latest", "messages": report["messages"]}
    assert Checks().validate(request) is None
    again = run("lint", "-", said=json.dumps(report["messages"]))
    assert again.exit_code == 0
    assert "goes out as it is" in again.output


def test_lint_shows_the_tools_that_would_be_left_out():
    tools = [
        {"type": "function", "function": {"name": "book", "parameters": "a table"}},
        {"type": "function", "function": {"name": "weather"}},
    ]
    said = json.dumps({"messages": [{"role": "user", "content": "Hello."}], "tools": tools})
    result = run("lint", "-", said=said)
    assert result.exit_code == 1
    assert "book is not offered to the model: parameters is 'a table'" in result.output
    assert "goes out as it is" not in result.output
    report = json.loads(run("lint", "--json", "-", said=said).output)
    assert [fault["tool"] for fault in report["left_out"]] == ["book"]
    assert (report["clean"], report["changes"]) == (False, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("7", "is not a history"),
        ("{}", "is not a history"),
        ("[1]", "message 0 is no object with a role"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_what_is_no_history_is_reported(text: str, said: str):
    result = run("lint", "-", said=text)
    assert result.exit_code == 2
    assert said in result.output


def test_a_file_that_is_not_there_is_reported():
    result = run("lint", "/nowhere/history.json")
    assert result.exit_code == 2
    assert "cannot be read: No such file" in result.output


# --- models -------------------------------------------------------------------------------------


def test_models_are_listed(serve):
    serve()
    table = run("models").output
    assert re.search(r"codestral-latest +256,000", table)
    assert "also mistral-medium" in table
    cards = {card["id"]: card for card in json.loads(run("models", "--json").output)}
    assert cards["mistral-small-latest"]["vision"] is True


# --- chat ---------------------------------------------------------------------------------------


def test_one_question_and_its_answer(serve):
    mistral = serve(Reply("It rains."))
    result = run("chat", "How is the weather?", "--system", "Be short.")
    assert result.exit_code == 0
    assert "It rains.\n" in result.output
    assert re.search(r"\d+ \+ \d+ tokens · first word \d\.\d\d s", result.output)
    [exchange] = mistral.exchanges
    assert exchange.request["messages"][0] == {"role": "system", "content": "Be short."}
    assert exchange.request["reasoning_effort"] == "none"


def test_the_calculator_is_called_and_its_result_shown(serve):
    call = {"name": "calculator", "arguments": {"expression": "17 * 23"}}
    mistral = serve(Reply(tool_calls=[call]), Reply("It is 391."))
    result = run("chat", "What is 17 times 23?")
    assert "→ calculator(expression='17 * 23') = 391" in result.output
    assert "It is 391." in result.output
    assert mistral.exchanges[1].request["messages"][-1]["content"] == "391"


def test_a_image_is_shown(serve, tmp_path: Path):
    mistral = serve(Reply("A square."))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "square.png")
    assert run("chat", "What is it?", "--image", str(tmp_path / "square.png")).exit_code == 0
    words, image = mistral.exchanges[0].request["messages"][0]["content"]
    assert words == {"type": "text", "text": "What is it?"}
    assert image["type"] == "image_url"


def test_what_is_no_image_is_reported(serve):
    serve()
    result = run("chat", "What is it?", "--image", "notes.txt")
    assert result.exit_code == 1
    assert "Mistral takes PNG, JPEG, WebP and GIF files" in result.output


def test_a_conversation_goes_on_after_an_error(serve):
    mistral = serve(
        Reply(status=402, body={"message": "empty"}), Reply("Yes, now."), Reply("Goodbye.")
    )
    result = run("chat", said="Are you there?\nAnd now?\nBye.\n")
    assert result.exit_code == 0
    assert "account has no credit left (402): empty" in result.output
    assert result.output.index("Yes, now.") < result.output.index("Goodbye.")
    assert len(mistral.exchanges[2].request["messages"]) == 3  # the rules have merged the first two


def test_a_model_does_not_steer_the_terminal(serve):
    serve(Reply(deltas=[{"content": "\x1b]0;mine\x07\x1b[2JHello."}]))
    result = run("chat", "Hi.")
    assert "\x1b" not in result.output
    assert "Hello." in result.output


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to one process")
def test_an_interrupted_answer_ends_the_connection(serve):
    mistral = serve(Reply("One two three", pause=20))
    with subprocess.Popen(
        [sys.executable, "-m", "mistral_service.cli", "chat", "Count."],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as chat:
        assert chat.stdout is not None
        assert chat.stdout.read(3) == "One"
        chat.send_signal(signal.SIGINT)
        _, shown = chat.communicate(timeout=60)
    assert chat.returncode == 130
    assert "(interrupted)" in shown
    assert "Traceback" not in shown
    until_now(lambda: mistral.exchanges[0].ended)
    assert mistral.exchanges[0].left


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("2 + 3 * 4", "14"),
        ("-(7 // 2) % 4", "1"),
        ("2 ** 10", "1024"),
        ("1 / 0", "error: 1 / 0 cannot be evaluated: division by zero"),
        ("9 ** 9 ** 9", "error: that power is too large"),
        ("__import__('os')", "error: only numbers"),
        ("(" * 400, "cannot be evaluated"),
        ("1" * 600, "at most 500 characters"),
    ],
)
def test_the_calculator_knows_arithmetic_and_nothing_else(expression: str, result: str):
    assert result in tools.call("calculator", json.dumps({"expression": expression}))


def test_the_clock_knows_zones_and_wrong_calls_are_reported():
    assert tools.call("time", '{"zone": "Asia/Kolkata"}').endswith("+05:30")
    assert tools.call("time", '{"zone": "Atlantis"}') == "error: there is no time zone 'Atlantis'"
    assert tools.call("time", '["Paris"]') == "error: time takes an object with zone"
    assert tools.call("weather", "{}") == (
        "error: there is no function weather, only calculator, time"
    )


# --- serve and demo -----------------------------------------------------------------------------


def test_serve_runs_the_endpoint(tmp_path: Path):
    script = tmp_path / "replies.json"
    script.write_text('[{"text": "From a file."}]')
    with subprocess.Popen(
        [sys.executable, "-m", "mistral_service.cli", "serve", "--port", "0"]
        + ["--script", str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            assert "From a file." in run("chat", "Who?", "--base-url", url).output
        finally:
            server.terminate()
        assert server.wait(timeout=60) == 0


def test_serve_and_demo_take_the_options_of_the_programs_they_are():
    assert "is not a port" in start("demo", "--port", "99999").stderr
    refused = start("serve", "--accept", "v2", "--script", os.devnull)
    assert refused.returncode == 1
    assert "there is no tokenizer version 'v2'" in refused.stderr


@pytest.mark.parametrize("missing", ["uvicorn", "xllamacpp"])
def test_serve_without_its_extra_says_what_to_install(missing: str, tmp_path: Path):
    (tmp_path / "any.gguf").write_bytes(b"GGUF")
    ran = start(
        *("serve", "--port", "0", "--model", str(tmp_path / "any.gguf")),
        code=f"import sys; sys.modules[{missing!r}] = None",
    )
    assert ran.returncode == 1
    assert "pip install 'pipecat-mistral-service[local]'" in ran.stderr
    assert "Traceback" not in ran.stderr
