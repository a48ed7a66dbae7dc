"""The pytest plugin: `mistral_server`, a strict Mistral endpoint for the tests of a user's own bot.

pytest finds it through the entry point `pytest11` wherever the package is installed. It loads
nothing of the endpoint until a test asks for the fixture, so other tests do not pay for it, nor
need the extra `local`.
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
            *replies: What it answers, in order. A request beyond them is refused with a sentence
                that says so.
            checks: How strict it is; by default as strict as every deployment of Mistral together.
            api_key: The one key that is right; None takes any.

        Returns:
            The endpoint: its `base_url`, its `script`, to which more replies can be added, and in
            `exchanges` what was asked.
        """
        ...


@pytest.fixture
def mistral_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MistralServer]:
    """Start strict Mistral endpoints: `mistral_server(Reply("Hello."), Reply(status=429))`.

    `MISTRAL_BASE_URL` and `MISTRAL_API_KEY` lead to the first one that a test starts, so a bot that
    takes them from the environment is tested as it is. Where the test fails, what an endpoint
    refused is told with it.
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

    # pytest shows this where the test has failed, and only there.
    for mistral in started:
        for number, exchange in enumerate(mistral.exchanges):
            if exchange.refused is not None:
                print(f"mistral_server refused request {number}: {exchange.refused}")
