"""The fast way to write and read JSON says what the standard library's does."""

import json

import pytest
from call import Call
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pipecat.services.mistral.llm import MistralLLMService as PipecatsOwn

from mistral_service import MistralLLMService
from mistral_service.local import Reply
from mistral_service.wire.encoding import decode, encode

PRINTABLE = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | PRINTABLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PRINTABLE, inner, max_size=4),
    max_leaves=20,
)
BODIES = st.dictionaries(PRINTABLE, VALUES, max_size=6)


@given(BODIES)
def test_what_is_sent_is_the_same_json(body):
    assert json.loads(encode(body)) == json.loads(json.dumps(body))


@given(VALUES, st.booleans())
def test_what_comes_is_read_the_same(value, ascii_only: bool):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert decode(text) == decode(text.encode()) == json.loads(text)


@given(st.text(max_size=30))
def test_a_broken_character_costs_itself_and_nothing_else(text: str):
    body = {"content": text, "more": "words"}
    sent = json.loads(encode(body))
    assert sent["more"] == "words"
    assert sent["content"] == text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("text", [r'"\ud83d"', r'"\ude00"', '"\\ud83d \\n"'])
def test_half_a_character_is_taken(text: str):
    assert decode(text) == json.loads(text)


@pytest.mark.parametrize("text", ["", "{", '{"a":', "[" * 100_000, "nul", b'"\xff"', b"\x00"])
def test_what_is_no_json_is_told(text):
    with pytest.raises(ValueError, match=r".+"):
        decode(text)


async def test_the_request_is_the_one_that_pipecat_s_own_service_sends(serve):
    """Field by field, but for what Mistral would refuse and what is ours alone."""
    sent = []
    for kind in (PipecatsOwn, MistralLLMService):
        mistral = serve(Reply("Hi."))
        settings = kind.Settings(temperature=0.3, max_tokens=50, top_p=0.9)
        service = kind(api_key="k", base_url=mistral.base_url, settings=settings)
        async with Call(service, {"role": "system", "content": "Be kind — très."}) as call:
            assert await call.say("Grüße, 😀!") == "Hi."
        sent.append(mistral.exchanges[0].request)
    left_out = {"prompt_cache_key", "reasoning_effort", "model"}
    theirs, ours = ({k: v for k, v in each.items() if k not in left_out} for each in sent)
    assert ours == theirs


async def test_a_client_of_one_s_own_is_used_as_it_is(serve):
    made = []

    class Behind(MistralLLMService):
        def create_client(self, api_key=None, base_url=None, **kwargs):
            http = DefaultAsyncHttpxClient(headers={"x-way": "mine"}, timeout=7)
            made.append(AsyncOpenAI(api_key=api_key, base_url=base_url, http_client=http))
            return made[-1]

    mistral = serve(Reply("Hi."), Reply("A summary."))
    service = Behind(api_key="k", base_url=mistral.base_url)
    async with Call(service) as call:
        assert await call.say("Hello.") == "Hi."
        assert await service.run_inference(call.context) == "A summary."
    assert [exchange.headers["x-way"] for exchange in mistral.exchanges] == ["mine", "mine"]
    assert [client.is_closed() for client in made] == [True]
