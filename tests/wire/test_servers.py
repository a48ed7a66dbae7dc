"""Servers that are not Mistral's: what each takes is known, recognised, set, or learned."""

import asyncio
import json
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from call import Call
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from openai import APIStatusError, AsyncOpenAI
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema

from mistral_service import MistralClient, MistralLLMService
from mistral_service.conversation.rules import CONTINUE_TEXT
from mistral_service.local import Checks, LocalMistral, Reply, Script
from mistral_service.local.pieces import Refusal
from mistral_service.wire.endpoint import Endpoint, endpoint_of
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.models import Catalogue
from mistral_service.wire.servers import (
    OPTIONAL_FIELDS,
    SERVERS,
    adapt_body,
    by_address,
    by_headers,
    revise_server,
)

TOOL = FunctionSchema("one", "Does one thing.", {}, [])
USER = {"role": "user", "content": "Count."}
CUT = {"role": "assistant", "content": "One two", "prefix": True}

VLLM_PREFIX = {
    "error": {
        "message": "Cannot set `add_generation_prompt` to True when the last message is from the "
        "assistant. Consider using `continue_final_message` instead.",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    }
}
VLLM_CHOICE = {
    "error": {
        "message": "[{'type': 'value_error', 'loc': ('body',), 'msg': 'Value error, Invalid value "
        'for `tool_choice`: any! Only named tools, "none", "auto" or "required" are supported.\'}]',
        "type": "Bad Request",
        "param": None,
        "code": 400,
    }
}


def extra_forbidden(name: str) -> Any:
    issue = {"type": "extra_forbidden", "loc": ["body", name], "input": "x"}
    return {"detail": [{**issue, "msg": "Extra inputs are not permitted"}]}


