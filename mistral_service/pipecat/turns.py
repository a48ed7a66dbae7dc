"""What a turn needs of Pipecat: options from the settings, events and metrics, the recorder."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pipecat.frames.frames import LLMRunFrame

from mistral_service.pipecat.conversation import ContextConversation
from mistral_service.pipecat.frames import FrameWriter
from mistral_service.pipecat.functions.calls import FunctionCalls
from mistral_service.pipecat.metrics import report_turn
from mistral_service.pipecat.requests import RequestBuilder
from mistral_service.pipecat.state import ServiceState
from mistral_service.pipecat.tracing import trace_fault, trace_turn
from mistral_service.reply.reader import MAX_CALLS
from mistral_service.reply.rounds import MAX_ROUNDS
from mistral_service.settings import MistralLLMSettings, given
from mistral_service.turn.admission import Admission
from mistral_service.turn.ports import TurnPorts
from mistral_service.turn.prices import Price
from mistral_service.turn.race import Stream
from mistral_service.turn.retries import Handled
from mistral_service.turn.router import Router
from mistral_service.turn.runner import TurnRunner
from mistral_service.turn.shared_services import ConversationRecorder, ResumePoint
from mistral_service.turn.state import TurnOptions, TurnState
from mistral_service.wire.errors import MistralError

_BOT_BEGINS_WITHIN = 0.25
"""Seconds in which a bot that greets has asked for its first turn."""


def turn_options(settings: MistralLLMSettings) -> TurnOptions:
    """How turns run, as the settings say now."""
    return TurnOptions(
        limits=settings.limits(),
        sentence_within=settings.sentence_within(),
        hedging=given(settings.hedging) is not False,
        hedge_after=given(settings.hedge_after),
        most_calls=given(settings.max_calls_per_reply, MAX_CALLS),
        most_rounds=given(settings.max_tool_rounds, MAX_ROUNDS),
        repeated_calls="reuse" if settings.repeated_calls == "reuse" else "run",
        keep_thoughts=bool(given(settings.keep_thoughts)),
        empty_reply_text=given(settings.empty_reply_text),
    )


class TurnEvents:
    """Reports what happens in the turns of a service: events, metrics, spans."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state
        self._service = state.service

    async def on_begin(self) -> None:
        """Begin to measure the time to first byte."""
        await self._service.start_ttfb_metrics()

    async def on_timeout(self) -> None:
        """Report the first timeout of a turn, as Pipecat's services do."""
        await self._state.emit("on_completion_timeout")

    async def on_fault_handled(self, error: MistralError, handled: Handled) -> None:
        """Report a fault that led to another attempt."""
        if self._state.is_traced:
            trace_fault(error, handled)
        await self._state.emit("on_fault_handled", error, handled)

    def on_model(self, name: str) -> None:
        """Report the name by which the model calls itself."""
        self._service.set_full_model_name(name)

    async def on_end(self, turn: TurnState[ContextConversation]) -> None:
        """Report what a turn took."""
        if self._state.is_traced:
            trace_turn(turn)
        await report_turn(self._service, turn, str(self._state.settings.model))


class RecordedTurns:
    """Records the turns of a service."""

    def __init__(self, recorder: ConversationRecorder, state: ServiceState) -> None:
        self._recorder = recorder
        self._state = state
        self._service: Any = state.service

    @property
    def is_pending(self) -> bool:
        """Whether a call that was taken over has not gone on yet."""
        return self._recorder.is_pending

    def on_start(self) -> None:
        """Watch the pipeline, which runs from now on; after a takeover, go on with its turn."""
        self._recorder.on_start(self._service)
        if self._recorder.is_pending:
            self._state.create_task(self._go_on(), "resume_turn")

    async def begin(self, conversation: ContextConversation) -> ResumePoint | None:
        """Record that a turn begins; returns where it goes on, once after a takeover."""
        return await self._recorder.on_turn_start(self._service, conversation.context)

    def on_text(self, words: str) -> None:
        """Record words that were pushed."""
        self._recorder.on_text(words)

    async def end(self, *, complete: bool) -> None:
        """Record the end of the turn."""
        await self._recorder.on_turn_end(complete=complete)

    async def _go_on(self) -> None:
        """Ask for the turn that was cut, where neither the bot nor the caller begins one."""
        await asyncio.sleep(_BOT_BEGINS_WITHIN)
        if self._recorder.is_pending:
            await self._service.pipeline_worker.queue_frame(LLMRunFrame())


def turn_runner(
    state: ServiceState,
    *,
    open_stream: Callable[[ContextConversation], Awaitable[Stream]],
    requests: RequestBuilder,
    router: Router,
    functions: FunctionCalls,
    admission: Admission | None,
    recorded: RecordedTurns | None,
    prices: Mapping[str, Price],
) -> TurnRunner[ContextConversation]:
    """Make what runs the turns of a service, of the parts that `TurnPorts` describes."""
    return TurnRunner(
        TurnPorts(
            name=str(state),
            options=lambda: turn_options(state.settings),
            open_stream=open_stream,
            conversion=lambda: requests.conversion,
            output=FrameWriter(state, recorded.on_text if recorded is not None else None),
            functions=functions,
            router=router,
            observer=TurnEvents(state),
            admission=admission,
            recorder=recorded,
            prices=prices,
        )
    )
