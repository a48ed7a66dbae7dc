"""The HTTP client: shared connections, bounded replies, nobody told who was not asked."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from call import Call, established
from openai import APIConnectionError, APIStatusError, AsyncOpenAI
from pipecat.frames.frames import LLMFullResponseEndFrame

from mistral_service import MistralError, MistralLLMService, Reason
from mistral_service.local import Reply
from mistral_service.wire import http
from mistral_service.wire.client import error_of, open_reply, read_chunks
from mistral_service.wire.http import http_client

ASKED = {"model": "mistral-small-latest", "messages": [{"role": "user", "content": "Hello."}]}


class Endless(BaseHTTPRequestHandler):
    """Answers every request with more than anyone would read, or sends it elsewhere."""

    protocol_version = "HTTP/1.1"
    status = 200
    location = ""
    line = b"x" * 65536
    keys: list[str]

    def do_POST(self) -> None:
        self.keys.append(self.headers.get("authorization", ""))
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(self.status)
        self.send_header("content-type", "text/event-stream")
        if self.location:
            self.send_header("location", self.location)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self.send_header("connection", "close")
        self.end_headers()
        self.sent = 0
        try:
            while self.sent < 512 * 1024 * 1024:
                self.sent += self.wfile.write(self.line)
        except OSError:
            pass  # the client has heard enough
        type(self).sent_in_all = self.sent

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def endless(**options) -> Iterator[tuple[str, type[Endless]]]:
    handler = type("Handler", (Endless,), {"keys": [], **options})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", handler
    finally:
        server.shutdown()
        server.server_close()


async def ask(base_url: str) -> str:
    client = AsyncOpenAI(api_key="k", base_url=base_url, http_client=http_client())
    try:
        stream = await open_reply(client, ASKED)
        try:
            return "".join([chunk.text async for read in read_chunks(stream) for chunk in read])
        finally:
            await stream.close()
    finally:
        await client.close()


async def failure(base_url: str) -> MistralError:
    with pytest.raises(Exception, match=r".+") as raised:
        await asyncio.wait_for(ask(base_url), 20)
    error = error_of(raised.value)
    assert error is not None
    return error


async def test_an_endless_refusal_is_cut_and_still_understood():
    with endless(status=429, line=b'{"message": "slow down", "x": "' * 2000) as (base_url, _):
        error = await failure(base_url)
    assert error.reason is Reason.RATE_LIMIT
    assert len(str(error)) < 500


async def test_a_reply_that_breaks_off_is_not_a_server_that_cannot_be_reached(serve):
    error = await failure(serve(Reply("One two three four.", cut_after=2)).base_url)
    assert error.reason is Reason.STREAM
    assert str(error).startswith("Mistral's reply broke off with an error: ")
    assert "base_url" not in str(error)


async def test_an_event_without_an_end_is_given_up():
    with endless() as (base_url, _):
        error = await failure(base_url)
    assert error.reason is Reason.STREAM


async def test_a_reply_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr(http, "MAX_REPLY_BYTES", 1_000_000)
    line = b'data: {"choices":[{"delta":{"content":"and on "}}]}\n\n'
    with endless(line=line * 1000) as (base_url, _):
        error = await failure(base_url)
    assert error.reason is Reason.STREAM
    assert "more than 1000000 bytes" in error.detail


async def test_a_redirect_is_told_and_not_followed():
    with endless() as (elsewhere, other):
        with endless(status=307, location=f"{elsewhere}/chat/completions") as (base_url, first):
            error = await failure(base_url)
            assert first.keys == ["Bearer k"]
        assert other.keys == []
    assert error.reason is Reason.REQUEST
    assert elsewhere in error.detail
    assert "set base_url" in str(error)


async def test_services_share_connections_and_may_end_one_by_one(serve):
    mistral = serve(Reply("Hi.", times=None))
    services = [
        MistralLLMService(api_key="any", base_url=mistral.base_url, warm_up=False) for _ in range(3)
    ]
    for service in services:
        async with Call(service) as call:
            assert await call.say("Hello.") == "Hi."
            # One connection was left by the service before, or is the first.
            assert established(mistral.base_url) == 1
    await call.until(lambda: not established(mistral.base_url))


async def test_a_service_that_ends_leaves_the_others_talking(serve):
    mistral = serve(Reply("Hi.", times=2), Reply("One two three.", pause=0.1), Reply("Still here."))
    stays, ends = (MistralLLMService(api_key="any", base_url=mistral.base_url) for _ in range(2))
    async with Call(stays) as call:
        async with Call(ends) as other:
            await call.say("Hello.")
            await other.say("Hello.")
            await call.begin("Count.")
            await call.until(lambda: "One" in call.words)
        await call.until(lambda: call.count(LLMFullResponseEndFrame) == 2)
        assert call.words.endswith("three.")
        assert await call.say("Still there?") == "Still here."
        assert not call.errors


def test_each_event_loop_has_connections_of_its_own(serve):
    mistral = serve(Reply("Hi.", times=None))
    client = AsyncOpenAI(api_key="k", base_url=mistral.base_url, http_client=http_client())

    async def once() -> str:
        stream = await open_reply(client, ASKED | {"model": "mistral-small-latest"})
        words = "".join([chunk.text async for read in read_chunks(stream) for chunk in read])
        await stream.close()
        return words

    # The same client, made outside of any loop, in two loops one after the other.
    assert [asyncio.run(once()), asyncio.run(once())] == ["Hi.", "Hi."]
    said: list[str] = []
    threads = [threading.Thread(target=lambda: said.append(asyncio.run(once()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert said == ["Hi."] * 4


async def test_a_password_file_of_the_machine_is_not_the_key(serve, monkeypatch, tmp_path):
    passwords = tmp_path / "netrc"
    passwords.write_text("default login somebody password something\n")
    monkeypatch.setenv("NETRC", str(passwords))
    mistral = serve(Reply("One."))
    assert await ask(mistral.base_url) == "One."  # which takes no password for a key


async def test_a_user_and_password_in_the_address_are_sent_as_such():
    with endless(status=307, location="elsewhere") as (url, handler):
        with pytest.raises(APIStatusError):
            await ask(url.replace("//", "//me:secret@"))
        assert handler.keys == ["Basic bWU6c2VjcmV0"]


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://us%40er:pw@", "http://", ""])
async def test_the_environment_names_a_proxy(serve, monkeypatch, name, scheme):
    proxy = serve(Reply("One."))
    monkeypatch.setenv(name, proxy.base_url.removesuffix("/v1").replace("http://", scheme))
    assert await ask("http://mistral.example/v1") == "One."
    headers = proxy.exchanges[0].headers
    assert headers["host"] == "mistral.example"
    assert headers.get("proxy-authorization") == ("Basic dXNAZXI6cHc=" if "@" in scheme else None)


async def test_certificates_are_read_beside_the_event_loop(serve, monkeypatch):
    made: list[int] = []

    def make() -> ssl.SSLContext:
        made.append(threading.get_ident())
        return ssl.create_default_context()

    monkeypatch.setattr(http.httpx, "create_ssl_context", make)
    http.tls_context.cache_clear()
    try:
        mistral = serve(Reply("One."))
        assert await ask(mistral.base_url) == "One."
        assert made
        assert threading.get_ident() not in made
    finally:
        http.tls_context.cache_clear()


async def test_the_environment_may_except_an_address_from_the_proxy(serve, monkeypatch):
    mistral = serve(Reply("One."))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert await ask(mistral.base_url) == "One."


async def test_a_proxy_of_an_unknown_kind_is_told(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "socks5://user:secret@127.0.0.1:9")
    with pytest.raises(APIConnectionError) as caught:
        await ask("http://mistral.example/v1")
    error = error_of(caught.value)
    assert error.reason is Reason.UNREACHABLE
    assert "socks5" in str(error)
    assert "secret" not in str(error)


async def test_a_gateway_s_long_header_is_read(serve):
    mistral = serve(Reply("One.", headers={"x-policy": "x" * 20_000}))
    assert await ask(mistral.base_url) == "One."