# How servers say that they do not know a field: FastAPI and Mistral, Azure's models, OpenAI, older
# OpenAI, Groq, Google, LiteLLM.
UNKNOWN_FIELD = [
    lambda name: (422, extra_forbidden(name)),
    lambda name: (
        400,
        {
            "error": {
                "code": "Invalid input",
                "status": 422,
                "message": "invalid input error",
                "details": extra_forbidden(name)["detail"],
            }
        },
    ),
    lambda name: (
        400,
        {
            "error": {
                "message": f"Unknown parameter: '{name}'.",
                "type": "invalid_request_error",
                "param": name,
                "code": "unknown_parameter",
            }
        },
    ),
    lambda name: (
        400,
        {
            "error": {
                "message": f"Unrecognized request argument supplied: {name}",
                "type": "invalid_request_error",
            }
        },
    ),
    lambda name: (
        400,
        {
            "error": {
                "message": f"property '{name}' is unsupported",
                "type": "invalid_request_error",
            }
        },
    ),
    lambda name: (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": f'Invalid JSON payload received. Unknown name "{name}": Cannot find '
                    "field.",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    lambda name: (
        400,
        {
            "error": {
                "message": "litellm.UnsupportedParamsError: mistral does not support parameters: "
                f"['{name}'], for model=mistral-small-latest.",
                "type": "None",
                "param": "None",
                "code": "400",
            }
        },
    ),
]


@dataclass(frozen=True)
class Refuses(Checks):
    """Refuses a field, as a server in front of Mistral's own rules does."""

    field: str = "prompt_cache_key"
    refusal: Refusal | None = None

    def validate(self, body: Any) -> Refusal | None:
        return self.refusal if self.field in body else super().validate(body)


@dataclass(frozen=True)
class LikeVLLM(Checks):
    """Judges `prefix` and `tool_choice` as vLLM 0.32 does, and all else as Mistral does."""

    knows_continue: bool = True

    def validate(self, body: Any) -> Refusal | None:
        if body.get("tool_choice") == "any":
            return Refusal(400, VLLM_CHOICE)
        body = {k: v for k, v in body.items() if k not in ("seed", "stream_options")}
        goes_on = body.pop("continue_final_message", False)
        generates = body.pop("add_generation_prompt", True)
        if goes_on and not self.knows_continue:
            return Refusal(422, extra_forbidden("continue_final_message"))
        last = body["messages"][-1]
        if last["role"] == "assistant":
            if not goes_on or generates:
                return Refusal(400, VLLM_PREFIX)
            body["messages"] = [*body["messages"][:-1], {**last, "prefix": True}]
        return super().validate(body)


@pytest.fixture
def serving():
    """Start endpoints with judges of their own: `serving(checks, *replies)`."""
    started: list[LocalMistral] = []

    def start(checks: Checks, *replies: Reply) -> LocalMistral:
        started.append(LocalMistral(Script(*replies), checks).start())
        return started[-1]

    yield start
    for each in started:
        each.stop()


# --- fields that a server does not know ----------------------------------------------------------


@pytest.mark.parametrize("say", UNKNOWN_FIELD)
@pytest.mark.parametrize("name", ["prompt_cache_key", "reasoning_effort"])
async def test_what_a_server_does_not_know_is_left_out_from_then_on(
    serving, service_for, say, name
):
    mistral = serving(Refuses(field=name, refusal=Refusal(*say(name))), Reply("Yes.", times=None))
    logs: list[str] = []
    sink = logger.add(logs.append, level="WARNING", format="{message}")
    async with Call(service_for(mistral, warm_up=False)) as call:
        assert await call.say("Hello?") == "Yes."
        assert await call.say("And then?") == "Yes."
        assert not call.errors
    async with Call(service_for(mistral, warm_up=False)) as call:
        assert await call.say("Still there?") == "Yes."
    logger.remove(sink)
    asked = [name in each.request for each in mistral.exchanges]
    assert asked == [True, False, False, False]
    [line] = [line for line in logs if "refuses a part" in line]
    assert f"without {name}" in line


async def test_several_fields_are_learned_within_one_turn(serving, service_for):
    @dataclass(frozen=True)
    class Narrow(Checks):
        def validate(self, body: Any) -> Refusal | None:
            for name in OPTIONAL_FIELDS:
                if name in body:
                    return Refusal(422, extra_forbidden(name))
            return super().validate(body)

    mistral = serving(Narrow(), Reply("Yes."))
    llm = service_for(mistral, warm_up=False, service_tier="auto")
    async with Call(llm) as call:
        assert await call.say("Hello?") == "Yes."
    assert [each.refused is None for each in mistral.exchanges] == [False, False, False, True]


async def test_an_endpoint_for_fallbacks_that_knows_less_saves_the_turn(
    serve, serving, service_for
):
    own = serve(Reply(status=503, body={"message": "Service tier capacity exceeded"}, times=None))
    azure = serving(
        Refuses(refusal=Refusal(422, extra_forbidden("prompt_cache_key"))), Reply("Yes.")
    )
    llm = service_for(own, warm_up=False, fallback_base_url=azure.base_url)
    async with Call(llm) as call:
        assert await call.say("Hello?") == "Yes."
        assert not call.errors
    assert "prompt_cache_key" in own.exchanges[-1].request


async def test_a_field_that_a_user_has_set_is_not_left_out(serving, service_for):
    refusal = Refusal(422, extra_forbidden("safe_prompt"))
    mistral = serving(Refuses(field="safe_prompt", refusal=refusal), Reply("Yes."))
    async with Call(service_for(mistral, warm_up=False, safe_prompt=True)) as call:
        await call.say("Hello?")
        [error] = call.errors
    assert "safe_prompt" in error.error
    assert len(mistral.exchanges) == 1


async def test_a_value_that_a_user_has_chosen_is_not_left_out(serve, service_for):
    """The refusal lists the values that there are: the user hears of it."""
    mistral = serve(Reply("Yes."))
    async with Call(service_for(mistral, warm_up=False, reasoning_effort="medium")) as call:
        await call.say("Hello?")
        [error] = call.errors
    assert "medium" in error.error


async def test_a_server_that_refuses_in_any_form_is_not_asked_for_ever(serving, service_for):
    @dataclass(frozen=True)
    class Never(Checks):
        def validate(self, body: Any) -> Refusal | None:
            return Refusal(
                400, {"message": "prompt_cache_key is unsupported, tool_choice, prefix, assistant"}
            )

    mistral = serving(Never())
    async with Call(service_for(mistral, warm_up=False), tools=[TOOL]) as call:
        await call.say("Hello?")
        assert len(call.errors) == 1
    assert len(mistral.exchanges) == 2
    assert endpoint_of(llm_client(mistral)).of("mistral-small-latest") == SERVERS["unknown"]


async def test_a_request_that_is_refused_for_what_it_says_teaches_nothing(serve, service_for):
    mistral = serve(
        Reply(status=400, body={"message": "the assistant message is bad", "code": "3230"}),
        Reply("Yes."),
    )
    async with Call(service_for(mistral, warm_up=False)) as call:
        await call.say("Hello?")
        assert len(call.errors) == 1
        assert await call.say("Hello?") == "Yes."
    assert "prompt_cache_key" in mistral.exchanges[-1].request


# --- replies that go on --------------------------------------------------------------------------


@pytest.mark.parametrize("known", ["recognised", "set", "learned"])
@pytest.mark.parametrize("knows_continue", [True, False])
async def test_a_sentence_that_is_cut_goes_on_in_the_form_of_the_server(
    serving, service_for, known: str, knows_continue: bool
):
    mistral = serving(
        LikeVLLM(knows_continue=knows_continue),
        Reply("One two three four.", cut_after=3),
        Reply("four."),
        Reply("One two three four.", cut_after=3),
        Reply("four."),
    )
    options = {"server": "vllm"} if known == "set" else {}
    llm = service_for(mistral, warm_up=False, **options)
    if known == "recognised":
        endpoint_of(llm._client).recognise(
            Catalogue.from_reply({"data": [{"id": "m", "owned_by": "vllm"}]})
        )
    async with Call(llm) as call:
        for _ in range(2):
            assert await call.say("Count.") == "One two three four."
        assert not call.errors
    form = [_form(each.request) for each in mistral.exchanges if each.refused is None]
    assert form == ["asked", "continue" if knows_continue else "words"] * 2
    refused = sum(each.refused is not None for each in mistral.exchanges)
    assert refused == (known == "learned") + (not knows_continue)


async def test_a_client_goes_on_from_the_assistants_words_in_the_form_of_the_server(serving):
    mistral = serving(LikeVLLM(), Reply("three."), Reply("three."))
    for server in (None, "vllm"):
        async with MistralClient(api_key="k", base_url=mistral.base_url, server=server) as client:
            answer = await client.chat([USER, {"role": "assistant", "content": "One two "}])
            assert answer.text == "three."
    assert [each.refused is None for each in mistral.exchanges] == [False, True, True]
    assert _form(mistral.exchanges[-1].request) == "continue"


def _form(request: dict[str, Any]) -> str:
    last = request["messages"][-1]
    if request.get("continue_final_message"):
        assert request["add_generation_prompt"] is False
        assert "prefix" not in last
        return "continue"
    if last.get("prefix"):
        return "prefix"
    return "words" if last["content"] == CONTINUE_TEXT else "asked"


# --- the choice of a function --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "sent"),
    [("mistral", "any"), ("vllm", "required"), ("llama.cpp", "required"), (None, "any")],
)
async def test_any_function_is_asked_for_in_the_words_of_the_server(
    serve, service_for, server: str | None, sent: str
):
    mistral = serve(Reply("Yes."))
    llm = service_for(mistral, warm_up=False, server=server, tool_choice="any")
    async with Call(llm, tools=[TOOL]) as call:
        await call.say("Hello?")
        assert not call.errors
    assert mistral.exchanges[0].request["tool_choice"] == sent


