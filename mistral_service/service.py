"""The Mistral LLM service: Pipecat's hooks, wired to the parts that do the work."""

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any, Literal, cast

from loguru import logger
from openai import APITimeoutError, AsyncStream
from openai.types.chat import ChatCompletionChunk
from pipecat.adapters.llm.services.open_ai_adapter import OpenAILLMInvocationParams
from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage
from pipecat.services.openai.base_llm import OpenAILLMSettings
from pipecat.services.settings import LLMSettings
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.tracing.service_decorators import (
    traced_llm,  # pyright: ignore[reportUnknownVariableType]
)
from pipecat.utils.types import NOT_GIVEN, NotGiven, assert_given

from mistral_service.conversation.tools import choice_now
from mistral_service.pipecat.adapter import MistralLLMAdapter
from mistral_service.pipecat.errors import Telling
from mistral_service.pipecat.tracing import trace_error
from mistral_service.pipecat.turns import Turns
from mistral_service.pipecat.vision import Sight
from mistral_service.reply.events import Text
from mistral_service.reply.prefix import RepeatedPrefix
from mistral_service.reply.reader import ReplyReader
from mistral_service.setting_bounds import SENT_AS_THEY_ARE
from mistral_service.settings import (
    UNSET,
    BadSetting,
    MistralLLMSettings,
    check_settings,
    given,
)
from mistral_service.surroundings import Gate, Keeper
from mistral_service.turn.deadline import now, within
from mistral_service.turn.prices import Price
from mistral_service.turn.retries import Attempts
from mistral_service.wire.access import (
    DEFAULT_BASE_URL,
    address_for,
    check_address,
    check_headers,
    check_key,
    key_for,
)
from mistral_service.wire.client import WHOLE_REPLY_S, error_of, fetch_reply, open_reply
from mistral_service.wire.endpoint import endpoint_of
from mistral_service.wire.models import DEFAULT_MODEL, fastest_effort
from mistral_service.wire.servers import ServerName


