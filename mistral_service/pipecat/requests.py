"""A context as the parameters of a request."""

import asyncio
from typing import Any, cast

from loguru import logger
from openai import APITimeoutError, AsyncStream
from openai.types.chat import ChatCompletionChunk
from pipecat.adapters.llm.services.open_ai_adapter import OpenAILLMInvocationParams
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.utils.types import assert_given

from mistral_service.conversation.conversion import Conversion
from mistral_service.conversation.tools import choice_now
from mistral_service.pipecat.adapter import MistralLLMAdapter
from mistral_service.pipecat.conversation import messages_of
from mistral_service.pipecat.errors import ErrorReporter
from mistral_service.pipecat.state import ServiceState
from mistral_service.setting_bounds import SENT_AS_THEY_ARE
from mistral_service.settings import UNSET, given
from mistral_service.turn.router import Router
from mistral_service.wire.client import open_reply
from mistral_service.wire.endpoint import endpoint_of
from mistral_service.wire.models import fastest_effort


class RequestBuilder:
    """Builds the parameters of each request from the context and the settings."""

    def __init__(self, state: ServiceState, router: Router, errors: ErrorReporter) -> None:
        self._state = state
        self._service = state.service
        self._router = router
        self._errors = errors

    @property
    def conversion(self) -> Conversion:
        """What the rules did for the last request that this task has made."""
        adapter: object = self._service.get_llm_adapter()
        return (
            adapter.conversion_of_this_task
            if isinstance(adapter, MistralLLMAdapter)
            else Conversion()
        )

    def settings_params(
        self, params_from_context: OpenAILLMInvocationParams, service_tier: str | None
    ) -> dict[str, Any]:
        """The parameters of a request, from those of the context and the settings.

        `service_tier` holds where the settings name none.
        """
        settings = self._state.settings
        params: dict[str, Any] = {
            "model": self._router.route.model,
            "stream": True,
            **params_from_context,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": _least(settings.max_tokens, settings.max_completion_tokens),
            "frequency_penalty": settings.frequency_penalty,
            "presence_penalty": settings.presence_penalty,
            "random_seed": given(settings.random_seed, settings.seed),
            "reasoning_effort": self._reasoning_effort(),
            "service_tier": given(settings.service_tier, service_tier),
            **{name: getattr(settings, name) for name in SENT_AS_THEY_ARE},
        }
        params = {k: v for k, v in params.items() if v is not None and not isinstance(v, UNSET)}
        params.update(settings.extra)
        return params

    async def build(
        self, context: LLMContext, system_instruction: str | None = None
    ) -> dict[str, Any]:
        """Build the parameters of a request; the instruction replaces that of the settings."""
        from_context = await self._from_context(context, system_instruction)
        # Users override it.
        params: dict[str, Any] = cast(Any, self._service).build_chat_completion_params(from_context)
        messages = messages_of(context)

        def at_this_point(body: dict[str, Any]) -> dict[str, Any]:
            # `extra` and overrides may choose too; a turn that has to end in words does.
            if "tool_choice" not in body:
                return body
            choice = "none" if context.tool_choice == "none" else body["tool_choice"]
            return {**body, "tool_choice": choice_now(choice, messages)}

        if isinstance(body := params.get("extra_body"), dict):
            params["extra_body"] = at_this_point(cast("dict[str, Any]", body))
        return at_this_point(params)

    async def open(
        self, context: LLMContext, *, retry_after: float | None
    ) -> AsyncStream[ChatCompletionChunk]:
        """Send a context, and wait for the reply to begin.

        After `retry_after` seconds without an answer it is sent once more, as Pipecat's
        `retry_on_timeout` says; None for never.
        """
        params = await self.build(context)
        client = self._router.client(self._router.route)
        connect = self._state.settings.limits().connect
        try:
            async with asyncio.timeout(retry_after):
                return await open_reply(client, params, connect=connect)
        except (TimeoutError, APITimeoutError):
            if retry_after is None:
                raise
            logger.debug(f"{self._service}: no answer in {retry_after} s, asking once more")
            return await open_reply(client, params, connect=connect)

    async def _from_context(
        self, context: LLMContext, system_instruction: str | None
    ) -> OpenAILLMInvocationParams:
        adapter: Any = self._service.get_llm_adapter()
        settings, route = self._state.settings, self._router.route
        options: dict[str, Any] = {}
        if isinstance(adapter, MistralLLMAdapter):
            options["tool_choice"] = given(settings.tool_choice)
            options["takes_thoughts"] = bool(given(settings.keep_thoughts))
            options["form"] = settings.form()
            options["budget"] = settings.budget()
            card = self._router.card(route)
            options["sees"] = card.vision if card is not None else None
            options["parts"] = endpoint_of(self._router.client(route)).of(route.model).parts
        params = await adapter.get_llm_invocation_params(
            context,
            system_instruction=system_instruction or assert_given(settings.system_instruction),
            convert_developer_to_user=not self._service.supports_developer_role,
            **options,
        )
        await self._errors.report_conversion(self.conversion, route.model)
        return params

    def _reasoning_effort(self) -> str | None:
        settings = self._state.settings
        effort = given(settings.reasoning_effort)
        if effort is None and not given(settings.use_provider_thinking_default):
            # As Pipecat's other services do: a voice answers at once unless thinking is set.
            return fastest_effort(self._router.route.model)
        return effort


def _least(*limits: Any) -> int | None:
    given = [limit for limit in limits if isinstance(limit, int)]
    return min(given, default=None)
