"""The pytest plugin: `mistral_server`, a strict Mistral endpoint for the tests of a user's own bot.

pytest finds it through the entry point `pytest11` wherever the package is installed. It loads
the endpoint only when a test asks for the fixture, so other tests neither pay for it nor need the
extra `local`.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from mistral_service.local import Checks, LocalMistral, Reply


class MistralServer(Protocol):
    """The type of the fixture `mistral_server`."""

    def __call__(
        self, *replies: "Reply", checks: "Checks | None" = None, api_key: str | None = None
    ) -> "LocalMistral":
        """Start an endpoint, which runs until the test ends.

        Args:
            *replies: What it answers, in order. A request beyond them gets an error that says so.
            checks: How strict it is; by default as strict as all of Mistral's deployments together.
            api_key: The one valid key; None accepts any.

        Returns:
            The endpoint, with its `base_url`, its `script`, to which replies can be added, and its
            `exchanges`, which record every request.
        """
        ...


@pytest.fixture
def mistral_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MistralServer]:
    """Start strict Mistral endpoints: `mistral_server(Reply("Hello."), Reply(status=429))`.

    `MISTRAL_BASE_URL` and `MISTRAL_API_KEY` point to the first one that a test starts, so a bot
    that reads them from the environment is tested unchanged. When a test fails, pytest shows what
    an endpoint refused.
    """
    try:
        from mistral_service.local import Checks, LocalMistral, Reply, Script
    except ImportError as e:
        pytest.fail(
            f"The fixture mistral_server needs a package that is missing ({e}): "
            "pip install 'pipecat-mistral-service[local]'.",
            pytrace=False,
        )

    started: list[LocalMistral] = []
    with ExitStack() as stack:

        def start(
            *replies: Reply, checks: Checks | None = None, api_key: str | None = None
        ) -> LocalMistral:
            endpoint = LocalMistral(Script(*replies), checks, api_key=api_key)
            mistral = stack.enter_context(endpoint)
            if not started:
                monkeypatch.setenv("MISTRAL_BASE_URL", mistral.base_url)
                monkeypatch.setenv("MISTRAL_API_KEY", api_key or "test-key")
            started.append(mistral)
            return mistral

        yield start

    # pytest shows this for failed tests only.
    for mistral in started:
        for number, exchange in enumerate(mistral.exchanges):
            if exchange.refused is not None:
                print(f"mistral_server refused request {number}: {exchange.refused}")
