"""What is published: built, installed into an environment of its own, and run from there."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from uv import find_uv_bin

import mistral_service
from mistral_service.cli.checks import TESTED_PIPECAT

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=240,
    )
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel; it borrows the dependencies of this one."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    [wheel] = built.glob("*.whl")
    subprocess.run(
        [find_uv_bin(), "pip", "install", "--quiet", "--no-config", "--offline", "--no-deps"]
        + ["--python", str(home / "bin" / "python"), str(wheel)],
        check=True,
        timeout=240,
    )
    [packages] = home.glob("lib/python*/site-packages")
    # A path and no more: what a .pth file there says, a checkout's among them, is not followed.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return home


def run(home: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment, far from the checkout."""
    return subprocess.run(
        [str(home / "bin" / program), *arguments],
        cwd=home,
        env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_wheel_has_what_runs_and_nothing_else(built: Path):
    [wheel] = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    needed = {
        "mistral_service/py.typed",
        "mistral_service/demo/panel_bot.py",
        "mistral_service/demo/voice_bot.py",
        "mistral_service/demo/page/index.html",
        "mistral_service/demo/page/app.js",
        "mistral_service/local/pytest_plugin.py",
    }
    assert needed <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    rooms = {name.partition("/")[0] for name in names}
    assert rooms == {
        "mistral_service",
        f"pipecat_mistral_service-{mistral_service.__version__}.dist-info",
    }
    weights = re.compile(r"\.(gguf|onnx|bin|safetensors|pyc)$|/test_|conftest")
    assert not [name for name in names if weights.search(name)]
    assert wheel.stat().st_size < 1_000_000


def test_the_source_has_all_that_builds_tests_and_explains_it(built: Path):
    [source] = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("Makefile", "CHANGELOG.md", "LICENSE", "mkdocs.yml", "uv.lock"):
        assert needed in names
    assert {"tests/conftest.py", "docs/rules.md", "examples/voice_bot.py"} <= names
    assert not [n for n in names if re.search(r"\.(gguf|onnx|pyc)$|^\.venv|^site/", n)]


def test_every_module_of_the_wheel_can_be_imported(installed: Path):
    code = """
import importlib, pkgutil, mistral_service
names = [m.name for m in pkgutil.walk_packages(mistral_service.__path__, "mistral_service.")]
for name in names:
    importlib.import_module(name)
print(mistral_service.__file__, len(names))
"""
    ran = run(installed, "python", "-c", code)
    assert ran.returncode == 0, ran.stderr
    where, count = ran.stdout.split()[-2:]
    assert Path(where).is_relative_to(installed)
    assert int(count) > 50


def test_the_wheel_brings_its_command_and_its_fixture(installed: Path):
    ran = run(installed, "mistral-service", "--version")
    assert ran.stdout.strip() == mistral_service.__version__
    (installed / "test_bot.py").write_text(
        """
import os, subprocess, sys
from mistral_service.local import Reply

def test_a_question(mistral_server):
    mistral_server(Reply("From the wheel."))
    chat = [sys.executable, "-m", "mistral_service.cli", "chat", "Who?"]
    assert "From the wheel." in subprocess.check_output(chat, text=True)
"""
    )
    ran = run(installed, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_bot.py")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_what_is_said_of_versions_agrees():
    minor = sys.version_info[:2]
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert named == ["3.11", "3.12", "3.13"]
    assert minor >= (3, 11)
    assert f"Tested with **Pipecat {TESTED_PIPECAT}." in (ROOT / "README.md").read_text()
    [pipecat] = [each for each in PROJECT["dependencies"] if each.startswith("pipecat-ai")]
    assert f">={TESTED_PIPECAT}," in pipecat
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changes or f"## [{mistral_service.__version__}]" in changes


def test_the_core_has_few_dependencies():
    named = {re.split(r"[\[<>=]", each)[0] for each in PROJECT["dependencies"]}
    assert named == {"pipecat-ai", "openai", "loguru", "pydantic"}
