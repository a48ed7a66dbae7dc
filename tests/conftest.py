"""What the tests share: an endpoint, a pipeline, and a way to see what comes out of it."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from clock import FairLoops
from loguru import logger
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from xdist.scheduler import LoadScopeScheduling

from mistral_service import MistralLLMService
from mistral_service.local import LocalMistral
from mistral_service.local.pytest_plugin import MistralServer, mistral_server
from mistral_service.wire.endpoint import forget_endpoints

__all__ = ["mistral_server"]  # the plugin's, whether or not the checkout is installed anew

logger.remove()
asyncio.set_event_loop_policy(FairLoops())
# A shell that starts the tests in the background lets them ignore Ctrl-C, which some of them press.
signal.signal(signal.SIGINT, signal.default_int_handler)
# How long an example takes to make, or to run, says nothing of the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--scale=long` breaks all that can break under 200 calls; `make test-scale` gives it.

    `--vllm` starts a real vLLM; `make test-vllm` gives it.
    """
    parser.addoption("--scale", choices=["short", "long"], default="short")
    parser.addoption("--vllm", action="store_true")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the cluster's long tests to `make test-scale`, and vLLM's to `make test-vllm`."""
    left_out: set[str] = set()
    if config.getoption("--scale") != "long":
        left_out.add("long")
    if not config.getoption("--vllm"):
        left_out.add("vllm")
    others = [item for item in items if any(item.get_closest_marker(name) for name in left_out)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


class Together(LoadScopeScheduling):
    """Gives each test to the next worker that is free, and to one worker what belongs together.

    There is one browser at a time that hears and speaks in real time, one that is silent, and one
    cluster, whose ports are its own. xdist's own groups do not work with pytest 9.2.
    """

    SHARE = (
        "tests/demo/browser/test_accessibility",  # nothing is spoken
        "tests/demo/browser/",
        "tests/scale/cluster/",
        "tests/turn/test_fault_matrix.py::test_a_fault_ends_as_the_table_says",  # some at a time
        "tests/interop/test_gateway.py",  # a gateway that takes seconds to start
        "tests/interop/test_litellm.py",  # a proxy that takes ten
        "tests/interop/test_llama_cpp.py",
        "tests/project/test_packaging.py",  # a wheel that is built once
    )

    def _split_scope(self, nodeid: str) -> str:
        return next((shared for shared in self.SHARE if nodeid.startswith(shared)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Take our own."""
    return Together(config, log)


@pytest.fixture(autouse=True)
def _no_key_from_outside(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No test but a live one speaks to Mistral, whatever the developer's shell has set."""
    if request.node.get_closest_marker("live") is None:
        monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
        monkeypatch.delenv("MISTRAL_BASE_URL", raising=False)


@pytest.fixture(autouse=True)
def _no_endpoint_is_known() -> None:
    """What was learned of a server says nothing of another one on the same port."""
    forget_endpoints()


@pytest.fixture
def serve(mistral_server: MistralServer) -> MistralServer:
    """Start strict endpoints, as users' tests do: `serve(Reply("Hello."), Reply(status=429))`."""
    return mistral_server


@pytest.fixture
def service_for() -> Callable[..., MistralLLMService]:
    """Make services that talk to an endpoint: `service_for(mistral, temperature=0.2)`."""

    def make(mistral: LocalMistral, **options) -> MistralLLMService:
        names = {"api_key", "settings", "default_headers", "run_in_parallel", "warm_up", "prices"}
        names |= {"server"}
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
