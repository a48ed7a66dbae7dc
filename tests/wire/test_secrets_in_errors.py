"""What a server repeats of what it was sent reaches no error and no log."""

import base64
import html
import json
import logging
import urllib.parse

import pytest
from call import Call
from pipecat.frames.frames import LLMUpdateSettingsFrame
from scripted_server import answer, answering

from mistral_service import MistralClient, MistralError, MistralLLMService, Reason
from mistral_service.local import Reply
from mistral_service.wire.models import Catalogue
from mistral_service.wire.secrets import Redactor, secrets_in

KEY = "sk-Very/Secret+0123456789"
OTHER = 'c00kie"of&another<system>/9876'


def forms(secret: str) -> list[str]:
    raw = secret.encode()
    return [
        secret,
        secret.upper(),
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote(secret, safe="").lower(),
        urllib.parse.quote_plus(secret),
        json.dumps(secret),
        secret.replace("/", "\\/"),
        html.escape(secret),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        secret[:10],
        secret[-10:],
        secret[4:16],
        secret[:8] + "*****" + secret[-8:],
    ]


def leaked(text: str, secret: str) -> str | None:
    """A telling part of a secret, in any form, that stands in a text."""
    for form in forms(secret)[:10]:
        for at in range(len(form) - 7):
            if form[at : at + 8].lower() in text.lower():
                return form[at : at + 8]
    return None


@pytest.mark.parametrize("form", forms(KEY))
@pytest.mark.parametrize("place", ["message", "code", "type", "header"])
async def test_a_key_is_struck_out_in_every_form_and_place(form, place):
    fields = {"message": "No.", "code": "c", "type": "t"} | {place: f"bad key {form}!"}
    headers = {"mistral_correlation_id": form} if place == "header" else {}
    said = answer(401, json.dumps(fields).encode(), **headers)
    async with answering(said) as base_url, MistralClient(api_key=KEY, base_url=base_url) as client:
        with pytest.raises(MistralError) as raised:
            await client.chat([{"role": "user", "content": "x"}])
    assert raised.value.reason is Reason.KEY
    assert leaked(str(raised.value) + repr(vars(raised.value)), KEY) is None
    assert "[key]" in repr(vars(raised.value))


CARRIED = [
    {"X-Session-Cookie": OTHER},
    {"x-client-secret": OTHER},
    {"x-db-credential": OTHER},
    {"x-password": OTHER},
    {"x-token-id": OTHER},
    {"x-portkey-config": json.dumps({"provider": "mistral-ai", "api_key": OTHER})},
    {"Cookie": f"a=b; session={OTHER}"},
    {"Authorization": f"Bearer {OTHER}"},
    {"x-anything-else": OTHER},
]


@pytest.mark.parametrize("headers", CARRIED, ids=lambda h: next(iter(h)))
@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("mid_stream", [False, True])
async def test_the_value_of_every_header_is_struck_out(headers, extra, mid_stream, service_for):
    body = json.dumps({"object": "error", "message": f"I was sent {OTHER} and …"}).encode()
    said = answer(403, body)
    if mid_stream:
        said = answer(200, b"data: " + body + b"\n\n", "text/event-stream")
    options = {"default_headers": headers}
    if extra:
        options = {"settings": MistralLLMService.Settings(extra={"extra_headers": headers})}
    async with answering(said) as base_url:
        service = MistralLLMService(api_key=KEY, base_url=base_url, warm_up=False, **options)
        async with Call(service) as call:
            await call.say("Hello.")
    [error] = call.errors
    assert leaked(error.error + repr(vars(error.exception)), OTHER) is None
    assert "I was sent [key]" in error.error
    assert leaked(repr(service) + repr(service.settings) + str(service._client), OTHER) is None


@pytest.mark.parametrize(
    "extra",
    [
        {"extra_query": {"sig": OTHER}},
        {"extra_body": {"upstream": {"auth": [{"name": OTHER}]}}},
        {"extra_body": {"client_secret": OTHER}},
    ],
)
async def test_nor_do_a_query_and_a_body_leave_with_an_error(extra):
    async with answering(answer(400, f"I was sent {OTHER}".encode(), "text/plain")) as base_url:
        settings = MistralLLMService.Settings(extra=extra)
        service = MistralLLMService(
            api_key=KEY, base_url=base_url, warm_up=False, settings=settings
        )
        async with Call(service) as call:
            await call.say("Hello.")
    [error] = call.errors
    assert leaked(error.error, OTHER) is None
    assert "I was sent [key]" in error.error
    assert leaked(repr(settings), OTHER) is None