def test_a_server_that_takes_no_name_is_offered_that_function_alone():
    tools = [{"type": "function", "function": {"name": name}} for name in "ab"]
    body = {"tools": tools, "tool_choice": {"type": "function", "function": {"name": "b"}}}
    sent = adapt_body(body, SERVERS["llama.cpp"])
    assert (sent["tools"], sent["tool_choice"]) == (tools[1:], "required")
    assert adapt_body(body, SERVERS["vllm"])["tool_choice"] == body["tool_choice"]
    unknown = {**body, "tool_choice": {"type": "function", "function": {"name": "c"}}}
    assert adapt_body(unknown, SERVERS["llama.cpp"]) == unknown


async def test_a_choice_that_is_refused_is_spelled_otherwise(serving, service_for):
    mistral = serving(LikeVLLM(), Reply("Yes.", times=None))
    llm = service_for(mistral, warm_up=False, server="mistral", tool_choice="any")
    async with Call(llm, tools=[TOOL]) as call:
        assert await call.say("Hello?") == "Yes."
        assert await call.say("And?") == "Yes."
        assert not call.errors
    assert [each.request["tool_choice"] for each in mistral.exchanges] == [
        "any",
        "required",
        "required",
    ]


# --- OpenAI's names ------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["mistral", "vllm"])
async def test_seed_and_usage_are_asked_for_under_the_names_of_the_server(
    serving, service_for, server: str
):
    mistral = serving(LikeVLLM(), Reply("Yes."))
    async with Call(service_for(mistral, warm_up=False, server=server, random_seed=7)) as call:
        assert await call.say("Hello?") == "Yes."
    request = mistral.exchanges[0].request
    names = {"seed", "random_seed", "stream_options"} & request.keys()
    assert names == ({"random_seed"} if server == "mistral" else {"seed", "stream_options"})


