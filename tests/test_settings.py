"""Settings and parameters: what is sent, when it changes, and what is refused."""

import asyncio

import pytest
from call import Call
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.adapters.llm.schemas.tools_schema import AdapterType, ToolsSchema
from pipecat.frames.frames import (
    LLMContextFrame,
    LLMSetToolChoiceFrame,
    LLMSetToolsFrame,
    LLMUpdateSettingsFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage
from pipecat.utils.errors import ErrorCategory

from mistral_service import MistralLLMService
from mistral_service.local import Reply
from mistral_service.settings import BadSetting

Settings = MistralLLMService.Settings
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "weather"}}


def function(name: str = "weather", **properties) -> FunctionSchema:
    return FunctionSchema(name=name, description="Tells.", properties=properties, required=[])


GOOD = {
    "temperature": 0.0,
    "top_p": 0.5,
    "max_tokens": 20,
    "frequency_penalty": -1.5,
    "presence_penalty": 2,
    "random_seed": 3,
    "safe_prompt": True,
    "response_format": {"type": "json_object"},
    "parallel_tool_calls": False,
    "top_k": 40,
    "min_tokens": 0,
    "repetition_penalty": 1.1,
    "logprobs": True,
    "top_logprobs": 3,
    "prompt_logprobs": True,
    "top_prompt_logprobs": 0,
    "reasoning_effort": "high",
    "prompt_mode": "reasoning",
    "prediction": {"type": "content", "content": "Hello."},
    "stop": ["\n", "END"],
    "n": 1,
    "prompt_cache_key": "call-7",
    "guardrails": [{"block_on_error": True}],
    "service_tier": "standard_only",
    "metadata": {"call": "7"},
}

BAD = {
    "model": ["", 7],
    "temperature": [-0.1, 1.6, "0.5", True],
    "top_p": [0, 1.1],
    "max_tokens": [0, -5, 2.5],
    "max_completion_tokens": [0],
    "frequency_penalty": [2.1],
    "presence_penalty": [-2.1],
    "seed": [-1],
    "random_seed": ["7"],
    "safe_prompt": [1, "yes"],
    "response_format": ["json", {"type": "xml"}, {"type": "json_schema"}],
    "tool_choice": ["some", {"type": "function"}],
    "parallel_tool_calls": ["yes"],
    "top_k": [0, "40", 2.5],
    "min_tokens": [-1, True],
    "repetition_penalty": [0, -1.0, "1"],
    "logprobs": [5, "yes"],
    "top_logprobs": [-1, True],
    "prompt_logprobs": [1],
    "top_prompt_logprobs": [-1],
    "reasoning_effort": ["very"],
    "prompt_mode": ["fast"],
    "prediction": ["Hello."],
    "stop": [7, [7]],
    "n": [0, 2],
    "prompt_cache_key": [7],
    "guardrails": [{}],
    "service_tier": ["premium"],
    "metadata": ["x"],
}


@pytest.mark.parametrize(("name", "value"), GOOD.items())
async def test_every_setting_is_sent_as_mistral_knows_it(serve, service_for, name, value):
    mistral = serve(Reply("Hi."))
    async with Call(service_for(mistral, **{name: value}), tools=[function()]) as call:
        assert await call.say("Hello.") == "Hi."
    assert mistral.exchanges[0].request[name] == value


async def test_every_setting_may_be_none_and_is_then_not_sent(serve, service_for):
    mistral = serve(Reply("Hi."))
    service = service_for(mistral, **dict.fromkeys(GOOD))
    async with Call(service) as call:
        assert await call.say("Hello.") == "Hi."
    # A reasoning model for which nothing is set answers at once.
    sent = set(mistral.exchanges[0].request)
    assert sent == {"model", "messages", "stream", "reasoning_effort"}


async def test_a_conversation_has_one_cache_key_of_its_own(serve, service_for):
    mistral = serve(*[Reply("Hi.")] * 3)
    for turns in (2, 1):
        async with Call(service_for(mistral)) as call:
            for _ in range(turns):
                await call.say("Hello.")
    first, second, third = (e.request["prompt_cache_key"] for e in mistral.exchanges)
    assert first == second != third


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_a_bad_value_is_refused_when_the_service_is_made(name: str, value):
    if name == "model" and not value:
        return  # an unset model is the default
    with pytest.raises(BadSetting) as raised:
        MistralLLMService(api_key="k", settings=Settings(**{name: value}))
    said = str(raised.value)
    assert (raised.value.name, raised.value.value) == (name, value)
    assert said.startswith(f"{name} must be ")
    assert said.endswith(f", not {value!r}.")


