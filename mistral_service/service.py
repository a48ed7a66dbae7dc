"""The Mistral LLM service: Pipecat's hooks, wired to the parts that do the work."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from loguru import logger
from openai import APITimeoutError, AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk
from pipecat.adapters.llm.services.open_ai_adapter import OpenAILLMInvocationParams
from pipecat.frames.frames import ErrorFrame, Frame, LLMRunFrame, StartFrame, UserImageRawFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.settings import LLMSettings
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.tracing.service_decorators import (
    traced_llm,  # pyright: ignore[reportUnknownVariableType]
)
from pipecat.utils.types import NOT_GIVEN, NotGiven

from mistral_service.pipecat.adapter import MistralLLMAdapter
from mistral_service.pipecat.admission import Admission
from mistral_service.pipecat.errors import ErrorReporter, category_of, in_own_words
from mistral_service.pipecat.frames import FrameWriter
from mistral_service.pipecat.functions import FunctionCalls
from mistral_service.pipecat.inference import Inference
from mistral_service.pipecat.ports import TurnPorts
from mistral_service.pipecat.requests import RequestBuilder
from mistral_service.pipecat.tracing import trace_error
from mistral_service.pipecat.turns import TurnRunner
from mistral_service.pipecat.vision import VisionInput
from mistral_service.pipecat.warm_up import warm_up as warm_up_endpoints
from mistral_service.settings import BadSetting, MistralLLMSettings, check_update, given
from mistral_service.turn.clients import Clients
from mistral_service.turn.deadline import within
from mistral_service.turn.ports import ConversationRecorder, RateLimiter, shared_services
from mistral_service.turn.prices import Price
from mistral_service.turn.router import Router
from mistral_service.wire.access import DEFAULT_BASE_URL, connections_for
from mistral_service.wire.client import WHOLE_REPLY_S, error_of, open_reply
from mistral_service.wire.http import http_client
from mistral_service.wire.servers import ServerName, check_server

_BOT_BEGINS_WITHIN = 0.25
"""Seconds in which a bot that greets has asked for its first turn."""


class MistralLLMService(FunctionCalls):
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
        rate_limiter: RateLimiter | None = None,
        recorder: ConversationRecorder | Literal[False] | None = None,
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
            warm_up: Whether the connection is opened and key and model are checked, in the
                background, when the pipeline starts.
            prices: What each model's tokens cost, such as `mistral_service.turn.prices.PRICES`:
                then `MistralTurnMetrics` and the span of a turn say what the turn cost.
            rate_limiter: The rate limiter of an account that many processes share
                (`mistral_service.scale.budget.SharedBudget`). Defaults to that of
                `shared_services`, if any.
            recorder: Who records the conversation for other machines. Defaults to that of
                `shared_services`, if any. False records nothing: for a second service of a bot,
                whose context is not the conversation with the caller.
            function_call_timeout_secs: Seconds until a function that has not answered is cancelled,
                and the model learns so. A function's own `timeout_secs` wins. By default 30 for
                functions that an interruption cancels, and no limit for asynchronous ones
                (`cancel_on_interruption=False`); a value holds for both, None is no limit.
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
        own, fallback = connections_for(
            owner,
            (api_key, base_url),
            (fallback_api_key, fallback_base_url),
            {name: kwargs.get(name) for name in ("organization", "project", "default_headers")},
        )
        servers = (
            check_server(owner, "server", server),
            check_server(owner, "fallback_server", fallback_server),
        )
        if model is not None:
            self._warn_init_param_moved_to_settings("model", "model")
        super().__init__(
            recorder=recorder,
            function_call_timeout_secs=function_call_timeout_secs,
            settings=self.Settings.initial(model, settings),
            **{**kwargs, **own},
        )
        self._register_event_handler("on_fault_handled")
        self._warms_up = warm_up

        clients = Clients(self.create_client, lambda: self._client, own, fallback, servers)
        self._router = Router(clients, lambda: self._settings.models())
        rate_limiter = (
            rate_limiter if rate_limiter is not None else shared_services.get().rate_limiter
        )
        self._admission = Admission(rate_limiter) if rate_limiter is not None else None
        self._errors = ErrorReporter(lambda *a, **k: self.push_error(*a, **k), str(self))
        as_pipecat = super().process_frame
        self._vision = VisionInput(self, as_pipecat, lambda: self._settings, self._errors)
        self._requests = RequestBuilder(self, lambda: self._settings, self._router, self._errors)
        self._inference = Inference(self._requests, self._router, self._admission)
        self._turns = TurnRunner(
            TurnPorts(
                name=str(self),
                settings=lambda: self._settings,
                # Looked up when it is called: tests of bots put another in its place.
                open_stream=lambda context: self.get_chat_completions(context),
                conversion=lambda: self._requests.conversion,
                frames=FrameWriter(self, self._push_llm_text),
                functions=self,
                router=self._router,
                admission=self._admission,
                recorder=self._recorder,
                owner=self,
                prices=prices or {},
                emit=cast(Any, self._call_event_handler),  # pyright: ignore[reportUnknownMemberType]
                start_ttfb=lambda: self.start_ttfb_metrics(),
                has_voice=lambda: not self._skip_tts,
                is_traced=lambda: self._tracing_enabled,
                markers=self._turn_markers,
                set_model_name=self.set_full_model_name,
            )
        )

    def create_client(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        default_headers: Any = None,
        **kwargs: Any,
    ) -> AsyncOpenAI:
        """Create the client of an endpoint; called when the service is made, once for each.

        Override it to set a proxy or certificates of your own: what you return is used as it is.
        The service closes its clients in `cleanup()`; one that several services share is closed
        by the last of them.

        Args:
            api_key: The key.
            base_url: Where the endpoint is.
            organization: As in Pipecat's OpenAI service.
            project: As in Pipecat's OpenAI service.
            default_headers: Headers that every request carries.
            **kwargs: Further arguments of the service, as Pipecat hands them on; unused.

        Returns:
            The client; its connections are shared with those of the other services in the process.
        """
        return AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            organization=organization,
            project=project,
            default_headers=default_headers,
            http_client=http_client(),
            max_retries=0,
        )

    @property
    def router(self) -> Router:
        """Which model is asked, and where."""
        return self._router

    async def start(self, frame: StartFrame) -> None:
        """Begin to work; in the background, check whether Mistral is there and knows us.

        Args:
            frame: The frame that starts the pipeline.
        """
        await super().start(frame)
        if self._warms_up:
            self.create_task(  # pyright: ignore[reportUnknownMemberType]
                warm_up_endpoints(self._router, self._errors), "warm_up"
            )
        if self._recorder is not None:
            self._recorder.on_start(self)
            if self._recorder.is_pending:
                self.create_task(  # pyright: ignore[reportUnknownMemberType]
                    self._take_up(self._recorder), "take_up"
                )

    async def _take_up(self, recorder: ConversationRecorder) -> None:
        """Ask for the turn that was cut, where neither the bot nor the caller begins one."""
        await asyncio.sleep(_BOT_BEGINS_WITHIN)
        if recorder.is_pending:
            await self.pipeline_worker.queue_frame(LLMRunFrame())

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Process a frame; an image for the context is made ready, then passed on.

        Args:
            frame: The frame.
            direction: Where it goes.
        """
        if isinstance(frame, UserImageRawFrame) and frame.append_to_context:
            self._vision.take(frame, direction)
        else:
            await super().process_frame(frame, direction)

    async def cleanup(self) -> None:
        """Release what the service holds, its connections among it."""
        await self._vision.close()
        await super().cleanup()
        await self._router.clients.close()

    async def push_error_frame(
        self, error: ErrorFrame, force_treat_as_permanent: bool = False
    ) -> None:
        """Push an error upstream, in its own words where they are a sentence.

        Args:
            error: The error.
            force_treat_as_permanent: As in Pipecat.
        """
        in_own_words(error)
        await super().push_error_frame(error, force_treat_as_permanent)

    def _classify_error(self, exception: Exception) -> ErrorCategory | None:
        """Say whether an error ends the service or only the turn."""
        return category_of(exception) or super()._classify_error(exception)

    def _turn_markers(self) -> Sequence[str] | None:
        """The markers of complete and incomplete turns of the user, where the model writes them."""
        if not self._filter_incomplete_user_turns:
            return None
        return self._user_turn_completion_config.markers

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
        return self._requests.settings_params(params_from_context, self._service_tier)

    async def get_chat_completions(self, context: LLMContext) -> AsyncStream[ChatCompletionChunk]:
        """Send the context to Mistral and wait for the reply to begin.

        Args:
            context: The conversation; left as it is.
        """
        self._log_llm_response(context)
        params = await self._requests.build(context)
        client = self._router.client(self._router.route)
        connect = self._settings.limits().connect
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
        overrides: dict[str, Any] = {}
        if max_tokens is not None:
            overrides["max_tokens"] = max_tokens
        if schema is not None:
            named = {"name": "response", "schema": schema, "strict": True}
            overrides["response_format"] = {"type": "json_schema", "json_schema": named}
        limits = self._settings.limits()
        asked = self._inference.run(context, limits, overrides, system_instruction)
        seconds: float = given(self._settings.inference_timeout, WHOLE_REPLY_S)
        return await within(seconds, asked, "the whole reply did not come")

    async def _update_settings(self, delta: LLMSettings) -> dict[str, Any]:
        """Apply an update, whole or not at all.

        A running reply is not disturbed: it was asked for with the settings of its time.

        Args:
            delta: The settings that change.

        Returns:
            The fields that changed, with the values they had; empty for an update that is refused.
            An `ErrorFrame` reports that, and the service stays usable.
        """
        try:
            check_update(delta)
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
            await self._turns.run(context)
        except Exception as e:
            error = error_of(e, self._client)
            if error is None:
                raise
            await self.cancel_ttfb_metrics()
            if self._tracing_enabled:
                trace_error(error)
            if error.status_code in (400, 413, 422):
                # As Pipecat does: a file of this turn may be what was refused, now and ever.
                context.remove_invalid_file_message()
            raise error from None