class MistralLLMService(Turns, Sight, Telling):
    """A Pipecat LLM service that talks to Mistral's chat completions API.

    It takes the place of `pipecat.services.mistral.llm.MistralLLMService`: the same constructor,
    the same names in `Settings`. Between an `LLMFullResponseStartFrame` and an
    `LLMFullResponseEndFrame` it pushes the reply as `LLMTextFrame`s while it is streamed, runs the
    functions that the model calls, and tells what went wrong as an `ErrorFrame` whose `exception`
    is a `MistralError`.

    A fault that passes is met within the turn's time budget: the request is sent again, and a
    sentence that was cut is finished. Event handlers: `on_fault_handled(service, error, handled)`
    for every fault that led to another attempt (`handled` tells what was done),
    `on_completion_timeout(service)` once for a turn in which an attempt took too long, and those of
    Pipecat's `LLMService`.

    Example::

        llm = MistralLLMService(
            api_key=os.environ["MISTRAL_API_KEY"],
            settings=MistralLLMService.Settings(model="mistral-small-latest", temperature=0.3),
        )
    """

    supports_developer_role = False
    adapter_class = MistralLLMAdapter
    Settings = MistralLLMSettings
    _settings: MistralLLMSettings  # pyright: ignore[reportIncompatibleVariableOverride]
    _requires_api_key = True

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = DEFAULT_BASE_URL,
        model: str | None = None,
        settings: MistralLLMSettings | None = None,
        fallback_base_url: str | None = None,
        fallback_api_key: str | None = None,
        warm_up: bool = True,
        prices: Mapping[str, Price] | None = None,
        gate: Gate | None = None,
        keeper: Keeper | Literal[False] | None = None,
        function_call_timeout_secs: float | None | NotGiven = NOT_GIVEN,
        server: ServerName | None = None,
        fallback_server: ServerName | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the service.

        Args:
            api_key: The key. Defaults to the environment variable `MISTRAL_API_KEY`.
            base_url: Where the API is. Where it is None or left at its default, the environment
                variable `MISTRAL_BASE_URL`, if set, takes its place, so that a bot can be pointed
                at a local endpoint or a gateway without a change.
            model: The model to ask.

                .. deprecated:: 0.1.0
                    As in Pipecat: use `settings=MistralLLMService.Settings(model=...)`.

            settings: What can also be changed in mid-conversation; wins over `model`. The model
                defaults to `mistral-small-latest`.
            fallback_base_url: Where the models of `fallback_models` are, if not at `base_url`; if
                there are none, the bot's own model is asked there.
            fallback_api_key: The key there. Defaults to `api_key`.
            warm_up: Whether the connection is opened when the pipeline starts, and key and model
                held against what the endpoint says of its models, in the background.
            prices: What each model's tokens cost, such as `mistral_service.turn.prices.PRICES`.
                With it, `MistralTurnMetrics` and the span of a turn say what the turn cost.
            gate: Who is asked before every request, where an account is shared by many processes
                (`mistral_service.scale.budget.SharedBudget`). Defaults to that of the
                surroundings; on one machine there is none.
            keeper: Who keeps the conversation where another machine finds it. Defaults to that of
                the surroundings; nobody does on a machine of its own. False keeps nothing: for a
                second service of a bot, whose context is not the conversation with the caller.
            function_call_timeout_secs: Seconds within which a function answers; then it is
                cancelled, and the model learns that there is no result. A function's own
                `timeout_secs` wins. By default 30 for functions that an interruption cancels, and
                no limit for asynchronous ones (`cancel_on_interruption=False`); a value that is
                given holds for both, and None is no limit.
            server: What kind of server `base_url` is (`mistral_service.wire.servers.SERVERS`), such
                as `vllm`. By default it is recognised, and what it refuses is learned.
            fallback_server: The same of `fallback_base_url`.
            **kwargs: As Pipecat's OpenAI service takes them: `default_headers`,
                `run_in_parallel`, `retry_on_timeout`, `retry_timeout_secs`, ….

        Raises:
            ValueError: If there is no key, a key, an address or a header cannot be one, a server
                is not known, or a setting or `function_call_timeout_secs` is not allowed.
        """
        owner = type(self).__name__
        key = key_for(owner, api_key)
        base_url = address_for(owner, base_url)
        check_address(owner, "fallback_base_url", fallback_base_url)
        check_headers(owner, kwargs.get("default_headers"))

        store = self.Settings.complete()
        store.prompt_cache_key = f"pipecat-{uuid.uuid4().hex}"
        if model is not None:
            self._warn_init_param_moved_to_settings("model", "model")
            store.model = model
        if settings is not None:
            store.apply_update(settings)
        # A bot that reads its model from an unset variable means the default.
        store.model = store.model or DEFAULT_MODEL
        check_settings(store)

        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            api_key=key,
            base_url=base_url,
            fallback_api_key=check_key(owner, "fallback_api_key", fallback_api_key),
            fallback_base_url=fallback_base_url,
            warm_up=warm_up,
            prices=prices,
            gate=gate,
            keeper=keeper,
            function_call_timeout_secs=function_call_timeout_secs,
            server=server,
            fallback_server=fallback_server,
            settings=store,
            **kwargs,
        )
        self._register_event_handler("on_fault_handled")

    def build_chat_completion_params(
        self, params_from_context: OpenAILLMInvocationParams
    ) -> dict[str, Any]:
        """Make the parameters of a request; override it to change them.

        Args:
            params_from_context: `messages`, `tools` and `tool_choice`, made from the context.

        Returns:
            The parameters, under Mistral's names. Values that are not given are left out of the
            body later, as is what Mistral refuses (`mistral_service.wire.request`).
        """
        settings = self._settings
        params: dict[str, Any] = {
            "model": self.route.model,
            "stream": True,
            **params_from_context,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": _least(settings.max_tokens, settings.max_completion_tokens),
            "frequency_penalty": settings.frequency_penalty,
            "presence_penalty": settings.presence_penalty,
            "random_seed": given(settings.random_seed, settings.seed),
            "reasoning_effort": self._reasoning_effort(),
            "service_tier": given(settings.service_tier, self._service_tier),
            **{name: getattr(settings, name) for name in SENT_AS_THEY_ARE},
        }
        params = {k: v for k, v in params.items() if v is not None and not isinstance(v, UNSET)}
        params.update(settings.extra)
        return params

    async def get_chat_completions(self, context: LLMContext) -> AsyncStream[ChatCompletionChunk]:
        """Send the context to Mistral and wait for the reply to begin.

        Args:
            context: The conversation; left as it is.

        Returns:
            The stream of the reply.
        """
        self._log_llm_response(context)
        params = await self._request_params(context)
        client, connect = self.client_of(self.route), self._settings.limits().connect
        if not self._retry_on_timeout:
            return await open_reply(client, params, connect=connect)
        try:
            async with asyncio.timeout(self._retry_timeout_secs):
                return await open_reply(client, params, connect=connect)
        except (TimeoutError, APITimeoutError):
            logger.debug(f"{self}: no answer in {self._retry_timeout_secs} s, asking once more")
            return await open_reply(client, params, connect=connect)

    async def run_inference(
        self,
        context: LLMContext,
        max_tokens: int | None = None,
        system_instruction: str | None = None,
        response_schema: dict[str, Any] | None = None,
    ) -> str | None:
        """Ask once, outside of the conversation, and wait for the whole reply.

        Args:
            context: What to ask; left as it is.
            max_tokens: The most tokens that the reply may have; by default the settings' limit.
            system_instruction: Takes the place of the settings' instruction.
            response_schema: A JSON schema that the reply must follow.

        Returns:
            The reply's words; None if it has none.

        Raises:
            MistralError: If the request fails, or the whole of it takes longer than the setting
                `inference_timeout`.
        """
        schema = self._check_response_schema(response_schema)
        seconds: float = given(self._settings.inference_timeout, WHOLE_REPLY_S)

        async def infer() -> str | None:
            attempts = Attempts(self._settings.limits(), now())
            while True:
                route = self.choose_route(context)
                params = await self._request_params(context, system_instruction)
                if max_tokens is not None:
                    params["max_tokens"] = max_tokens
                if schema is not None:
                    params["response_format"] = {
                        "type": "json_schema",
                        "json_schema": {"name": "response", "schema": schema, "strict": True},
                    }
                client = self.open_client_of(route)
                door, ask = self._admission, None
                try:
                    if door is not None:
                        ask = await door.admit(door.ask(client, route.model, context, aside=True))
                    chunk = await fetch_reply(client, params, connect=attempts.limits.connect)
                except Exception as e:
                    error = error_of(e, client)
                    if error is None:
                        raise
                    if door is not None and ask is not None:
                        door.failed(ask, error)
                    _, moved = self.failed(route, error, context)
                    again = attempts.after(error, now(), moved=moved)
                    if again is None:
                        raise self.told(route, error) from None
                    await asyncio.sleep(again.delay)
                    continue
                finally:
                    if client is not self.client_of(route):
                        await client.close()
                self.answered(route)
                if door is not None and ask is not None and chunk.usage is not None:
                    door.gate.spent(ask, chunk.usage.total_tokens)
                prefix = RepeatedPrefix(self._rules_run.prefix)
                reader = ReplyReader(self._rules_run.offered)
                events = [*reader.feed(chunk), *reader.finish()]
                words = [event.text for event in events if isinstance(event, Text)]
                return (prefix.feed("".join(words)) + prefix.finish()) or None

        return await within(seconds, infer(), "the whole reply did not come")

    async def _update_settings(self, delta: LLMSettings) -> dict[str, Any]:
        """Apply an update, whole or not at all.

        A running reply is not disturbed: it was asked for with the settings of its time.

        Args:
            delta: The settings that change.

        Returns:
            The fields that changed, with the values they had; empty for an update that is refused,
            which is told as an `ErrorFrame` that leaves the service usable.
        """
        try:
            check_settings(cast(OpenAILLMSettings, delta))
            if delta.model is None:
                raise BadSetting("model", None, "the name of a model")
        except BadSetting as e:
            await self.push_error(
                f"Settings left as they were: {e}", exception=e, category=ErrorCategory.APPLICATION
            )
            return {}
        return await super()._update_settings(delta)

    @traced_llm
    async def _process_context(self, context: LLMContext) -> None:
        """Answer one turn; every error of Mistral or the network leaves as a `MistralError`."""
        try:
            await self.answer(context)
        except Exception as e:
            error = error_of(e, self._client)
            if error is None:
                raise
            await self.cancel_ttfb_metrics()
            if self._tracing_enabled:
                trace_error(error)
            if error.status_code in (400, 413, 422):
                # As Pipecat does: a file that came with this turn may be what was refused, and
                # would be again on every turn to come.
                context.remove_invalid_file_message()
            raise error from None

    def _reasoning_effort(self) -> str | None:
        effort = given(self._settings.reasoning_effort)
        if effort is None and not given(self._settings.use_provider_thinking_default):
            # As Pipecat's other services do: a voice answers at once unless it is told to think.
            return fastest_effort(self.route.model)
        return effort

    async def _request_params(
        self, context: LLMContext, system_instruction: str | None = None
    ) -> dict[str, Any]:
        params = self.build_chat_completion_params(
            await self._invocation_params(context, system_instruction)
        )
        said = [m for m in context.get_messages() if not isinstance(m, LLMSpecificMessage)]
        messages = cast("list[dict[str, Any]]", said)

        def at_this_point(body: dict[str, Any]) -> dict[str, Any]:
            # `extra` and overrides may choose too; a turn that has to end in words does.
            if "tool_choice" not in body:
                return body
            choice = "none" if context.tool_choice == "none" else body["tool_choice"]
            return {**body, "tool_choice": choice_now(choice, messages)}

        if isinstance(body := params.get("extra_body"), dict):
            params["extra_body"] = at_this_point(cast("dict[str, Any]", body))
        return at_this_point(params)

    async def _invocation_params(
        self, context: LLMContext, system_instruction: str | None = None
    ) -> OpenAILLMInvocationParams:
        adapter: Any = self.get_llm_adapter()
        options: dict[str, Any] = {}
        if isinstance(adapter, MistralLLMAdapter):
            options["tool_choice"] = given(self._settings.tool_choice)
            options["takes_thoughts"] = bool(given(self._settings.keep_thoughts))
            options["form"] = self._settings.form()
            options["budget"] = self._settings.budget()
            card = self.card_of(self.route)
            options["sees"] = card.vision if card is not None else None
            options["parts"] = endpoint_of(self.client_of(self.route)).of(self.route.model).parts
        params = await adapter.get_llm_invocation_params(
            context,
            system_instruction=system_instruction
            or assert_given(self._settings.system_instruction),
            convert_developer_to_user=not self.supports_developer_role,
            **options,
        )
        await self.tell_of_pictures(self._rules_run, self.route.model)
        await self.tell_of_tools(self._rules_run)
        return params


def _least(*limits: Any) -> int | None:
    given = [limit for limit in limits if isinstance(limit, int)]
    return min(given, default=None)
