"""The files that a public project has say what is true here."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
PAGES = ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "README.md"]


def loaded(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def test_ci_runs_what_holds_before_a_change_lands_on_every_python_that_is_promised():
    job = loaded(".github/workflows/ci.yml")["jobs"]["test"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = [c.rpartition(" ")[2] for c in project["classifiers"] if "Python :: 3." in c]
    assert job["strategy"]["matrix"]["python"] == promised
    [run] = [step for step in job["steps"] if "run" in step]
    assert run["run"] == ".ci/run"
    assert run["env"]["PYTHON"] == "python${{ matrix.python }}"  # the Makefile's own variable


def test_publishing_needs_no_token_and_only_its_job_may_ask_for_one():
    text = (GITHUB / "workflows" / "publish.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    assert "secrets." not in text
    assert "password" not in text
    trusted = [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})]
    assert trusted == ["publish"]
    assert jobs["publish"]["needs"] == "build"
    assert any("make dist" in step.get("run", "") for step in jobs["build"]["steps"])


def test_an_action_is_pinned_by_its_commit_and_says_its_version():
    pinned = r"[\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+"
    for workflow in sorted((GITHUB / "workflows").glob("*.y*ml")):
        uses = re.findall(r"^[ -]*uses:(.*)$", workflow.read_text(), re.M)
        assert uses, workflow
        assert [use for use in uses if not re.fullmatch(pinned, use.strip())] == [], workflow


def test_the_lock_is_refreshed_weekly():
    updates = loaded(".github/dependabot.yml")["updates"]
    weekly = {u["package-ecosystem"]: u["schedule"]["interval"] for u in updates}
    assert weekly == dict.fromkeys(["uv", "npm", "github-actions"], "weekly")
    assert all((ROOT / u["directory"].strip("/")).is_dir() for u in updates)


def test_who_reports_an_odd_server_is_asked_for_the_stream():
    fields = {f["id"]: f for f in loaded(".github/ISSUE_TEMPLATE/odd-server.yml")["body"][1:]}
    assert fields["stream"]["validations"]["required"] is True
    assert "curl -sN" in fields["stream"]["attributes"]["description"]
    assert "doctor" in fields["versions"]["attributes"]["description"]


@pytest.mark.parametrize("form", sorted((GITHUB / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=str)
def test_every_form_has_what_github_wants_of_one(form: Path):
    body = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= body.keys()
    ids = [field["id"] for field in body["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 0
    for field in body["body"]:
        assert field["type"] in ("markdown", "input", "textarea", "dropdown", "checkboxes")
        assert field["attributes"]["value" if field["type"] == "markdown" else "label"]


def test_a_commit_is_checked_by_the_ruff_of_the_lock():
    [local] = loaded(".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    programs = [shlex.split(hook["entry"])[:2] for hook in local["hooks"]]
    assert programs == [[".venv/bin/ruff", "check"], [".venv/bin/ruff", "format"]]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page: str):
    text = (ROOT / page).read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z][a-z-]+)[^`]*`", text):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for path in re.findall(r"`([\w.-]+/[\w./-]*|[\w-]+\.md)`", text):
        if not path.startswith((".venv", "site/", "v1/")):
            assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\((?!http|#)([^)#]+)", text):
        assert (ROOT / path).exists(), path
