"""What a real vLLM says to settings, to a wrong key and to a wrong model."""

from typing import Any

import pytest
from real_vllm import KEY, MODEL, Vllm

from mistral_service import MistralClient, MistralError, Reason
from mistral_service.wire.endpoint import endpoint_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

USER = [{"role": "user", "content": "Hello."}]
SETTINGS: dict[str, Any] = {
    "temperature": 0.3,
    "top_p": 0.9,
    "min_tokens": 1,
    "stop": ["Goodbye"],
    "random_seed": 3,
    "safe_prompt": True,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "metadata": {"call": "7"},
    "prompt_cache_key": "a-call",
    "service_tier": "auto",
    "reasoning_effort": "none",
    "prompt_mode": "reasoning",
    "prediction": {"type": "content", "content": "Hello."},
    "guardrails": [{"block_on_error": False}],
    "parallel_tool_calls": False,
    "response_format": {"type": "text"},
}


async def test_it_is_recognised_by_its_list_of_models(vllm: Vllm):
    async with MistralClient(api_key=KEY, base_url=vllm.base_url) as client:
        catalogue = await client.models()
        assert endpoint_of(client._main.client).server.name == "vllm"
    assert catalogue.find(MODEL) is not None


@pytest.mark.parametrize("name", SETTINGS)
async def test_a_setting_is_accepted(vllm: Vllm, name: str):
    async with MistralClient(api_key=KEY, base_url=vllm.base_url) as client:
        before = vllm.refused()
        answer = await client.chat(USER, model=MODEL, max_tokens=3, **{name: SETTINGS[name]})
    assert answer.text
    assert vllm.refused() == before


async def test_what_it_refuses_is_learned_in_the_same_request(vllm: Vllm):
    function = {"name": "wait", "parameters": {"type": "object", "properties": {}}}
    offered: Any = {"tools": [{"type": "function", "function": function}], "tool_choice": "any"}
    async with MistralClient(api_key=KEY, base_url=vllm.base_url) as client:
        before = vllm.refused()
        for _ in range(2):
            answer = await client.chat(
                USER, model=MODEL, max_tokens=60, parallel_tool_calls=False, **offered
            )
            assert [call.name for call in answer.tool_calls] == ["wait"]
        # The list of models was not asked for, so one refusal tells it; the next request fits.
        assert vllm.refused() == before + 1


async def test_all_settings_together_are_accepted(vllm: Vllm):
    async with MistralClient(api_key=KEY, base_url=vllm.base_url) as client:
        assert (await client.chat(USER, model=MODEL, max_tokens=3, **SETTINGS)).text


async def test_a_wrong_key_is_one_clear_error(vllm: Vllm):
    async with MistralClient(api_key="quite-another-key", base_url=vllm.base_url) as client:
        for ask in (lambda: client.chat(USER, model=MODEL), client.models):
            with pytest.raises(MistralError, match="MISTRAL_API_KEY") as raised:
                await ask()
            assert raised.value.reason is Reason.KEY
            assert raised.value.status_code == 401
            assert "quite-another" not in str(raised.value)


async def test_a_wrong_model_is_one_clear_error(vllm: Vllm):
    async with MistralClient(api_key=KEY, base_url=vllm.base_url) as client:
        with pytest.raises(MistralError, match="nonesuch") as raised:
            await client.chat(USER, model="nonesuch")
    assert raised.value.reason is Reason.UNKNOWN_MODEL
    assert raised.value.status_code == 404
