"""The service in a real pipeline against the strict endpoint, over real HTTP."""

import asyncio
import os
import socket
import threading
from typing import Any

import pytest
from by_hand import ByHand
from call import Call, established
from fault_proxy import Ending, Place, Road, Trouble, response
from logged import logged
from loguru import logger
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import (
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    LLMContextSummaryRequestFrame,
    LLMContextSummaryResultFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    LLMThoughtTextFrame,
    LLMUpdateSettingsFrame,
)
from pipecat.metrics.metrics import (
    LLMUsageMetricsData,
    ProcessingMetricsData,
    TTFATMetricsData,
    TTFBMetricsData,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.services.mistral.llm import MistralLLMService as PipecatsOwn
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.utils.errors import ErrorCategory

from mistral_service import MistralError, MistralLLMAdapter, MistralLLMService, Reason
from mistral_service.local import LocalMistral, Reply
from mistral_service.local.pieces import Delta, Wait

TOOLS = [
    FunctionSchema(
        name=name, description="For tests.", properties={"city": {"type": "string"}}, required=[]
    )
    for name in ("weather", "time")
]

# --- making it ----------------------------------------------------------------------------------


def test_it_is_an_openai_service_with_pipecats_names():
    service = MistralLLMService(api_key="k")
    assert isinstance(service, OpenAILLMService)
    assert service.settings.model == PipecatsOwn(api_key="k").settings.model
    assert isinstance(service.get_llm_adapter(), MistralLLMAdapter)
    pipecats = set(PipecatsOwn.Settings.__dataclass_fields__)
    assert pipecats <= set(MistralLLMService.Settings.__dataclass_fields__)


def test_settings_win_over_the_deprecated_model():
    with pytest.warns(DeprecationWarning, match="Settings"):
        service = MistralLLMService(
            api_key="k", model="a", settings=MistralLLMService.Settings(model="b")
        )
    assert service.settings.model == "b"


def test_a_model_read_from_an_unset_variable_is_the_default():
    settings = MistralLLMService.Settings(model=os.getenv("NO_SUCH_VARIABLE"))
    service = MistralLLMService(api_key="k", settings=settings)
    assert service.settings.model == "mistral-small-latest"


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MISTRAL_API_KEY", " from-outside\n")
    assert MistralLLMService()._client.api_key == "from-outside"


@pytest.mark.parametrize("key", [None, "", "  "])
def test_a_missing_key_is_told_with_what_to_do(key):
    with pytest.raises(ValueError, match="MISTRAL_API_KEY"):
        MistralLLMService(api_key=key)


def test_an_address_that_is_none_is_told():
    with pytest.raises(ValueError, match=r"api\.example\.com.*http"):
        MistralLLMService(api_key="k", base_url="api.example.com/v1")


def test_an_unknown_argument_is_named_and_ignored():
    """As with Pipecat's service it is no error; there it is ignored without a word."""
    with logged() as messages:
        MistralLLMService(api_key="k", fallback_base_ur="http://a", run_in_parallel=False, name="a")
    assert messages == [
        "MistralLLMService has no argument 'fallback_base_ur', and ignores it. "
        "Did you mean 'fallback_base_url'?"
    ]


def test_an_argument_of_a_subclass_is_known():
    class Own(MistralLLMService):
        def create_client(self, tenant: str = "", **kwargs: Any) -> Any:
            return super().create_client(**kwargs)

    with logged() as messages:
        Own(api_key="k", tenant="a")
    assert not messages


def test_the_default_address_can_be_redirected(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MISTRAL_BASE_URL", "http://127.0.0.1:9/v1")
    assert MistralLLMService(api_key="k")._client.base_url.port == 9
    named = MistralLLMService(api_key="k", base_url="http://127.0.0.1:10/v1")
    assert named._client.base_url.port == 10


def test_the_key_is_in_no_repr_and_no_error(caplog):
    service = MistralLLMService(api_key="secret-key-123")
    assert "secret-key-123" not in f"{service!r} {service} {service.settings!r}"


# --- speaking -----------------------------------------------------------------------------------


async def test_a_reply_is_words_between_start_and_end(serve, service_for):
    mistral = serve(Reply("Good morning, how are you?"))
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "Good morning, how are you?"
    kinds = [
        type(frame)
        for frame in call.frames
        if isinstance(frame, LLMFullResponseStartFrame | LLMTextFrame | LLMFullResponseEndFrame)
    ]
    # How many frames the words take is the network's choice.
    assert kinds[0] is LLMFullResponseStartFrame
    assert kinds[-1] is LLMFullResponseEndFrame
    assert set(kinds[1:-1]) == {LLMTextFrame}
    assert call.context.get_messages()[-1] == {
        "role": "assistant",
        "content": "Good morning, how are you?",
    }
    assert not call.errors


async def test_words_come_while_the_reply_is_streamed(service_for):
    heard = threading.Event()
    with LocalMistral(ByHand(["One ", heard.is_set, "two three."])) as mistral:
        async with Call(service_for(mistral)) as call:
            await call.begin("Count.")
            await call.until(lambda: call.words)
            assert call.words == "One "
            heard.set()
            await call.until(lambda: call.count(LLMFullResponseEndFrame))
            assert call.words == "One two three."


async def test_words_in_parts_and_thinking_are_told_apart(serve, service_for):
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Greet back."}]}
    mistral = serve(
        Reply(
            deltas=[
                {"content": [thinking]},
                {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Hi"}]},
                {"content": " there."},
            ]
        )
    )
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "Hi there."


async def test_time_to_first_byte_ends_at_words_not_at_the_empty_first_chunk(serve, service_for):
    # Chunk one names the role and is empty; the words come 0.4 s later.
    mistral = serve(Reply(deltas=[{"content": ""}, {"content": "Now."}], pause=0.4))
    async with Call(service_for(mistral)) as call:
        await call.say("Hello.")
    [ttfb] = [m for m in call.metrics(TTFBMetricsData) if m.value]
    [ttfat] = call.metrics(TTFATMetricsData)
    assert ttfb.value >= 0.4
    assert ttfat.ttfat >= ttfb.value


async def test_thinking_counts_for_first_byte_and_not_for_the_first_answer(service_for):
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    # The pause begins when the thought has come.
    reply = [
        Delta({"content": [thinking]}),
        lambda: call.count(LLMThoughtTextFrame),
        Wait(0.4),
        "Yes.",
    ]
    with LocalMistral(ByHand(reply)) as mistral:
        async with Call(service_for(mistral)) as call:
            await call.say("Hello.")
    [ttfat] = call.metrics(TTFATMetricsData)
    assert ttfat.thinking_time >= 0.3


async def test_usage_and_processing_time_are_reported(serve, service_for):
    usage = {
        "prompt_tokens": 64,
        "completion_tokens": 5,
        "total_tokens": 69,
        "prompt_tokens_details": {"cached_tokens": 48},
    }
    mistral = serve(Reply("Hi.", usage=usage))
    async with Call(service_for(mistral)) as call:
        await call.say("Hello.")
    [tokens] = call.metrics(LLMUsageMetricsData)
    assert (tokens.value.prompt_tokens, tokens.value.completion_tokens) == (64, 5)
    assert tokens.value.cache_read_input_tokens == 48
    assert [m for m in call.metrics(ProcessingMetricsData) if m.value > 0]


async def test_a_conversation_of_several_turns_is_accepted(serve, service_for):
    mistral = serve(Reply("Good day."), Reply("It is noon."), Reply("Goodbye."))
    greeting = {"role": "developer", "content": "Greet the caller."}
    service = service_for(mistral, system_instruction="You are brief.")
    async with Call(service, greeting) as call:
        await call.say("Hello.")
        await call.say("What time is it?")
        assert await call.say("Thanks.") == "Goodbye."
    assert [e.status for e in mistral.exchanges] == [200, 200, 200]
    roles = [message["role"] for message in mistral.exchanges[-1].request["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


# --- what is sent -------------------------------------------------------------------------------


async def test_settings_travel_under_mistrals_names(serve, service_for):
    mistral = serve(Reply("Hi."))
    service = service_for(
        mistral,
        model="mistral-large-latest",
        temperature=0.2,
        top_p=0.9,
        max_completion_tokens=40,
        seed=7,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        extra={"safe_prompt": True},
    )
    async with Call(service) as call:
        await call.say("Hello.")
    sent = mistral.exchanges[0].request
    assert {k: v for k, v in sent.items() if k not in ("messages", "prompt_cache_key")} == {
        "model": "mistral-large-latest",
        "stream": True,
        "temperature": 0.2,
        "top_p": 0.9,
        "max_tokens": 40,
        "random_seed": 7,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "safe_prompt": True,
    }


async def test_settings_change_between_turns(serve, service_for):
    mistral = serve(Reply("Hi."), Reply("Hi."))
    async with Call(service_for(mistral, temperature=0.9)) as call:
        await call.say("Hello.")
        delta = MistralLLMService.Settings(model="mistral-large-latest", temperature=0.1)
        await call.worker.queue_frame(LLMUpdateSettingsFrame(delta=delta))
        await call.say("Again.")
    assert [(e.request["model"], e.request["temperature"]) for e in mistral.exchanges] == [
        ("mistral-small-latest", 0.9),
        ("mistral-large-latest", 0.1),
    ]


async def test_default_headers_are_sent(serve, service_for):
    mistral = serve(Reply("Hi."))
    async with Call(service_for(mistral, default_headers={"x-trace": "t1"})) as call:
        await call.say("Hello.")
    assert mistral.exchanges[0].headers["x-trace"] == "t1"


async def test_a_request_that_hangs_is_sent_again_where_that_is_asked_for(serve, service_for):
    mistral = serve(Reply("Late.", wait=3), Reply("In time."))
    service = service_for(mistral, retry_on_timeout=True, retry_timeout_secs=0.2)
    async with Call(service) as call:
        assert await call.say("Hello.") == "In time."
        await call.until(lambda: mistral.exchanges[0].left)
    assert not mistral.exchanges[1].left


# --- functions ----------------------------------------------------------------------------------


async def test_functions_called_in_one_reply_all_run_once_and_lead_to_one_answer(
    serve, service_for
):
    mistral = serve(
        Reply(
            "Let me see. ",
            tool_calls=[
                {"name": "weather", "arguments": {"city": "Paris"}},
                {"name": "time", "arguments": {"city": "Rome"}},
            ],
        ),
        Reply("Sunny in Paris, noon in Rome."),
    )
    service = service_for(mistral)
    ran: list[tuple[str, dict]] = []

    async def handler(params) -> None:
        ran.append((params.function_name, dict(params.arguments)))
        await params.result_callback({"ok": params.function_name})

    service.register_function("weather", handler)
    service.register_function("time", handler)
    async with Call(service, tools=TOOLS) as call:
        said = await call.say("Weather in Paris, time in Rome?", turns=2)
    assert said == "Let me see. Sunny in Paris, noon in Rome."
    assert sorted(ran) == [("time", {"city": "Rome"}), ("weather", {"city": "Paris"})]
    assert call.count(FunctionCallsStartedFrame) == 1
    assert call.count(FunctionCallResultFrame) == 2
    assert [exchange.status for exchange in mistral.exchanges] == [200, 200]
    assert not call.errors


async def test_a_function_that_has_its_result_does_not_run_again(serve, service_for):
    repeated = [{"name": "weather", "arguments": {}, "id": "abcdefgh1"}]
    mistral = serve(
        Reply(tool_calls=repeated), Reply("Sunny."), Reply("Again: ", tool_calls=repeated)
    )
    service = service_for(mistral)
    ran: list[str] = []

    async def handler(params) -> None:
        ran.append(params.tool_call_id)
        await params.result_callback("sunny")

    service.register_function("weather", handler)
    async with Call(service, tools=TOOLS) as call:
        await call.say("Weather?", turns=2)
        await call.say("And again?")
    assert ran == ["abcdefgh1"]


async def test_a_call_without_an_id_gets_one_that_mistral_takes(serve, service_for):
    mistral = serve(Reply(tool_calls=[{"name": "weather", "id": None}]), Reply("Sunny."))
    service = service_for(mistral)

    async def handler(params) -> None:
        await params.result_callback("sunny")

    service.register_function("weather", handler)
    async with Call(service, tools=TOOLS) as call:
        assert await call.say("Weather?", turns=2) == "Sunny."
    assert mistral.exchanges[1].status == 200


# --- never silent -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "reason", "category", "usable", "said"),
    [
        (
            Reply(status=401, body={"detail": "Unauthorized"}),
            Reason.KEY,
            ErrorCategory.AUTHENTICATION,
            False,
            "MISTRAL_API_KEY",
        ),
        (
            Reply(status=422, body={"detail": [{"loc": ["body", "x"], "msg": "Extra inputs"}]}),
            Reason.REQUEST,
            ErrorCategory.APPLICATION,
            True,
            "x: Extra inputs",
        ),
        (
            Reply(status=400, body={"message": "Unexpected role", "code": "3230"}),
            Reason.HISTORY,
            ErrorCategory.APPLICATION,
            True,
            "refused the history",
        ),
        (
            Reply(status=429, body={"message": "Rate limit exceeded"}, times=3),
            Reason.RATE_LIMIT,
            ErrorCategory.RATE_LIMIT,
            True,
            "rate limit",
        ),
    ],
)
async def test_a_refusal_is_told_in_words_and_in_the_right_category(
    serve, service_for, reply, reason, category, usable, said
):
    mistral = serve(reply, Reply("Here I am."))
    async with Call(service_for(mistral)) as call:
        await call.say("Hello.")
        [error] = call.errors
        assert isinstance(error.exception, MistralError)
        assert (error.exception.reason, error.category) == (reason, category)
        assert said in error.error
        assert call.service.is_usable is usable
        # Whatever one request met, the next one is asked as if nothing had been.
        assert await call.say("Are you there?") == "Here I am."


async def test_an_unknown_model_is_told_by_name(serve, service_for):
    mistral = serve(Reply("Hi."))
    async with Call(service_for(mistral, model="mistral-nonesuch", warm_up=False)) as call:
        await call.say("Hello.")
    [error] = call.errors
    assert "Settings(model=…)" in error.error
    assert "mistral-nonesuch" in error.error


async def test_an_endpoint_that_cannot_be_reached_is_told():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    service = MistralLLMService(api_key="k", base_url=f"http://127.0.0.1:{port}/v1")
    async with Call(service) as call:
        await call.say("Hello.")
    [error] = call.errors
    assert error.category is ErrorCategory.CONNECTIVITY
    assert "cannot be reached" in error.error


async def test_a_stream_that_breaks_is_told_and_its_words_are_kept(serve, service_for):
    mistral = serve(Reply("One two three four.", cut_after=2))
    async with Call(service_for(mistral)) as call:
        assert await call.say("Count.") == "One two "
    assert len(call.errors) == 1
    assert call.context.get_messages()[-1]["content"] == "One two"


async def test_the_key_is_in_no_log_and_no_error(serve, service_for):
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="TRACE")
    try:
        # Some servers repeat the key that they refuse.
        refused = Reply(status=401, body={"message": "Bad key secret-key-123 given"})
        mistral = serve(Reply("Hi."), refused)
        async with Call(service_for(mistral, api_key="secret-key-123")) as call:
            await call.say("Hello.")
            await call.say("Again.")
    finally:
        logger.remove(sink)
    assert lines
    assert "secret-key-123" not in "".join(lines)
    assert "secret-key-123" not in repr(call.errors)
    assert "[key]" in call.errors[0].error


# --- letting go ---------------------------------------------------------------------------------


async def test_an_interruption_closes_the_connection_at_once(serve, service_for):
    mistral = serve(Reply("One two three.", stall_after=2), Reply("Yes?"))
    clock = asyncio.get_running_loop().time
    # No deadline of ours can end it meanwhile.
    async with Call(service_for(mistral, stall_timeout=60, turn_timeout=60)) as call:
        await call.begin("Count.")
        await call.until(lambda: call.words == "One two ")
        began = clock()
        await call.interrupt()
        await call.until(lambda: mistral.exchanges[0].ended)
        assert mistral.exchanges[0].left
        assert clock() - began < 0.5  # a few milliseconds
        assert await call.say("Wait.") == "Yes?"
    assert not call.errors


async def test_an_interruption_before_the_headers_closes_the_connection_too(serve, service_for):
    mistral = serve(Reply("Late.", wait=5), Reply("Yes?"))
    async with Call(service_for(mistral)) as call:
        await call.begin("Count.")
        await call.until(lambda: mistral.exchanges)
        await call.interrupt()
        await call.until(lambda: mistral.exchanges[0].ended)
        assert mistral.exchanges[0].left
        assert await call.say("Wait.") == "Yes?"


async def test_usage_is_reported_of_a_reply_that_is_interrupted(serve, service_for):
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    chunk = '{"model":"m","choices":[{"delta":{"content":"One "}}],"usage":' + str(usage) + "}"
    raw = b"data: " + chunk.replace("'", '"').encode() + b"\n\n"
    # The stream stays open after the first chunk, whose usage says what it cost so far.
    from mistral_service.local.pieces import Raw, Wait

    class Engine:
        async def answer(self, request):
            yield Raw(raw)
            yield Wait(30)

        async def close(self) -> None: ...

    from mistral_service.local import LocalMistral

    with LocalMistral(Engine()) as mistral:
        async with Call(service_for(mistral)) as call:
            await call.begin("Count.")
            await call.until(lambda: call.words)
            await call.interrupt()
            await call.until(lambda: call.metrics(LLMUsageMetricsData))
    assert call.metrics(LLMUsageMetricsData)[0].value.total_tokens == 4


async def test_cleanup_closes_the_sockets(serve, service_for):
    mistral = serve(Reply("Hi."))
    service = service_for(mistral, warm_up=False)
    async with Call(service) as call:
        await call.say("Hello.")
        assert established(mistral.base_url) == 1
    await call.until(lambda: established(mistral.base_url) == 0)
    assert service._client.is_closed()


async def test_a_finished_reply_leaves_its_connection_for_the_next(serve, service_for):
    mistral = serve(*[Reply("Hi.")] * 4)
    async with Call(service_for(mistral, warm_up=False)) as call:
        for _ in range(4):
            await call.say("Hello.")
        assert established(mistral.base_url) == 1


# --- beside the conversation --------------------------------------------------------------------


async def test_run_inference_returns_the_words(serve, service_for):
    mistral = serve(Reply("A summary."))
    service = service_for(mistral, system_instruction="Be kind.", max_tokens=500)
    context = LLMContext(messages=[{"role": "user", "content": "Sum up."}])
    said = await service.run_inference(context, max_tokens=60, system_instruction="Be short.")
    assert said == "A summary."
    request = mistral.exchanges[0].request
    assert (request["stream"], request["max_tokens"]) == (False, 60)
    assert request["messages"][0] == {"role": "system", "content": "Be short."}
    await service.cleanup()


async def test_run_inference_asks_for_the_schema_given(serve, service_for):
    mistral = serve(Reply('{"a": 1}'))
    service = service_for(mistral)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    context = LLMContext(messages=[{"role": "user", "content": "Sum up."}])
    assert await service.run_inference(context, response_schema=schema) == '{"a": 1}'
    sent = mistral.exchanges[0].request["response_format"]
    assert sent["json_schema"]["schema"] == schema
    await service.cleanup()


async def test_run_inference_raises_what_went_wrong(serve, service_for):
    mistral = serve(Reply(status=401, body={"detail": "Unauthorized"}))
    service = service_for(mistral)
    context = LLMContext(messages=[{"role": "user", "content": "Sum up."}])
    with pytest.raises(MistralError, match="MISTRAL_API_KEY"):
        await service.run_inference(context)
    await service.cleanup()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("<html>Be right back</html>", "text/html"),
        ("{broken", "application/json"),
        ("null", "application/json"),
        ("[1]", "application/json"),
        ("{}", "application/json"),
    ],
)
async def test_run_inference_asks_again_where_the_answer_is_no_reply(serve, body: str, kind: str):
    odd = Trouble(Place.REQUEST, Ending.END, response(200, body, content_type=kind))
    mistral = serve(Reply("A summary."))
    async with Road(mistral.base_url) as road:
        service = MistralLLMService(api_key="any", base_url=road.base_url)
        context = LLMContext(messages=[{"role": "user", "content": "Sum up."}])
        road.ahead(odd)
        assert await service.run_inference(context) == "A summary."
        road.ahead(odd, always=True)
        with pytest.raises(MistralError, match="its answer is no"):
            await service.run_inference(context)
        await service.cleanup()


async def test_run_inference_waits_no_longer_than_for_a_summary(serve, service_for, monkeypatch):
    monkeypatch.setattr("mistral_service.wire.client.WHOLE_REPLY_S", 0.2)
    service = service_for(serve(Reply("Too late.", wait=20, times=None)))
    context = LLMContext(messages=[{"role": "user", "content": "Sum up."}])
    with pytest.raises(MistralError, match="did not answer in time"):
        await service.run_inference(context)
    await service.cleanup()


async def test_context_summaries_work(serve, service_for):
    mistral = serve(Reply("They spoke of the weather."))
    messages = [
        {"role": role, "content": f"Sentence {i}."}
        for i in range(6)
        for role in ("user", "assistant")
    ]
    async with Call(service_for(mistral), *messages) as call:
        await call.worker.queue_frame(
            LLMContextSummaryRequestFrame(
                request_id="r1",
                context=call.context,
                min_messages_to_keep=2,
                target_context_tokens=200,
                summarization_prompt="Sum up.",
            )
        )
        await call.until(lambda: call.count(LLMContextSummaryResultFrame))
    [result] = call.of(LLMContextSummaryResultFrame)
    assert (result.summary, result.error) == ("They spoke of the weather.", None)


async def test_a_subclass_may_replace_the_stream(serve, service_for):
    """`get_chat_completions` may be overridden to return the OpenAI client's own chunks."""

    class Own(MistralLLMService):
        async def get_chat_completions(self, context):
            adapter = self.get_llm_adapter()
            params = await adapter.get_llm_invocation_params(context)
            stream = await self._client.chat.completions.create(
                model="mistral-small-latest", messages=params["messages"], stream=True
            )

            async def upper():
                async for chunk in stream:
                    if chunk.choices[0].delta.content:
                        chunk.choices[0].delta.content = chunk.choices[0].delta.content.upper()
                    yield chunk

            return upper()

    mistral = serve(Reply("Hello there."))
    async with Call(Own(api_key="k", base_url=mistral.base_url)) as call:
        assert await call.say("Hello.") == "HELLO THERE."


async def test_the_stream_of_one_service_may_be_replaced(serve, service_for):
    """As tests of bots do: the method of an instance."""
    service, asked = service_for(serve(Reply("Hello there."))), []
    own = service.get_chat_completions

    async def watched(context):
        asked.append(context)
        return await own(context)

    service.get_chat_completions = watched
    async with Call(service) as call:
        assert await call.say("Hello.") == "Hello there."
    assert len(asked) == 1


async def test_a_summary_may_be_asked_for_after_the_call(serve, service_for):
    mistral = serve(Reply("Hi."), Reply("They greeted each other."))
    service = service_for(mistral)
    async with Call(service) as call:
        await call.say("Hello.")
    context = LLMContext(messages=[{"role": "user", "content": "Sum up."}])
    assert await service.run_inference(context) == "They greeted each other."


async def test_a_lone_surrogate_does_not_poison_the_conversation(serve, service_for):
    mistral = serve(Reply("Hi."), Reply("Hi."))
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello \ud83d there.") == "Hi."
        assert await call.say("And now?") == "Hi."
    assert mistral.exchanges[0].request["messages"][0]["content"] == "Hello ? there."


def test_an_address_that_is_none_is_the_default():
    service = MistralLLMService(api_key="k", base_url=os.getenv("NO_SUCH_VARIABLE"))
    assert service._client.base_url.host == "api.mistral.ai"


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "“sk”"])
def test_a_key_that_is_none_is_told_without_it(key: str):
    with pytest.raises(ValueError, match="Copy it again") as raised:
        MistralLLMService(api_key=key)
    assert key not in str(raised.value)


async def test_the_key_is_in_no_traceback_of_what_is_told(serve, service_for):
    import traceback

    mistral = serve(Reply(status=401, body={"message": "Bad key secret-key-123 given"}))
    async with Call(service_for(mistral, api_key="secret-key-123")) as call:
        await call.say("Hello.")
    shown = "".join(traceback.format_exception(call.errors[0].exception))
    assert "secret-key-123" not in shown


@pytest.mark.live
@pytest.mark.skipif("MISTRAL_API_KEY" not in os.environ, reason="needs a key of Mistral's API")
async def test_the_real_api_answers():
    async with Call(MistralLLMService()) as call:
        said = await asyncio.wait_for(call.say("Say the word 'yes' and nothing else."), 30)
    assert "yes" in said.lower()
    assert not call.errors
