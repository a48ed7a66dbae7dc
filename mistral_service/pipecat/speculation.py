"""Speculative turns: Pipecat asks the model before it is certain that the user has finished."""

import asyncio
from typing import Any

from pipecat.frames.frames import (
    EagerEndOfTurnCancelFrame,
    Frame,
    InterruptionFrame,
    LLMContextFrame,
    LLMRunFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)

from mistral_service.pipecat.state import ServiceState

_ASKED_WITHIN = 0.5
"""Seconds in which the user aggregator has asked again after a turn whose reply was withdrawn."""


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
            self._is_withdrawn = True
            self._ask_soon()

    def on_process(self, frame: Frame) -> None:
        """Notice whether the turn whose reply was withdrawn is asked for again."""
        if isinstance(frame, UserStoppedSpeakingFrame):
            self._turn_has_ended = True
            self._ask_soon()
        elif isinstance(frame, LLMContextFrame | InterruptionFrame | UserStartedSpeakingFrame):
            self._turn_has_ended &= not isinstance(frame, UserStartedSpeakingFrame)
            self.has_copy = isinstance(frame, LLMContextFrame) and frame.speculation
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