@pytest.mark.parametrize(("name", "value"), [(name, values[0]) for name, values in BAD.items()])
async def test_an_update_with_a_bad_value_is_refused_whole(serve, service_for, name, value):
    mistral = serve(Reply("Hi."), Reply("Still here."))
    async with Call(service_for(mistral, temperature=0.3, top_p=0.8)) as call:
        await call.say("Hello.")
        good = "top_p" if name != "top_p" else "temperature"
        delta = Settings(**{good: 0.1, name: value})
        await call.worker.queue_frame(LLMUpdateSettingsFrame(delta=delta))
        assert await call.say("Again.") == "Still here."
        [error] = call.errors
        assert error.category is ErrorCategory.APPLICATION
        assert call.service.is_usable
        assert name in error.error
        assert repr(value) in error.error
    first, second = (exchange.request for exchange in mistral.exchanges)
    assert {k: v for k, v in first.items() if k != "messages"} == {
        k: v for k, v in second.items() if k != "messages"
    }


async def test_the_deprecated_dict_form_is_held_against_the_same_bounds(serve, service_for):
    mistral = serve(Reply("Hi."), Reply("Hi."))
    async with Call(service_for(mistral)) as call:
        await call.worker.queue_frame(LLMUpdateSettingsFrame(settings={"temperature": 9}))
        await call.worker.queue_frame(
            LLMUpdateSettingsFrame(settings={"temperature": 0.4, "safe_prompt": True})
        )
        await call.say("Hello.")
    [error] = call.errors
    assert "temperature must be a number from 0 to 1.5, not 9" in error.error
    assert mistral.exchanges[0].request["temperature"] == 0.4
    assert mistral.exchanges[0].request["safe_prompt"] is True


async def test_a_setting_in_extra_is_held_against_its_bounds():
    with pytest.raises(BadSetting, match=r"extra\['temperature'\] must be .*, not 3"):
        MistralLLMService(api_key="k", settings=Settings(extra={"temperature": 3.0}))


async def test_an_update_during_a_reply_does_not_disturb_it(serve, service_for):
    mistral = serve(Reply("One two three.", pause=0.15), Reply("Four."))
    async with Call(service_for(mistral)) as call:
        await call.begin("Count.")
        await call.until(lambda: call.words)
        await call.worker.queue_frame(
            LLMUpdateSettingsFrame(delta=Settings(model="mistral-large-latest", max_tokens=9))
        )
        await call.until(lambda: call.words == "One two three.")
        await call.say("Go on.")
    assert not call.errors
    assert mistral.exchanges[1].request["model"] == "mistral-large-latest"
    assert mistral.exchanges[1].request["max_tokens"] == 9


async def test_the_system_instruction_changes_in_mid_conversation(serve, service_for):
    mistral = serve(Reply("Hi."), Reply("Salut."))
    async with Call(service_for(mistral, system_instruction="Speak English.")) as call:
        await call.say("Hello.")
        delta = Settings(system_instruction="Speak French.")
        await call.worker.queue_frame(LLMUpdateSettingsFrame(delta=delta))
        await call.say("Again.")
    systems = [exchange.request["messages"][0] for exchange in mistral.exchanges]
    assert [s["content"] for s in systems] == ["Speak English.", "Speak French."]


async def test_what_the_framework_composes_into_the_instruction_stays(serve, service_for):
    mistral = serve(Reply("Hi."))
    service = service_for(mistral, system_instruction="Be kind.")
    service.append_system_instruction("Use short words.")
    async with Call(service) as call:
        await call.worker.queue_frame(LLMUpdateSettingsFrame(delta=Settings(temperature=0.2)))
        await call.say("Hello.")
    assert mistral.exchanges[0].request["messages"][0]["content"] == "Be kind.\n\nUse short words."


async def test_turn_completion_set_by_frame_keeps_working(serve, service_for):
    """The framework turns it on over a frame; a marker then stands before the words."""
    mistral = serve(Reply("● Certainly."))
    async with Call(service_for(mistral, system_instruction="Be kind.")) as call:
        await call.worker.queue_frame(
            LLMUpdateSettingsFrame(delta=Settings(filter_incomplete_user_turns=True))
        )
        assert (await call.say("Could you help me?")).strip() == "Certainly."
    system = mistral.exchanges[0].request["messages"][0]["content"]
    assert system.startswith("Be kind.")
    assert len(system) > len("Be kind.")
    assert not call.errors


async def test_both_limits_of_a_reply_hold(serve, service_for):
    mistral = serve(Reply("Hi."))
    async with Call(service_for(mistral, max_tokens=80, max_completion_tokens=30)) as call:
        await call.say("Hello.")
    assert mistral.exchanges[0].request["max_tokens"] == 30


