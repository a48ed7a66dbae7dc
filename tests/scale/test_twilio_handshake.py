"""A telephone call belongs to Twilio's streams: its id, which many know, opens it to no one."""

import base64
import hashlib
import hmac
import json
import re
from html import unescape
from typing import Any

import httpx
import pytest
from ingress_calls import Parrot, Shelf, closed, dial, door, hello, until
from websockets.asyncio.client import ClientConnection

from mistral_service.scale.calls import Calls
from mistral_service.scale.twilio import is_signed

CALL, STREAM, OTHER = "CA" + "1" * 32, "MZ" + "2" * 32, "CA" + "3" * 32
AUTH_TOKEN = "12345"


def signature(url: str, form: dict[str, str], auth_token: str = AUTH_TOKEN) -> str:
    text = url + "".join(name + form[name] for name in sorted(form))
    digest = hmac.new(auth_token.encode(), text.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def token_in(orders: str) -> str:
    found = re.search(r'<Parameter name="token" value="([A-Za-z0-9_-]{32})"/>', orders)
    assert found, orders
    return found[1]


async def starts(line: ClientConnection, call: Any, token: Any, stream: Any = STREAM) -> None:
    told = {"callSid": call, "streamSid": stream, "customParameters": {"token": token}}
    await line.send(json.dumps({"event": "connected"}))
    await line.send(json.dumps({"event": "start", "streamSid": stream, "start": told}))


async def orders_for(host: str, call: str = CALL, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient() as web:
        form = {"CallSid": call, "From": "+14158675310"}
        made = signature(f"https://{host}/twilio", form)
        headers = {"x-twilio-signature": made, **headers}
        return await web.post(f"http://{host}/twilio", data=form, headers=headers)


@pytest.mark.parametrize("auth_token", [None, AUTH_TOKEN], ids=["open", "signed"])
async def test_who_knows_the_id_of_a_telephone_call_gets_nothing_of_it(auth_token):
    shelf = Shelf()
    calls = Calls(Parrot(), limit=9, recorders=shelf)
    async with door(calls, twilio_auth_token=auth_token) as host:
        token = token_in((await orders_for(host)).text)
        async with dial(host, "/twilio/media", None) as stream:
            await starts(stream, CALL, token)
            await until(lambda: len(calls) == 1)
            [kept] = shelf.calls.values()
            for call_id in (CALL, kept.id, f"twilio:{CALL}", f"{CALL}-{token}", token, STREAM):
                async with dial(host) as line:
                    answer = await hello(line, id=call_id)
                    assert set(answer) == {"type", "error"}
                    assert (await closed(line))[0] == 1008
            guesses = [CALL, "", "x" * 32, token[:-1], token.swapcase(), None, 7, [token], "é" * 32]
            for guess in guesses:
                async with dial(host, "/twilio/media", None) as line:
                    await starts(line, CALL, guess)
                    if not auth_token and guess in ("x" * 32, token.swapcase()):
                        await until(lambda: len(calls) == 2)  # it begins a call of its own
                        await line.close()
                        await until(lambda: len(calls) == 1)
                        continue
                    assert (await closed(line))[0] == 1008
            assert not kept.ownership_lost.is_set()
            assert len(calls) == 1
            assert shelf.calls[kept.id] is kept
        await until(lambda: not len(calls))


async def test_an_id_of_the_web_door_opens_nothing_at_the_telephones_door():
    shelf = Shelf()
    async with door(Calls(Parrot(), limit=9, recorders=shelf)) as host, dial(host) as line:
        call = await hello(line)
        for call_id in (call["id"], f"web:{call['id']}", f"../{call['id']}"):
            async with dial(host, "/twilio/media", None) as stream:
                await starts(stream, call_id, "t" * 32)
                assert (await closed(stream))[0] == 1008
        assert not shelf.calls[call["id"]].ownership_lost.is_set()


@pytest.mark.parametrize("auth_token", [None, AUTH_TOKEN], ids=["open", "signed"])
async def test_a_stream_is_followed_by_another_one_of_the_same_call(auth_token):
    shelf, parrot = Shelf(), Parrot()
    calls = Calls(parrot, limit=9, recorders=shelf)
    async with door(calls, twilio_auth_token=auth_token) as host:
        first = await orders_for(host)
        again = re.search(r"<Redirect[^>]*>https://[^/]*(/[^<]*)</Redirect>", first.text)
        assert again
        form = {"CallSid": CALL, "From": "+14158675310"}
        made = signature(f"https://{host}{again[1]}", form)
        async with httpx.AsyncClient() as web:
            second = await web.post(
                f"http://{host}{again[1]}", data=form, headers={"x-twilio-signature": made}
            )
        for orders in (first, second):
            async with dial(host, "/twilio/media", None) as stream:
                await starts(stream, CALL, token_in(orders.text))
                await until(lambda: len(calls) == 1)
                stream.transport.abort()
            await until(lambda: not len(calls))
    told = [body["call"] for body in parrot.bodies]
    assert told == [{"id": CALL, "resumed": False}, {"id": CALL, "resumed": True}]


async def test_a_stream_that_breaks_at_once_is_followed_after_a_pause():
    async with (
        door(Calls(Parrot(), limit=9, recorders=Shelf())) as host,
        httpx.AsyncClient() as web,
    ):
        first = (await orders_for(host)).text
        assert "<Pause" not in first
        [address] = re.findall(r"<Redirect[^>]*>https://[^/]*(/[^<]*)</Redirect>", first)
        at_once = await web.post(f"http://{host}{unescape(address)}", data={"CallSid": CALL})
        assert '<Response><Pause length="1"/><Connect>' in at_once.text
        for at in ("1000000000", "99999999999", "-1", "x", "9" * 400):
            later = re.sub(r"at=\d+", f"at={at}", unescape(address))
            assert "<Pause" not in (await web.post(f"http://{host}{later}", data={})).text


async def test_only_what_twilio_has_signed_gets_orders():
    async with door(Calls(Parrot(), limit=9), twilio_auth_token=AUTH_TOKEN) as host:
        assert (await orders_for(host)).status_code == 200
        for headers in (
            {"x-twilio-signature": ""},
            {"x-twilio-signature": signature(f"https://{host}/twilio", {"CallSid": CALL})},
        ):
            refused = await orders_for(host, **headers)
            assert (refused.status_code, "<Stream" in refused.text) == (403, False)
        forwarded = await orders_for(host, **{"x-forwarded-host": "evil.example"})
        assert f"wss://{host}/twilio/media" in forwarded.text  # the host that was signed
        named = await orders_for(host, call="CA1")
        assert named.status_code == 403
        async with httpx.AsyncClient() as web:
            large = await web.post(f"http://{host}/twilio", content=b"a" * 1_000_000)
        assert large.status_code == 403
        assert "65536 bytes" in large.text


async def test_a_host_that_is_none_stands_in_no_orders():
    async with door(Calls(Parrot(), limit=9)) as host:
        for name in ('a"><Dial>+1900</Dial>', "a.b/evil?", "u:p@evil.example", "a b", "[::1"):
            answer = await orders_for(host, **{"x-forwarded-host": name})
            assert "<Dial>" not in answer.text
            assert "evil" not in answer.text
        answer = await orders_for(host, **{"x-forwarded-host": "bot.example.org, proxy.internal"})
        assert "wss://bot.example.org/twilio/media" in answer.text


@pytest.mark.parametrize(
    "said",
    [
        "no json",
        "[" * 50_000,
        '{"event": "start"}',
        '{"event": "start", "start": []}',
        '{"event": "start", "start": {"customParameters": "token"}}',
        '"start"',
        b"\x00",
    ],
)
async def test_what_is_no_stream_of_twilios_is_refused(said):
    calls = Calls(Parrot(), limit=9)
    async with door(calls) as host, dial(host, "/twilio/media", None) as line:
        await line.send(said)
        assert (await closed(line))[0] == 1008
    assert not len(calls)


def test_the_signature_is_the_one_that_twilio_documents():
    form = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+14158675309",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
    }
    # Of the tests of Twilio's own library.
    url, made = "https://mycompany.com/myapp.php?foo=1&bar=2", "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    assert is_signed("12345", iter([url]), list(form.items()), made)
    assert not is_signed("12346", iter([url]), list(form.items()), made)
    assert not is_signed("12345", iter([url[:-1]]), list(form.items()), made)
    assert not is_signed("12345", iter([url]), [*form.items(), ("a", "b")], made)
