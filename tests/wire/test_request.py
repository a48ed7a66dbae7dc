"""The body that Mistral's closed schema takes."""

import json
from pathlib import Path

import pytest
from mistral_types import fields_of
from openai import NOT_GIVEN
from openai._types import NotGiven

from mistral_service.local.endpoints import EmbeddingRequest, FIMCompletionRequest
from mistral_service.local.schema import ChatCompletionRequest, issues_of
from mistral_service.setting_bounds import ALLOWED
from mistral_service.wire.request import request_body
from mistral_service.wire.servers import OPTIONAL_FIELDS, SERVERS

MESSAGES = [{"role": "user", "content": "Hello."}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_openai_names_become_mistral_names():
    body = request_body({"seed": 7, "max_completion_tokens": 50})
    assert body == {"random_seed": 7, "max_tokens": 50}


def test_mistrals_own_name_wins():
    assert request_body({"seed": 7, "random_seed": 8}) == {"random_seed": 8}


def test_what_is_not_given_is_not_sent():
    assert request_body({"temperature": None, "top_p": NOT_GIVEN}, unset=(NotGiven,)) == {}


def test_what_mistral_refuses_is_not_sent():
    params = {"stream_options": {"include_usage": True}, "store": True, "user": "u", "timeout": 3}
    assert request_body(params) == {}


def test_extra_body_joins_the_body():
    assert request_body({"extra_body": {"safe_prompt": True}}) == {"safe_prompt": True}


@pytest.mark.parametrize("tools", [[], None])
def test_without_tools_nothing_is_said_of_them(tools):
    assert request_body({"tools": tools, "tool_choice": "auto"}) == {}


def test_where_no_function_may_be_called_none_is_offered():
    assert request_body({"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": True}) == {}


def test_the_local_schema_has_every_field_of_the_official_one():
    from mistralai.client.models import ChatCompletionRequest as Official

    # Pipecat's speech services hold `mistralai` below 3, which added these.
    newer = {"min_tokens", "repetition_penalty", "top_k", "logprobs", "top_logprobs"}
    newer |= {"prompt_logprobs", "top_prompt_logprobs"}
    assert set(ChatCompletionRequest.model_fields) - newer == set(Official.model_fields) - newer


NEWEST = json.loads((Path(__file__).parents[1] / "captures" / "mistralai_types.json").read_text())
"""What the types of the newest SDK say: `tests/support/mistral_types.py` writes it."""

# Where the judge differs: it takes the one word that there is, or any where the SDK names some of
# many.
OURS = {
    **{
        f"messages![].{place}.thinking.thinking![].tool_reference.tool!": ["string"]
        for place in ("assistant.content[]", "system.content![]")
    },
    **{
        f"messages![].{role}.content![].thinking.thinking![].tool_reference.tool!": ["string"]
        for role in ("tool", "user")
    },
    "messages![].assistant.tool_calls[].type": ['"function"'],
    "tool_choice.type": ['"function"'],
}


@pytest.mark.parametrize("model", [ChatCompletionRequest, FIMCompletionRequest, EmbeddingRequest])
def test_the_judges_have_every_field_and_type_of_the_newest_sdk(model):
    theirs = NEWEST[model.__name__]
    expected = {path: OURS.get(path, kinds) for path, kinds in theirs.items()}
    assert fields_of(model.model_json_schema()) == expected


def test_every_field_of_the_newest_sdk_is_a_setting():
    ours = {*ALLOWED, "messages", "stream", "tools"}
    theirs = {path.partition(".")[0].rstrip("[]!") for path in NEWEST["ChatCompletionRequest"]}
    assert theirs <= ours


@pytest.mark.parametrize("cloud", ["azure", "vertex"])
def test_the_clouds_rows_are_what_their_types_say(cloud: str):
    lacks = {name for name in OPTIONAL_FIELDS if name not in NEWEST[cloud]}
    assert SERVERS[cloud].unknown_fields == lacks


@pytest.mark.parametrize(
    ("tools", "where"),
    [
        ([{"type": "web_search"}], ["tools", 0]),
        ([{"type": "code_interpreter"}], ["tools", 0]),
        ([{"type": "document_library"}], ["tools", 0, "document_library", "library_ids"]),
        ([{"type": "connector"}], ["tools", 0, "connector", "connector_id"]),
        ([{"type": "image_generation", "n": 2}], ["tools", 0, "image_generation", "n"]),
    ],
)
def test_the_local_schema_takes_the_tools_of_chat_and_no_others(tools: list, where: list):
    [issue] = issues_of({"model": "mistral-small-latest", "messages": MESSAGES, "tools": tools})
    assert issue["loc"] == ["body", *where]


@pytest.mark.parametrize(
    "field", ["stream_options", "max_completion_tokens", "seed", "store", "user"]
)
def test_the_local_schema_refuses_what_openai_knows_and_mistral_does_not(field: str):
    body = {"model": "mistral-small-latest", "messages": MESSAGES, field: 1}
    [issue] = issues_of(body)
    assert (issue["type"], issue["loc"]) == ("extra_forbidden", ["body", field])