async def test_user_and_password_of_an_address_are_in_no_error_and_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    password = "open5esame/x"
    basic = base64.b64encode(f"me:{password}".encode()).decode()
    said = answer(407, f"Basic {basic}, {password}, me:{password}".encode(), "text/plain")
    async with answering(said) as base_url:
        quoted = urllib.parse.quote(password, safe="")
        at = base_url.replace("//", f"//me:{quoted}@")
        async with MistralClient(api_key=KEY, base_url=at) as client:
            with pytest.raises(MistralError) as raised:
                await client.chat([{"role": "user", "content": "x"}])
            shown = repr(client)
    for text in (str(raised.value), caplog.text, shown):
        assert password not in text
        assert quoted not in text
        assert basic.rstrip("=") not in text
    assert "HTTP Request: POST http://127.0.0.1" in caplog.text


async def test_a_proxy_s_password_is_struck_out_too(monkeypatch):
    basic = base64.b64encode(b"us:proxy-pw-1").decode()
    async with answering(answer(407, f"proxy-pw-1, {basic}".encode(), "text/plain")) as base_url:
        at = base_url.removesuffix("/v1").replace("//", "//us:proxy-pw-1@")
        monkeypatch.setenv("HTTP_PROXY", at)
        async with MistralClient(api_key=KEY, base_url="http://mistral.example/v1") as client:
            with pytest.raises(MistralError) as raised:
                await client.chat([{"role": "user", "content": "x"}])
    assert "proxy-pw-1" not in str(raised.value)
    assert basic not in str(raised.value)


def test_words_that_are_no_secret_stay():
    strike = Redactor(secrets_in("sk-0123456789abcdef"))
    said = "Invalid model: mistral-small-latest at https://api.mistral.ai/v1 (code 1500)"
    assert strike(said) == said


def test_control_characters_of_a_server_reach_no_log():
    said = {"message": "a\x1b[2J\r\nERROR fake line\x00\u202eb", "code": "x\ny\x1b", "type": "t\r"}
    error = MistralError.from_response(400, said, {"mistral-correlation-id": "i\x1bd"})
    shown = str(error) + "".join(map(str, (error.code, error.type, error.correlation_id)))
    assert shown.isprintable()
    assert "ERROR fake line" in shown
    card = {"id": "m\x1b[31m\n", "deprecation": "2027\nERROR fake", "capabilities": {}}
    [read] = Catalogue.from_reply([card]).cards
    assert f"{read.id}{read.deprecation}".isprintable()


BAD_KEYS = [
    "sk-\u201cquoted\u201d-123",
    "sk-one\nsk-two-123",
    'sk-"quoted"-123',
    "sk-a b-123",
    "k\x00y-123",
]


@pytest.mark.parametrize("key", BAD_KEYS)
@pytest.mark.parametrize("name", ["api_key", "fallback_api_key", "codestral_api_key"])
def test_a_key_that_cannot_be_sent_is_refused_when_the_service_is_made(key, name):
    keys = {"api_key": "good-key-1", name: key}
    make = MistralClient if name.startswith("codestral") else MistralLLMService
    if make is MistralClient:
        keys["codestral_base_url"] = "https://codestral.mistral.ai/v1"
    else:
        keys["fallback_base_url"] = "http://127.0.0.1:9/v1"
    with pytest.raises(ValueError, match=rf"{name}=….*letters, digits and symbols") as raised:
        make(**keys)
    assert key not in str(raised.value)
    assert "\n" not in str(raised.value)


BAD_ADDRESSES = [
    "htp://user:pa55word@host/v1",
    "user:pa55word@host/v1",
    "http://user:pa55word@host:99999/v1",
    "http://user:pa55word@/v1",
    "https//host?key=pa55word",
    "http://user:pa55word@ho st/v1",
    "http://user:pa55word@host\n/v1",
]


@pytest.mark.parametrize("url", BAD_ADDRESSES)
@pytest.mark.parametrize("name", ["base_url", "fallback_base_url", "codestral_base_url"])
def test_an_address_that_is_none_is_refused_without_its_password(url, name):
    make = MistralClient if name.startswith("codestral") else MistralLLMService
    with pytest.raises(ValueError, match=rf"{name}=.*http://") as raised:
        make(api_key="good-key-1", **{name: url})
    assert "pa55word" not in str(raised.value)


async def test_headers_that_cannot_be_sent_leave_the_settings_as_they_were(serve, service_for):
    mistral = serve(Reply("Hi.", times=None))
    service = service_for(mistral, warm_up=False, extra={"extra_headers": {"X-Good": "yes"}})
    async with Call(service) as call:
        for headers in ({"X-Bad": "s3cret-value\n"}, {"X Bad": "y"}, {"X-Bad": "Zoë-s3cret-value"}):
            delta = MistralLLMService.Settings(extra={"extra_headers": headers})
            await call.worker.queue_frame(LLMUpdateSettingsFrame(delta=delta))
            assert await call.say("Hello.") == "Hi."
    assert len(call.errors) == 3
    for error in call.errors:
        assert error.error.startswith("Settings left as they were: extra['extra_headers']")
        assert "s3cret-value" not in error.error
    assert [e.headers.get("x-good") for e in mistral.exchanges if "chat" in e.path] == ["yes"] * 3