async def test_a_server_that_knows_no_stream_options_is_asked_without(serving, service_for):
    refusal = Refusal(422, extra_forbidden("stream_options"))
    mistral = serving(Refuses(field="stream_options", refusal=refusal), Reply("Yes.", times=None))
    async with Call(service_for(mistral, warm_up=False, server="llama.cpp")) as call:
        assert await call.say("Hello?") == "Yes."
        assert await call.say("And?") == "Yes."
    assert ["stream_options" in each.request for each in mistral.exchanges] == [True, False, False]


async def test_an_endpoint_that_is_not_what_it_says_is_understood_all_the_same(serve, service_for):
    """It lists models as vLLM does, and takes what Mistral takes."""
    mistral = serve(
        Reply("Yes."), Reply("One two three four.", cut_after=4), Reply("four."), Reply("No.")
    )
    llm = service_for(mistral, server="vllm", warm_up=False, random_seed=7)
    async with Call(llm) as call:
        assert await call.say("Hello?") == "Yes."
        assert await call.say("Count.") == "One two three four."
        assert await call.say("And?") == "No."
        assert not call.errors
    accepted = [each.request for each in mistral.exchanges if each.refused is None]
    assert all(request["random_seed"] == 7 for request in accepted)
    assert len(mistral.exchanges) - len(accepted) == 2


# --- which server it is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://codestral.mistral.ai/v1", "mistral"),
        ("https://name.services.ai.azure.com/models", "azure"),
        ("https://us-central1-aiplatform.googleapis.com/v1/projects/p", "vertex"),
        ("http://127.0.0.1:8000/v1", "unknown"),
        ("https://api.mistral.ai.example.com/v1", "unknown"),
        ("https://notmistral.ai/v1", "unknown"),
    ],
)
def test_an_address_names_some_servers(url: str, name: str):
    assert by_address(url).name == name


@pytest.mark.parametrize(
    ("models", "headers", "name"),
    [
        ([{"id": "m", "owned_by": "vllm"}], {}, "vllm"),
        ([{"id": "m", "owned_by": "sglang"}], {}, "sglang"),
        ([{"id": "m", "owned_by": "llamacpp"}], {}, "llama.cpp"),
        ([{"id": "m", "owned_by": "library"}], {}, "ollama"),
        ([{"id": "m", "owned_by": "openai"}], {"x-litellm-version": "1.110"}, "litellm"),
        ([{"id": "m"}], {"Server": "llama.cpp"}, "llama.cpp"),
        ([{"id": "m", "capabilities": {"completion_chat": True}}], {}, "mistral"),
        ([{"id": "m", "owned_by": "someone"}], {}, "unknown"),
        ("nonsense", {}, "unknown"),
    ],
)
def test_a_server_is_recognised_by_what_it_answers(models: Any, headers: dict[str, str], name: str):
    endpoint = Endpoint("http://127.0.0.1:8000/v1")
    lower = {key.lower(): value for key, value in headers.items()}
    endpoint.recognise(Catalogue.from_reply({"data": models}), lower)
    assert endpoint.server.name == name
    endpoint.set(SERVERS["azure"])
    endpoint.recognise(Catalogue.from_reply({"data": models}), lower)
    assert endpoint.server.name == "azure"


