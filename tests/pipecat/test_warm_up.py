"""What happens before the caller speaks: the connection, the key and the model are looked at."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from call import Call, established
from hypothesis import given
from hypothesis import strategies as st
from logged import logged
from pipecat.utils.errors import ErrorCategory

from mistral_service import MistralLLMService
from mistral_service.local import LocalMistral, Reply, Script
from mistral_service.wire.models import Catalogue, ModelCard


@contextmanager
def answering(status: int, body: object) -> Iterator[str]:
    """An endpoint that has nothing but a list of models, or a refusal in its place."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    with logged("DEBUG") as messages:
        yield messages


def service_at(base_url: str, **settings) -> MistralLLMService:
    return MistralLLMService(
        api_key="any", base_url=base_url, settings=MistralLLMService.Settings(**settings)
    )


async def test_a_wrong_key_is_told_before_the_caller_speaks():
    with LocalMistral(Script(), api_key="the-right-one") as mistral:
        service = service_at(mistral.base_url)
        async with Call(service) as call:
            await call.until(lambda: call.errors)
            [error] = call.errors
            assert error.category is ErrorCategory.AUTHENTICATION
            assert "MISTRAL_API_KEY" in error.error
            assert not service.is_usable
        assert not mistral.exchanges


async def test_a_password_in_the_address_is_not_logged(warnings):
    with answering(503, {"message": "busy"}) as base_url:
        host = base_url.removeprefix("http://")
        async with Call(service_at(f"http://someone:s3cr3t-w0rd@{host}")) as call:
            await call.until(lambda: any("look for models" in line for line in warnings))
    assert not any("s3cr3t" in line for line in warnings)


async def test_a_wrong_key_does_not_end_a_service_that_has_another_endpoint(serve):
    other = serve(Reply("Here."))
    with LocalMistral(Script(), api_key="the-right-one") as mistral:
        service = MistralLLMService(
            api_key="any", base_url=mistral.base_url, fallback_base_url=other.base_url
        )
        async with Call(service) as call:
            await call.until(lambda: call.errors)
            assert "MISTRAL_API_KEY" in call.errors[0].error
            assert service.is_usable
            assert await call.say("Hello.") == "Here."


async def test_an_unknown_model_is_told_before_the_caller_speaks(serve):
    service = service_at(serve().base_url, model="mistral-smal-latest")
    async with Call(service) as call:
        await call.until(lambda: call.errors)
        [error] = call.errors
        assert "mistral-smal-latest" in error.error
        # A list may be shorter than the truth: the first turn decides.
        assert error.category is ErrorCategory.APPLICATION
        assert service.is_usable


async def test_the_first_turn_finds_the_connection_open(serve):
    mistral = serve(Reply("Hi."))
    service = service_at(mistral.base_url)
    async with Call(service) as call:
        await call.until(lambda: service._router._catalogues)
        assert established(mistral.base_url) == 1
        await call.say("Hello.")
        assert established(mistral.base_url) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {}),
        (405, b"no"),
        (403, {}),
        (500, b"<html>oops</html>"),
        (429, {}),
        (200, b"no json"),
        (200, {"data": "none"}),
        (200, {"object": "list", "data": [{"id": "any.gguf", "object": "model"}]}),
        (302, b""),
    ],
)
async def test_an_endpoint_without_mistral_s_list_is_no_error(status, body):
    with answering(status, body) as base_url:
        service = service_at(base_url)
        async with Call(service) as call:
            await call.until(
                lambda: not [task for task in asyncio.all_tasks() if "warm_up" in task.get_name()]
            )
            assert not call.errors
            assert service.is_usable


async def test_a_model_that_will_be_gone_is_warned_of(warnings):
    card = {
        "id": "mistral-small-latest",
        "capabilities": {"completion_chat": True},
        "deprecation": "2027-01-01T00:00:00Z",
        "deprecation_replacement_model": "mistral-small-2701",
    }
    with answering(200, {"data": [card]}) as base_url:
        service = service_at(base_url)
        async with Call(service) as call:
            await call.until(lambda: service._router._catalogues)
            await call.until(lambda: any("mistral-small-2701" in line for line in warnings))
            assert not call.errors


async def test_a_call_that_ends_in_mid_warm_up_leaves_nothing():
    async def never(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(writer)

    heard: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(never, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        service = service_at(f"http://127.0.0.1:{port}/v1")
        async with Call(service) as call:
            await call.until(lambda: heard)
        assert not call.errors
        await call.until(lambda: not established(f"http://127.0.0.1:{port}/v1"))
        await call.until(
            lambda: not [task for task in asyncio.all_tasks() if "warm_up" in task.get_name()]
        )
        for writer in heard:  # from Python 3.12 on, a server waits for its connections to close
            writer.close()


async def test_without_warm_up_nothing_is_asked(serve):
    mistral = serve()
    service = MistralLLMService(api_key="any", base_url=mistral.base_url, warm_up=False)
    async with Call(service):
        assert established(mistral.base_url) == 0


# --- the list of models ---------------------------------------------------------------------------


def test_models_are_found_by_name_and_alias():
    body = {
        "data": [
            {
                "id": "mistral-small-2603",
                "aliases": ["mistral-small-latest"],
                "capabilities": {"completion_chat": True, "vision": True, "new": 3},
                "max_context_length": 262144,
            }
        ]
    }
    catalogue = Catalogue.from_reply(body)
    card = catalogue.find("mistral-small-latest")
    assert card == ModelCard(
        "mistral-small-2603",
        ("mistral-small-latest",),
        chat=True,
        vision=True,
        max_context_length=262144,
    )
    assert catalogue.find("nonesuch") is None
    assert catalogue.is_mistrals


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "id", "aliases", "capabilities", "vision", "deprecation"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_is_sent_is_read_as_a_list_of_models(body):
    for card in Catalogue.from_reply(body).cards:
        assert card.id
