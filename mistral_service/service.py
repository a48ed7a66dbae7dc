"""The Mistral LLM service: Pipecat's hooks, wired to the parts that do the work."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

from loguru import logger
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk
from pipecat.adapters.llm.services.open_ai_adapter import OpenAILLMInvocationParams
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    FunctionCallFromLLM,
    InterruptionFrame,
    StartFrame,
    UserImageRawFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import FunctionCallRunnerItem
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.settings import LLMSettings
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.tracing.service_decorators import (
    traced_llm,  # pyright: ignore[reportUnknownVariableType]
)
from pipecat.utils.types import NOT_GIVEN, NotGiven

from mistral_service.pipecat.adapter import MistralLLMAdapter
from mistral_service.pipecat.conversation import ContextConversation
from mistral_service.pipecat.errors import ErrorReporter, category_of, in_own_words
from mistral_service.pipecat.functions.calls import FunctionCalls
from mistral_service.pipecat.functions.handlers import check_timeout, default_timeout
from mistral_service.pipecat.functions.pending import NO_RESULT_IN_TIME
from mistral_service.pipecat.inference import Inference
from mistral_service.pipecat.requests import RequestBuilder
from mistral_service.pipecat.speculation import Speculation
from mistral_service.pipecat.state import ServiceState, warn_of_unknown_arguments
from mistral_service.pipecat.tracing import trace_error
from mistral_service.pipecat.turns import RecordedTurns, turn_runner
from mistral_service.pipecat.vision import VisionInput
from mistral_service.pipecat.warm_up import warm_up as warm_up_endpoints
from mistral_service.reply.calls import CallLedger
from mistral_service.settings import BadSetting, MistralLLMSettings, check_update, given
from mistral_service.turn.admission import Admission
from mistral_service.turn.clients import Clients, openai_client
from mistral_service.turn.prices import Price
from mistral_service.turn.router import Router
from mistral_service.turn.shared_services import ConversationRecorder, RateLimiter, shared_services
from mistral_service.wire.access import DEFAULT_BASE_URL, connections_for
from mistral_service.wire.client import error_of
from mistral_service.wire.servers import ServerName, check_server


class MistralLLMService(OpenAILLMService):
    """A Pipecat LLM service that talks to Mistral's chat completions API.

    It replaces `pipecat.services.mistral.llm.MistralLLMService`: the same constructor, the same
    names in `Settings`. Between an `LLMFullResponseStartFrame` and an
    `LLMFullResponseEndFrame` it pushes the reply as `LLMTextFrame`s while it is streamed, runs the
    functions that the model calls, and reports what went wrong as an `ErrorFrame` whose `exception`
    is a `MistralError`.

    A fault that passes is met within the turn's time budget: the request is sent again, and a
    sentence that was cut is finished. Event handlers: `on_fault_handled(service, error, handled)`
    for every fault that led to another attempt (`handled` says what was done),
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

    FUNCTION_CALL_TIMEOUT_MESSAGE_TEMPLATE = NO_RESULT_IN_TIME

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
        check = partial(check_server, owner)
        servers = check("server", server), check("fallback_server", fallback_server)
        warn_of_unknown_arguments(type(self), kwargs)
        if model is not None:
            self._warn_init_param_moved_to_settings("model", "model")
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            function_call_timeout_secs=check_timeout(given(function_call_timeout_secs)),
            settings=self.Settings.initial(model, settings),
            **{**kwargs, **own},
        )
        self._register_event_handler("on_fault_handled")
        self._warms_up = warm_up
        shared = shared_services.get()
        limiter = shared.rate_limiter if rate_limiter is None else rate_limiter
        recorder = shared.recorder if recorder is None else recorder or None

        # What users may replace is looked up when it is called.
        self._state = state = ServiceState(self)
        clients = Clients(self.create_client, lambda: self._client, own, fallback, servers)
        self._router = Router(clients, lambda: self._settings.models())
        self._admission = Admission(limiter) if limiter is not None else None
        self._recorded = RecordedTurns(recorder, state) if recorder is not None else None
        self._errors = ErrorReporter(lambda *a, **k: self.push_error(*a, **k), str(self))
        self._vision = VisionInput(state, super().process_frame, self._errors)
        self._requests = RequestBuilder(state, self._router, self._errors)
        self._inference = Inference(self._requests, self._router, self._admission)
        timeout = default_timeout(function_call_timeout_secs)
        self._function_calls = FunctionCalls(state, recorder, timeout)
        self._speculation = Speculation(state)
        self._turns = turn_runner(
            state,
            open_stream=lambda asked: self.get_chat_completions(asked.context),
            requests=self._requests,
            router=self._router,
            functions=self._function_calls,
            admission=self._admission,
            recorded=self._recorded,
            prices=prices or {},
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
        `cleanup()` closes it; of several services that share one, the last does. The arguments are
        those of Pipecat's OpenAI service, which also hands on others that are unused.

        Returns:
            The client; its connections are those of all services in the process.
        """
        return openai_client(api_key, base_url, organization, project, default_headers)

    @property
    def router(self) -> Router:
        """Which model is asked, and where."""
        return self._router

    @property
    def ledger(self) -> CallLedger:
        """What is remembered of this conversation's calls."""
        return self._function_calls.ledger

    async def start(self, frame: StartFrame) -> None:
        """Begin to work; in the background, check whether Mistral is there and knows us."""
        await super().start(frame)
        if self._warms_up:
            warming_up = warm_up_endpoints(self._router, self._errors)
            self.create_task(warming_up, "warm_up")  # pyright: ignore[reportUnknownMemberType]
        if self._recorded is not None:
            self._recorded.on_start()

    async def cleanup(self) -> None:
        """Release what the service holds, its connections among it."""
        await self._vision.close()
        await super().cleanup()
        await self._router.clients.close()

    async def push_error_frame(
        self, error: ErrorFrame, force_treat_as_permanent: bool = False
    ) -> None:
        """Push an error upstream, in its own words where they are a sentence."""
        in_own_words(error)
        await super().push_error_frame(error, force_treat_as_permanent)

    def _classify_error(self, exception: Exception) -> ErrorCategory | None:
        """Say whether an error ends the service or only the turn."""
        return category_of(exception) or super()._classify_error(exception)

    def build_chat_completion_params(
        self, params_from_context: OpenAILLMInvocationParams
    ) -> dict[str, Any]:
        """Make a request's parameters, under Mistral's names; override it to change them.

        `params_from_context` has the `messages`, `tools` and `tool_choice` of the context.
        """
        return self._requests.settings_params(params_from_context, self._service_tier)

    async def get_chat_completions(self, context: LLMContext) -> AsyncStream[ChatCompletionChunk]:
        """Send the context, which is left as it is, and wait for the reply to begin."""
        self._log_llm_response(context)
        retry_after = self._retry_timeout_secs if self._retry_on_timeout else None
        return await self._requests.open(context, retry_after=retry_after)

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
            MistralError: If it fails, or takes longer than the setting `inference_timeout`.
        """
        return await self._inference.run(
            context,
            self._settings.limits(),
            seconds=given(self._settings.inference_timeout),
            max_tokens=max_tokens,
            schema=self._check_response_schema(response_schema),
            system_instruction=system_instruction,
        )

    async def _update_settings(self, delta: LLMSettings) -> dict[str, Any]:
        """Apply an update, whole or not at all; one that is refused is reported.

        A running reply keeps the settings with which it was asked for.
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
        if self._speculation.has_copy and self._recorded and self._recorded.is_pending:
            # A takeover restores the conversation itself, and not a copy of it.
            await self._speculation.withdraw()
            return
        try:
            await self._turns.run(ContextConversation(context))
        except Exception as e:
            error = error_of(e, self._client)
            if error is None:
                raise
            await self.cancel_ttfb_metrics()
            if self._tracing_enabled:
                trace_error(error)
            if self._state.is_speculating:
                logger.info(f"{self}: a speculative turn failed, and is asked again: {error}")
                await self._speculation.withdraw()
                return
            if error.status_code in (400, 413, 422):
                # As Pipecat does: a file of this turn may be what was refused, now and ever.
                context.remove_invalid_file_message()
            raise error from None

    # What passes through the service.

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Process a frame; an image for the context is made ready, then passed on."""
        self._function_calls.slow.on_process(frame)
        self._speculation.on_process(frame)
        if isinstance(frame, UserImageRawFrame) and frame.append_to_context:
            self._vision.take(frame, direction)
        else:
            await super().process_frame(frame, direction)

    async def push_frame(
        self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
    ) -> None:
        """Push a frame."""
        self._function_calls.slow.on_push(frame)
        await super().push_frame(frame, direction)

    async def broadcast_frame(self, frame_cls: type[Frame], **kwargs: Any) -> None:
        """Broadcast a frame; a function's result is brought into a form that gets an answer."""
        self._speculation.on_broadcast(frame_cls)
        broadcast = cast(Any, super().broadcast_frame)  # pyright: ignore[reportUnknownMemberType]
        await self._function_calls.broadcast(frame_cls, kwargs, broadcast)

    # How Pipecat runs functions.

    async def run_function_calls(self, function_calls: Sequence[FunctionCallFromLLM]) -> None:
        """Run functions, but none whose call has its result in the context already."""
        await self._function_calls.run_all(function_calls, super().run_function_calls)

    async def _run_function_call(self, runner_item: FunctionCallRunnerItem) -> None:
        await self._function_calls.run(runner_item, super()._run_function_call)

    async def _run_sequential_function_calls(
        self, runner_items: Sequence[FunctionCallRunnerItem]
    ) -> None:
        await self._run_parallel_function_calls(runner_items)  # `CallSequence` orders them

    async def _timeout_function_call(self, runner_item: FunctionCallRunnerItem) -> None:
        message = self.FUNCTION_CALL_TIMEOUT_MESSAGE_TEMPLATE
        await self._function_calls.pending.time_out(runner_item, message)

    async def _broadcast_function_call_cancelled(
        self, runner_item: FunctionCallRunnerItem, *, run_llm: bool = False
    ) -> FunctionCallFromLLM:
        report = super()._broadcast_function_call_cancelled
        return await self._function_calls.pending.cancelled(runner_item, report, run_llm=run_llm)

    async def _handle_interruptions(self, _: InterruptionFrame) -> None:
        with self._function_calls.sequence.paused():
            await super()._handle_interruptions(_)
            await self._function_calls.sequence.cancel_waiting()

    async def cancel_function_calls(
        self, *, reason: str = "cancelled"
    ) -> list[FunctionCallFromLLM]:
        """Cancel every call in flight, as Pipecat does; those that wait for their turn included."""
        with self._function_calls.sequence.paused():
            return await super().cancel_function_calls(reason=reason)

    async def _cancel_all_function_call_tasks(self) -> None:
        with self._function_calls.sequence.paused():
            await super()._cancel_all_function_call_tasks()

    async def _cancel_sequential_runner_task(self) -> None:
        # At the end of the pipeline Pipecat ends its queue with this; the queue here are tasks.
        await super()._cancel_sequential_runner_task()
        await self._cancel_all_function_call_tasks()