async def test_pipecats_seed_is_mistrals_and_mistrals_own_wins(serve, service_for):
    mistral = serve(Reply("Hi."), Reply("Hi."))
    async with Call(service_for(mistral, seed=5)) as call:
        await call.say("Hello.")
        await call.worker.queue_frame(LLMUpdateSettingsFrame(delta=Settings(random_seed=6)))
        await call.say("Again.")
    assert [e.request["random_seed"] for e in mistral.exchanges] == [5, 6]


# --- tools --------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["auto", "any", "required", NAMED])
async def test_a_choice_of_tools_is_sent(serve, service_for, choice):
    mistral = serve(Reply("Hi."))
    async with Call(service_for(mistral, tool_choice=choice), tools=[function()]) as call:
        await call.say("Hello.")
    assert mistral.exchanges[0].request["tool_choice"] == choice


async def test_where_no_function_may_be_called_none_is_offered(serve, service_for):
    mistral = serve(Reply("Hi."), Reply("Hi."))
    async with Call(service_for(mistral, tool_choice="none"), tools=[function()]) as call:
        await call.say("Hello.")
    assert not {"tools", "tool_choice"} & set(mistral.exchanges[0].request)


async def test_the_contexts_choice_wins(serve, service_for):
    mistral = serve(Reply("Hi."))
    async with Call(service_for(mistral, tool_choice="any"), tools=[function()]) as call:
        await call.worker.queue_frame(LLMSetToolChoiceFrame(tool_choice="none"))
        await call.say("Hello.")
    assert "tools" not in mistral.exchanges[0].request


async def test_with_tools_switched_off_a_last_assistant_message_is_a_prefix(serve, service_for):
    """No tools in the request: then the API allows a prefix."""
    mistral = serve(Reply("Good morning, caller."))
    service = service_for(mistral, tool_choice="none")
    context = LLMContext(
        messages=[
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Good morning,"},
        ],
        tools=[function()],
    )
    async with Call(service) as call:
        await call.worker.queue_frame(LLMContextFrame(context))
        await call.until(lambda: call.words or call.errors)
    assert mistral.exchanges[0].status == 200
    assert mistral.exchanges[0].request["messages"][-1]["prefix"] is True
    assert call.words == " caller."


async def test_a_name_that_mistral_does_not_take_is_respelled_there_and_back(serve, service_for):
    sent: list[str] = []

    def reply_calling(request_name: str) -> Reply:
        return Reply(tool_calls=[{"name": request_name}])

    from mistral_service.conversation.calls import safe_name

    mistral = serve(reply_calling(safe_name("weather.today")), Reply("Sunny."))
    service = service_for(mistral)

    async def handler(params) -> None:
        sent.append(params.function_name)
        await params.result_callback("sunny")

    service.register_function("weather.today", handler)
    async with Call(service, tools=[function("weather.today")]) as call:
        assert await call.say("Weather?", turns=2) == "Sunny."
    assert sent == ["weather.today"]
    assert [exchange.status for exchange in mistral.exchanges] == [200, 200]


async def test_schemas_are_scrubbed_of_what_breaks_mistrals_grammar(serve, service_for):
    mistral = serve(Reply("Hi."))
    tool = function(
        city={"$schema": "http://json-schema.org/draft-07/schema#", "$id": "x", "type": "string"},
        **{"$id": {"type": "integer"}},
    )
    async with Call(service_for(mistral), tools=[tool]) as call:
        await call.say("Hello.")
    properties = mistral.exchanges[0].request["tools"][0]["function"]["parameters"]["properties"]
    assert properties == {"city": {"type": "string"}, "$id": {"type": "integer"}}


async def test_mistrals_built_in_tools_travel_as_custom_tools(serve, service_for):
    mistral = serve(Reply("Hi."))
    library = {"type": "document_library", "library_ids": ["a"]}
    tools = ToolsSchema(
        standard_tools=[function()],
        custom_tools={AdapterType.OPENAI: [{"type": "image_generation"}, library]},
    )
    async with Call(service_for(mistral)) as call:
        await call.worker.queue_frame(LLMSetToolsFrame(tools=tools))
        assert await call.say("Hello.") == "Hi."
    sent = mistral.exchanges[0].request["tools"]
    assert [tool["type"] for tool in sent] == ["function", "image_generation", "document_library"]
    assert sent[2] == library


async def test_a_tool_that_left_the_chat_is_reported_and_the_others_are_offered(serve, service_for):
    mistral = serve(Reply("Hi."))
    tools = ToolsSchema(
        standard_tools=[function()],
        custom_tools={AdapterType.OPENAI: [{"type": "web_search"}, {"type": "image_generation"}]},
    )
    async with Call(service_for(mistral)) as call:
        await call.worker.queue_frame(LLMSetToolsFrame(tools=tools))
        assert await call.say("Hello.") == "Hi."
        [error] = call.errors
    assert error.error.endswith(
        "tool 2 is not offered to the model: its type is 'web_search', and function, connector, "
        "document_library, image_generation are allowed in a chat: Mistral runs this one in its "
        "conversations and agents."
    )
    sent = mistral.exchanges[0].request["tools"]
    assert [tool["type"] for tool in sent] == ["function", "image_generation"]


