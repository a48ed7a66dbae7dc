"""What the tests share: an endpoint, a pipeline, and a way to see what comes out of it."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from loguru import logger
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mistral_service import MistralLLMService
from mistral_service.local import LocalMistral
from mistral_service.local.pytest_plugin import MistralServer, mistral_server

__all__ = ["mistral_server"]  # the plugin's, whether or not the checkout is installed anew

logger.remove()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--scale=long` breaks all that can break under 200 calls; `make test-scale` gives it."""
    parser.addoption("--scale", choices=["short", "long"], default="short")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long form of the cluster's tests to `make test-scale`."""
    if config.getoption("--scale") != "long":
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(autouse=True)
def _no_key_from_outside(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No test but a live one speaks to Mistral, whatever the developer's shell has set."""
    if request.node.get_closest_marker("live") is None:
        monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
        monkeypatch.delenv("MISTRAL_BASE_URL", raising=False)


@pytest.fixture
def serve(mistral_server: MistralServer) -> MistralServer:
    """Start strict endpoints, as users' tests do: `serve(Reply("Hello."), Reply(status=429))`."""
    return mistral_server


@pytest.fixture
def service_for() -> Callable[..., MistralLLMService]:
    """Make services that talk to an endpoint: `service_for(mistral, temperature=0.2)`."""

    def make(mistral: LocalMistral, **options) -> MistralLLMService:
        names = {"api_key", "settings", "default_headers", "run_in_parallel", "warm_up", "prices"}
        given = {
            k: options.pop(k)
            for k in list(options)
            if k in names or (k.startswith(("retry_", "fallback_")) and k != "fallback_models")
        }
        given.setdefault("api_key", "test-key")
        if options:
            given["settings"] = MistralLLMService.Settings(**options)
        return MistralLLMService(base_url=mistral.base_url, **given)

    return make


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """The spans that are traced during a test; a process has one provider of them for ever."""
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    exporter.shutdown()


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for something to become true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.005)
