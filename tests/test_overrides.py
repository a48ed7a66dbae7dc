"""What users override of the service keeps working: each of it, in one place."""

from typing import Any

from call import Call
from openai import AsyncOpenAI
from pipecat.services.openai.llm import OpenAILLMService
from tool_calls import called, tools

from mistral_service import MistralLLMAdapter, MistralLLMService
from mistral_service.local import Reply

HELLO = "Hello."


def test_the_service_has_one_base_class():
    assert MistralLLMService.__bases__ == (OpenAILLMService,)


async def test_create_client(serve):
    class Own(MistralLLMService):
        def create_client(self, *args: Any, **kwargs: Any) -> AsyncOpenAI:
            client = super().create_client(*args, **kwargs)
            return client.with_options(default_headers={"x-caller": "me"})

    mistral = serve(Reply("Hi."))
    async with Call(Own(api_key="k", base_url=mistral.base_url)) as call:
        assert await call.say(HELLO) == "Hi."
    assert mistral.exchanges[0].headers["x-caller"] == "me"


async def test_build_chat_completion_params(serve):
    class Own(MistralLLMService):
        def build_chat_completion_params(self, params_from_context: Any) -> dict[str, Any]:
            return {**super().build_chat_completion_params(params_from_context), "top_p": 0.5}

    mistral = serve(Reply("Hi."))
    async with Call(Own(api_key="k", base_url=mistral.base_url)) as call:
        assert await call.say(HELLO) == "Hi."
    assert mistral.exchanges[0].request["top_p"] == 0.5


async def test_get_chat_completions(serve):
    asked: list[Any] = []

    class Own(MistralLLMService):
        async def get_chat_completions(self, context: Any) -> Any:
            asked.append(context)
            return await super().get_chat_completions(context)

    mistral = serve(Reply(status=503), Reply("Hi."))
    async with Call(Own(api_key="k", base_url=mistral.base_url)) as call:
        assert await call.say(HELLO) == "Hi."
    assert len(asked) == 2


async def test_event_handlers(serve, service_for):
    mistral = serve(Reply(status=503), Reply(tool_calls=[called("one")]), Reply("Done."))
    service, seen = service_for(mistral), []

    @service.event_handler("on_fault_handled")
    async def on_fault_handled(_service: Any, error: Any, handled: Any) -> None:
        seen.append(("fault", error.status_code, handled.done))

    @service.event_handler("on_function_calls_started")
    async def on_function_calls_started(_service: Any, calls: Any) -> None:
        seen.append(("calls", [call.function_name for call in calls]))

    async def one(params: Any) -> None:
        await params.result_callback("done")

    service.register_function("one", one)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say(HELLO, turns=2) == "Done."
    assert seen == [("fault", 503, "retried"), ("calls", ["one"])]


async def test_a_subclass_of_the_adapter(serve):
    class Shouting(MistralLLMAdapter):
        async def get_llm_invocation_params(self, context: Any, **options: Any) -> Any:
            params = await super().get_llm_invocation_params(context, **options)
            messages = [{**m, "content": str(m["content"]).upper()} for m in params["messages"]]
            return {**params, "messages": messages}

    class Own(MistralLLMService):
        adapter_class = Shouting

    mistral = serve(Reply("Hi."))
    async with Call(Own(api_key="k", base_url=mistral.base_url)) as call:
        assert await call.say(HELLO) == "Hi."
    assert mistral.exchanges[0].request["messages"][-1]["content"] == "HELLO."