async def test_more_tools_than_can_be_sent_are_reported(serve, service_for):
    mistral = serve(Reply("Hi."))
    tools = [function(f"f{n}") for n in range(129)]
    async with Call(service_for(mistral)) as call:
        await call.worker.queue_frame(LLMSetToolsFrame(tools=tools))
        await call.say("Hello.")
        [error] = call.errors
        assert "129 tools" in error.error
        assert error.category is ErrorCategory.APPLICATION
        await call.worker.queue_frame(LLMSetToolsFrame(tools=ToolsSchema([function()])))
        assert await call.say("And now?") == "Hi."


# --- other providers, files ---------------------------------------------------------------------


async def test_other_providers_messages_do_not_leak_but_their_words_stay(serve, service_for):
    mistral = serve(Reply("Hi."))
    messages = [
        {"role": "user", "content": "Hello."},
        LLMSpecificMessage("anthropic", {"type": "thinking", "thinking": "x", "signature": "s"}),
        LLMSpecificMessage(
            "anthropic",
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "Hi!"}],
            },
        ),
        LLMSpecificMessage("openai", {"role": "user", "content": "How are you?", "secret": 1}),
        LLMSpecificMessage("google", object()),
    ]
    async with Call(service_for(mistral), *messages) as call:
        await call.say("Well?")
    assert mistral.exchanges[0].request["messages"] == [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "How are you?\n\nWell?"},
    ]


async def test_files_reach_mistral_in_its_form(serve, service_for):
    mistral = serve(Reply("Read."))
    pdf = "data:application/pdf;base64,AA=="
    notes = "data:text/plain;base64,SGVsbG8="
    messages = [
        await LLMContext.create_file_message(
            type="bytes", format="application/pdf", file=pdf, name="a.pdf", text="Read this."
        ),
        await LLMContext.create_file_message(
            type="bytes", format="text/plain", file=notes, name="notes.txt"
        ),
    ]
    async with Call(service_for(mistral), *messages) as call:
        assert await call.say("Well?") == "Read."
    [message] = mistral.exchanges[0].request["messages"]
    assert {"type": "document_url", "document_url": pdf, "document_name": "a.pdf"} in message[
        "content"
    ]
    assert "[File notes.txt]\nHello" in str(message["content"]).replace("\\n", "\n")


async def test_a_summary_made_during_a_turn_does_not_disturb_it(serve, service_for):
    """Each task has its own last request: a prefix of one is none of the other's."""
    mistral = serve(
        Reply("Sum.", when="Sum up"), Reply("One two three.", pause=0.1, when="Count", times=None)
    )
    service = service_for(mistral)
    summary = LLMContext(messages=[{"role": "user", "content": "Sum up."}])
    async with Call(service) as call:
        await call.begin("Count.")
        await call.until(lambda: call.words)
        assert await service.run_inference(summary) == "Sum."
        await call.until(lambda: call.words == "One two three.")


async def test_the_context_is_left_as_it_is(serve, service_for):
    mistral = serve(Reply("Hi."))
    history = [
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": [{"type": "text", "text": "Hello."}], "name": "anna"},
        {"role": "tool", "tool_call_id": "call_7", "content": "orphan"},
    ]
    async with Call(service_for(mistral), *history) as call:
        before = list(call.context.get_messages())
        await call.say("Well?")
        assert call.context.get_messages()[: len(before)] == before == history
    assert mistral.exchanges[0].status == 200


async def test_the_rules_tell_what_they_changed(serve, service_for):
    mistral = serve(Reply("Hi."))
    service = service_for(mistral, system_instruction="Be kind.")
    context = LLMContext(messages=[{"role": "assistant", "content": "Good day."}])
    adapter = service.get_llm_adapter()
    await adapter.get_llm_invocation_params(context, system_instruction="Be kind.")
    changes = [str(change) for change in adapter.conversion.changes]
    assert changes == [
        "R12, message 0: had the user open the conversation",
        "R5, message 0: made the last message a prefix that the model continues",
    ]
    await service.cleanup()
    await asyncio.sleep(0)


@pytest.mark.parametrize("headers", [{"x-name": "Zoë"}, {"x-näme": "Zoe"}, {"x-name": "a\r\nb: c"}])
def test_headers_that_cannot_be_sent_are_reported_when_the_service_is_made(headers):
    with pytest.raises(ValueError, match="default_headers") as raised:
        MistralLLMService(api_key="k", default_headers=headers)
    assert next(iter(headers.values())) not in str(raised.value)
