"""The body that Mistral's closed schema takes."""

import pytest
from openai import NOT_GIVEN
from openai._types import NotGiven

from mistral_service.local.schema import ChatCompletionRequest, issues_of
from mistral_service.wire.request import request_body

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


@pytest.mark.parametrize(
    "field", ["stream_options", "max_completion_tokens", "seed", "store", "user"]
)
def test_the_local_schema_refuses_what_openai_knows_and_mistral_does_not(field: str):
    body = {"model": "mistral-small-latest", "messages": MESSAGES, field: 1}
    [issue] = issues_of(body)
    assert (issue["type"], issue["loc"]) == ("extra_forbidden", ["body", field])