async def test_the_list_of_models_that_a_service_fetches_shows_the_server(serve, service_for):
    mistral = serve(Reply("Yes."))
    llm = service_for(mistral)
    async with Call(llm) as call:
        await call.until(lambda: endpoint_of(llm._client).server.name == "mistral")


@pytest.mark.parametrize("name", ["server", "fallback_server"])
def test_a_server_that_there_is_not_is_refused_with_those_that_there_are(name: str):
    options: dict[str, Any] = {name: "vLLM"}
    with pytest.raises(ValueError, match=rf"{name}='vLLM'.*vllm, sglang, llama.cpp"):
        MistralLLMService(api_key="k", **options)


def test_a_client_with_a_server_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="server='tgi'"):
        MistralClient(api_key="k", server="tgi")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("said", "rest", "whole"),
    [
        ("It costs 1", "1 euros.", "It costs 11 euros."),
        ("The code is 5 5", " 5 1 2.", "The code is 5 5 5 1 2."),
        ("Room 2", "2 is free.", "Room 22 is free."),
        ("One two ", "two three.", "One two two three."),
    ],
)
async def test_nothing_counts_as_repeated_where_a_server_goes_on_exactly(
    serving, service_for, said: str, rest: str, whole: str
):
    cut = Reply(deltas=[{"content": said}, {"content": "x"}], cut_after=1)
    mistral = serving(LikeVLLM(), cut, Reply(deltas=[{"content": rest}]))
    async with Call(service_for(mistral, warm_up=False, server="vllm")) as call:
        assert await call.say("Hello?") == whole
        assert not call.errors


async def test_a_thinking_that_a_user_chooses_later_is_asked_for(serving, service_for):
    said = {"message": "reasoning_effort does not support 'none': choose low or high"}

    @dataclass(frozen=True)
    class Thinks(Checks):
        def validate(self, body: Any) -> Refusal | None:
            none = body.get("reasoning_effort") == "none"
            return Refusal(400, said) if none else super().validate(body)

    mistral = serving(Thinks(), Reply("Yes.", times=None))
    async with Call(service_for(mistral, warm_up=False)) as call:
        assert await call.say("Hello?") == "Yes."
    async with Call(service_for(mistral, warm_up=False, reasoning_effort="high")) as call:
        assert await call.say("Hello?") == "Yes."
    assert [each.request.get("reasoning_effort") for each in mistral.exchanges] == [
        "none",
        None,
        "high",
    ]


def refused(status: int, body: Any) -> APIStatusError:
    response = httpx.Response(status, json=body, request=httpx.Request("POST", "http://x/v1"))
    return APIStatusError("", response=response, body=None)


async def test_lessons_that_are_learned_together_are_all_kept():
    endpoint, both = Endpoint("http://127.0.0.1:8000/v1"), asyncio.Barrier(2)

    async def send(name: str) -> None:
        async def post(body: dict[str, Any]) -> None:
            if name in body:
                await both.wait()  # the other has asked by now
                if name == "service_tier":
                    endpoint.recognise(
                        Catalogue.from_reply({"data": [{"id": "m", "owned_by": "vllm"}]})
                    )
                raise refused(422, extra_forbidden(name))

        await endpoint.send({"model": "m", "messages": [USER], name: "x"}, post)

    await asyncio.gather(send("prompt_cache_key"), send("service_tier"))
    assert endpoint.server.name == "vllm"
    known = endpoint.of("m")
    assert known.unknown_fields == {"prompt_cache_key", "service_tier"}
    assert (known.name, known.continues) == ("vllm", "continue_final_message")


