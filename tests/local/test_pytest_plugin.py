"""The pytest plugin, in the hands of a user who tests a bot of their own."""

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from mistral_service.local import Checks, Reply

PLUGIN = "mistral_service.local.pytest_plugin"
ROOT = Path(__file__).parents[2]
PYTHON_BLOCKS = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs/testing.md").read_text(), re.DOTALL
)
SETTINGS = "[pytest]\nasyncio_mode = auto\n"


def run_pytest(folder: Path, **files: str) -> subprocess.CompletedProcess[str]:
    """Run the tests in a folder of their own, as a user does."""
    (folder / "pytest.ini").write_text(SETTINGS)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    # A checkout that was installed before it had the plugin does not tell pytest of it.
    installed = any(point.value == PLUGIN for point in entry_points(group="pytest11"))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *([] if installed else ["-p", PLUGIN])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_example_of_the_guide_passes_as_it_stands_there(tmp_path: Path):
    bot, test = PYTHON_BLOCKS[:2]
    ran = run_pytest(tmp_path, bot=bot, test_bot=test)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout
    body = test.partition("(mistral_server):\n")[2]
    assert len(body.splitlines()) <= 10


def test_the_example_fails_where_the_bot_is_broken(tmp_path: Path):
    bot, test = PYTHON_BLOCKS[:2]
    ran = run_pytest(tmp_path, bot=bot.replace('"closed"', '"open"'), test_bot=test)
    assert ran.returncode == 1
    assert "1 failed" in ran.stdout


def test_a_failed_test_tells_what_was_refused(tmp_path: Path):
    ran = run_pytest(
        tmp_path,
        test_bot="""
import os, httpx
from mistral_service.local import Reply

def test_a_bot_that_says_too_much(mistral_server):
    mistral = mistral_server(Reply("Hello."))
    httpx.post(
        mistral.base_url + "/chat/completions",
        headers={"Authorization": "Bearer any"},
        json={"model": "mistral-small-latest", "messages": [], "seed": 7},
    )
    assert mistral.exchanges[0].status == 200
""",
    )
    assert ran.returncode == 1
    assert "mistral_server refused request 0" in ran.stdout
    assert "extra_forbidden" in ran.stdout


def test_who_has_no_use_for_the_plugin_does_not_pay_for_it(tmp_path: Path):
    ran = run_pytest(
        tmp_path,
        test_nothing=f"""
import sys

def test_nothing_of_the_endpoint_is_loaded():
    assert "{PLUGIN}" in sys.modules
    heavy = ["mistral_common", "starlette", "uvicorn", "openai", "pipecat", "pydantic", "aiohttp"]
    assert [name for name in heavy if name in sys.modules] == []
""",
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_without_the_extra_the_fixture_says_what_to_install(tmp_path: Path):
    ran = run_pytest(
        tmp_path,
        conftest="import sys\nsys.modules['mistral_common'] = None\n",
        test_bot="def test_a_bot(mistral_server):\n    mistral_server()\n",
    )
    assert ran.returncode == 1
    assert "pip install 'pipecat-mistral-service[local]'" in ran.stdout
    assert "Traceback" not in ran.stdout


def test_the_environment_leads_to_the_first_endpoint(mistral_server):
    first = mistral_server(Reply("First."))
    second = mistral_server(Reply("Second."), api_key="the-second-key")
    assert os.environ["MISTRAL_BASE_URL"] == first.base_url != second.base_url
    with OpenAI(api_key=os.environ["MISTRAL_API_KEY"], base_url=first.base_url) as client:
        reply = client.chat.completions.create(
            model="mistral-small-latest", messages=[{"role": "user", "content": "Who?"}]
        )
    assert reply.choices[0].message.content == "First."
    assert (len(first.exchanges), len(second.exchanges)) == (1, 0)


@pytest.mark.parametrize(("checks", "status"), [(None, 400), (Checks(templates=False), 200)])
def test_strictness_is_the_tests_to_choose(mistral_server, checks, status):
    mistral = mistral_server(Reply("Yes."), checks=checks)
    said = [{"role": "user", "content": "One."}, {"role": "user", "content": "Two."}]
    answer = httpx.post(
        f"{mistral.base_url}/chat/completions",
        headers={"Authorization": "Bearer any"},
        json={"model": "mistral-small-latest", "messages": said},
    )
    assert answer.status_code == status


def test_replies_can_be_added_while_it_runs(mistral_server):
    mistral = mistral_server()
    asked = {
        "url": f"{mistral.base_url}/chat/completions",
        "headers": {"Authorization": "Bearer any"},
        "json": {
            "model": "mistral-small-latest",
            "messages": [{"role": "user", "content": "Hi."}],
        },
    }
    assert "the script has no reply" in httpx.post(**asked).text
    mistral.script.add(Reply("Hello."))
    assert httpx.post(**asked).json()["choices"][0]["message"]["content"] == "Hello."
