"""Speculative turns: Pipecat asks the model before it is certain that the user has finished."""

import asyncio
from typing import Any

from pipecat.frames.frames import (
    CancelFrame,
    EagerEndOfTurnCancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    LLMContextFrame,
    LLMRunFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.processors.aggregators.llm_response_universal import LLMUserAggregator

from mistral_service.pipecat.state import ServiceState, all_processors

_ASKED_WITHIN = 0.5
"""Seconds in which the user aggregator has asked again after a turn whose reply was withdrawn."""

_SETTLES = (
    LLMContextFrame,
    InterruptionFrame,
    UserStartedSpeakingFrame,
    EndFrame,
    CancelFrame,
)


class Speculation:
    """Withdraws the reply of a speculative turn, so that the turn is asked for anew at its end.

    Pipecat's gate holds the reply until the user's turn has ended, and the user aggregator asks
    again if the reply was withdrawn before that. A reply that is withdrawn while the turn ends
    would leave it without any: then this asks again.

    Attributes:
        has_copy: Whether the turn that runs has a copy of the conversation, with the words that
            the user seems to have said.
    """

    def __init__(self, state: ServiceState) -> None:
        self._state = state
        self._service: Any = state.service
        self._watched: set[int] = set()
        self._turn_has_ended = False
        self._is_withdrawn = False
        self._asking: asyncio.Task[None] | None = None
        self.has_copy = False

    async def withdraw(self) -> None:
        """Withdraw the reply of the turn that runs."""
        await self._service.broadcast_frame(EagerEndOfTurnCancelFrame)

    def on_broadcast(self, frame_cls: type[Frame]) -> None:
        """Notice that the service, and not the user, withdraws a reply: Pipecat does for calls."""
        if frame_cls is EagerEndOfTurnCancelFrame:
            self._watch()
            self._is_withdrawn = True
            self._ask_soon()

    def on_process(self, frame: Frame) -> None:
        """Notice whether the turn whose reply was withdrawn is asked for again, or over."""
        if isinstance(frame, UserStoppedSpeakingFrame):
            self._turn_has_ended = True
            self._ask_soon()
        elif isinstance(frame, _SETTLES):
            self._turn_has_ended &= not isinstance(frame, UserStartedSpeakingFrame)
            self.has_copy = isinstance(frame, LLMContextFrame) and frame.speculation
            self._settle()

    def _watch(self) -> None:
        # On its way here what the aggregator asks may take any time: retrieval, a memory.
        for processor in all_processors(self._service.pipeline_worker.pipeline):
            if isinstance(processor, LLMUserAggregator) and id(processor) not in self._watched:
                self._watched.add(id(processor))
                aggregator: Any = processor
                aggregator.add_event_handler("on_before_push_frame", self._on_push)

    async def _on_push(self, _: Any, frame: Frame) -> None:
        if isinstance(frame, LLMContextFrame):
            self._settle()

    def _settle(self) -> None:
        self._is_withdrawn = False
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def _ask_soon(self) -> None:
        if self._is_withdrawn and self._turn_has_ended and self._asking is None:
            self._asking = self._state.create_task(self._ask(), "ask_after_speculation")

    async def _ask(self) -> None:
        await asyncio.sleep(_ASKED_WITHIN)
        self._asking = None
        await self._service.pipeline_worker.queue_frame(LLMRunFrame())