async def test_a_guess_that_does_not_help_hides_no_refusal():
    endpoint = Endpoint("http://127.0.0.1:8000/v1")
    endpoint.set(SERVERS["vllm"])
    schema = {"message": "Invalid schema for tool_choice 'any': 'required' must list all"}
    answers = [refused(400, schema), refused(400, {"message": "Invalid tool_choice: 'any'"})]

    async def post(body: dict[str, Any]) -> None:
        raise answers.pop(0)

    with pytest.raises(APIStatusError) as e:
        await endpoint.send({"model": "m", "messages": [USER], "tool_choice": "any"}, post)
    assert b"Invalid schema" in e.value.response.content
    assert endpoint.of("m") == SERVERS["vllm"]


def test_an_address_that_names_its_server_is_believed():
    endpoint = Endpoint("https://name.services.ai.azure.com/models")
    listed = [{"id": "m", "capabilities": {"completion_chat": True}}]
    endpoint.recognise(Catalogue.from_reply({"data": listed}))
    assert endpoint.server.name == "azure"


# --- rules that hold for all ---------------------------------------------------------------------

bodies = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.sampled_from([[USER], [USER, CUT]])},
    optional={
        "tool_choice": st.sampled_from(["any", "auto", "required"]),
        **{name: st.sampled_from(["none", "x"]) for name in OPTIONAL_FIELDS},
        "safe_prompt": st.booleans(),
    },
)


@given(bodies, st.sampled_from(sorted(SERVERS)))
def test_a_body_for_another_server_says_the_same(body: dict[str, Any], name: str):
    before = json.dumps(body)
    sent = adapt_body(body, SERVERS[name])
    assert json.dumps(body) == before
    assert sent.get("safe_prompt") == body.get("safe_prompt")
    assert [m["content"] for m in sent["messages"]][: len(body["messages"])] == [
        m["content"] for m in body["messages"]
    ]
    if name == "mistral":
        assert sent == body


@given(bodies, st.sampled_from(sorted(SERVERS)), st.text() | st.sampled_from(
    [
        "prompt_cache_key service_tier reasoning_effort are unsupported",
        "Only named tools are supported for tool_choice",
        "the last message may not be the assistant's: continue_final_message",
    ]
))  # fmt: skip
def test_each_revision_changes_the_request_and_their_number_is_small(
    body: dict[str, Any], name: str, said: str
):
    server, sent = SERVERS[name], [adapt_body(body, SERVERS[name])]
    for _ in range(20):
        other = revise_server(server, body, said)
        if other is None:
            break
        server = other
        sent.append(adapt_body(body, server))
        if sent.count(sent[-1]) > 1:
            assert body["tool_choice"] == "any"  # refused in both spellings: the endpoint ends it
            break
    assert len(sent) <= 6


def test_nothing_is_learned_of_a_server_whose_answer_is_no_refusal():
    assert (
        revise_server(SERVERS["unknown"], {"messages": [USER, CUT]}, "busy, come back later")
        is None
    )
    assert replace(SERVERS["vllm"], name="unknown").continues == "continue_final_message"
    assert by_headers({"server": "uvicorn"}) is None


async def test_an_error_after_a_lesson_is_the_one_that_is_reported(serving, service_for):
    @dataclass(frozen=True)
    class Two(Checks):
        def validate(self, body: Any) -> Refusal | None:
            if "service_tier" in body:
                return Refusal(422, extra_forbidden("service_tier"))
            return Refusal(401, {"detail": "Unauthorized"})

    mistral = serving(Two())
    async with MistralClient(api_key="k", base_url=mistral.base_url) as client:
        with pytest.raises(MistralError) as e:
            await client.chat([USER], service_tier="auto")
    assert e.value.reason is Reason.KEY


def llm_client(mistral: LocalMistral) -> AsyncOpenAI:
    return AsyncOpenAI(api_key="k", base_url=mistral.base_url)
