"""What is said while a function is slow."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    FunctionCallFromLLM,
    FunctionCallsStartedFrame,
    InterruptionFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSSpeakFrame,
)

from mistral_service.pipecat.functions.results import settles
from mistral_service.pipecat.state import ServiceState
from mistral_service.reply.speech import has_words
from mistral_service.settings import given

SLOW_AFTER = 2.0
"""Seconds after which a function is slow, by default."""


class SlowFunctions:
    """Has the voice say `slow_function_text` where functions keep the caller waiting in silence.

    It is a `TTSSpeakFrame` that is not kept in the context: a reply of its own there would stand
    behind the call, before the result is known.
    """

    def __init__(self, state: ServiceState) -> None:
        self._state = state
        self._said: list[str] = []  # since the last reply began
        self._waited_for: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def on_process(self, frame: Frame) -> None:
        """See a frame that is processed: a caller who interrupts, or hangs up, waits no more."""
        if isinstance(frame, InterruptionFrame | EndFrame | CancelFrame):
            self._stop_waiting()

    def on_push(self, frame: Frame) -> None:
        """See a frame that is pushed: what is said."""
        if isinstance(frame, LLMTextFrame | TTSSpeakFrame):
            self._said.append(frame.text)
        elif isinstance(frame, LLMFullResponseStartFrame):
            if self._spoke():
                self._stop_waiting()
            self._said = []

    def on_broadcast(self, frame_cls: type[Frame], fields: Mapping[str, Any]) -> None:
        """See a frame that is broadcast: functions that begin or end."""
        if frame_cls is FunctionCallsStartedFrame:
            self._wait_for(fields["function_calls"])
        elif settles(frame_cls, fields):
            self._waited_for.discard(str(fields.get("tool_call_id")))
            if not self._waited_for or self._state.answers_each_result:
                self._stop_waiting()

    def _spoke(self) -> bool:
        # Together: a tag may come in pieces, and each of them looks like words.
        return has_words("".join(self._said))

    def _wait_for(self, calls: Sequence[FunctionCallFromLLM]) -> None:
        text = given(self._state.settings.slow_function_text)
        waited_for = {
            call.tool_call_id for call in calls if not self._state.is_async(call.function_name)
        }
        if not text or not waited_for or self._spoke():
            return
        self._waited_for |= waited_for
        if self._timer is None:
            after = given(self._state.settings.slow_function_after, SLOW_AFTER)
            self._timer = asyncio.get_running_loop().call_later(after, self._is_slow, text)

    def _stop_waiting(self) -> None:
        self._waited_for.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_slow(self, text: str) -> None:
        self._state.create_task(self._speak(text), "slow_function_text")

    async def _speak(self, text: str) -> None:
        waits = bool(self._waited_for) and not self._spoke()
        self._stop_waiting()
        if waits and self._state.has_voice:
            await self._state.service.push_frame(TTSSpeakFrame(text, append_to_context=False))
