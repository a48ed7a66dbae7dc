"""One vLLM for all tests here, and a place for the figures that they find."""

from collections.abc import Iterator

import pytest
from real_vllm import Vllm, running

FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory, figures: list[str]) -> Iterator[Vllm]:
    """A real vLLM; it starts once, which takes the better part of a minute."""
    with running(tmp_path_factory.mktemp("vllm")) as server:
        figures.append(f"vLLM {server.version}, up in {server.started_in:.0f} s.")
        yield server


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> list[str]:
    """Lines that are printed at the end."""
    return request.config.stash.setdefault(FIGURES, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the figures."""
    if lines := config.stash.get(FIGURES, []):
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
