"""The documentation site: built without a warning, and its parts that come from the code."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import charts  # noqa: E402
import modules  # noqa: E402
import reference  # noqa: E402
import servers  # noqa: E402

pytest.importorskip("mkdocs", reason="the site needs the extra docs: make test installs it")


def build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=project,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The documents in a folder where they may be broken."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "docs", project / "docs")
    for name in ("mkdocs.yml", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, project / name)
    return project


def test_the_site_is_built_without_a_warning(tmp_path: Path):
    built = build(ROOT, tmp_path / "site")
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    front = (tmp_path / "site" / "index.html").read_text()
    assert "that a phone call can depend on" in front
    pages = {page.name for page in (tmp_path / "site").glob("*.html")}
    for page in ("rules", "cli", "settings", "migration", "self-hosted", "benchmarks", "testing"):
        assert f"{page}.html" in pages
        assert f'href="{page}.html"' in front
    for image in re.findall(r'(?:src|srcset)="(images/[^"]+)"', front):
        assert (tmp_path / "site" / image).exists(), image
    assert "images/cut-and-resumed.webp" in front
    # Nothing that a page needs is fetched from elsewhere.
    assert not re.findall(r'(?:<script[^>]* src|<link[^>]*stylesheet[^>]* href)="https?:', front)


def test_a_link_that_leads_nowhere_breaks_the_build(copied: Path, tmp_path: Path):
    with (copied / "docs" / "cli.md").open("a") as page:
        page.write("\n[Nowhere](nowhere.md)\n")
    built = build(copied, tmp_path / "site")
    assert built.returncode == 1
    assert "nowhere.md" in built.stderr


def test_a_page_without_a_place_breaks_the_build(copied: Path, tmp_path: Path):
    (copied / "docs" / "forgotten.md").write_text("# Forgotten\n")
    built = build(copied, tmp_path / "site")
    assert built.returncode == 1
    assert "forgotten.md: give it a place in ORDER" in built.stderr


def test_the_settings_page_is_what_the_code_says():
    assert reference.PAGE.read_text() == reference.render(), "run make docs"
    assert "| `temperature` | a number from 0 to 1.5 |" in reference.render()


def test_the_list_of_modules_is_what_their_docstrings_say():
    assert modules.PAGE.read_text() == modules.page(), "run make docs"
    folders = {path.parent for path in modules.PACKAGE.rglob("*.py")} - {modules.PACKAGE}
    assert folders == {modules.PACKAGE / name for name in modules.FOLDERS}


def test_the_tables_of_servers_are_what_the_reports_say():
    assert servers.PAGE.read_text(encoding="utf-8") == servers.render(), "run make docs"


def test_the_chart_shows_the_table_of_the_readme():
    found = charts.ratios()
    assert len(found) >= 4
    drawn = charts.CHART.read_text()
    for name, ratio in found.items():
        assert name in drawn
        assert f"{ratio:.2f}×" in drawn
