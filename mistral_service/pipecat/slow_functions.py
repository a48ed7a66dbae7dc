"""What is said while a function is slow."""

import asyncio
from collections.abc import Sequence
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
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.openai.llm import OpenAILLMService

from mistral_service.pipecat.handlers import settles
from mistral_service.reply.speech import has_words
from mistral_service.settings import MistralLLMSettings, given

SLOW_AFTER = 2.0
"""Seconds after which a function is slow, by default."""


class SlowFunctions(OpenAILLMService):
    """Has the voice say `slow_function_text` where functions keep the caller waiting in silence.

    It is a `TTSSpeakFrame` that is not kept in the context: a reply of its own there would stand
    behind the call, before the result is known.
    """

    _settings: MistralLLMSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, **kwargs: Any) -> None:
        self._said: list[str] = []  # since the last reply began
        self._waited_for: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        super().__init__(**kwargs)  # pyright: ignore[reportUnknownMemberType]

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Process a frame; who interrupts, or hangs up, does not wait any more.

        Args:
            frame: The frame.
            direction: Where it goes.
        """
        if isinstance(frame, InterruptionFrame | EndFrame | CancelFrame):
            self._wait_no_more()
        await super().process_frame(frame, direction)

    async def push_frame(
        self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
    ) -> None:
        """Push a frame, and take note of what is said.

        Args:
            frame: The frame.
            direction: Where it goes.
        """
        if isinstance(frame, LLMTextFrame | TTSSpeakFrame):
            self._said.append(frame.text)
        elif isinstance(frame, LLMFullResponseStartFrame):
            if self._spoke():
                self._wait_no_more()
            self._said = []
        await super().push_frame(frame, direction)

    async def broadcast_frame(self, frame_cls: type[Frame], **kwargs: Any) -> None:
        """Broadcast a frame, and take note of functions that begin or end.

        Args:
            frame_cls: The kind of frame.
            **kwargs: Its fields.
        """
        if frame_cls is FunctionCallsStartedFrame:
            self._wait_for(kwargs["function_calls"])
        elif settles(frame_cls, kwargs):
            self._waited_for.discard(str(kwargs.get("tool_call_id")))
            # Each result of functions without a group is answered as it comes.
            if not self._waited_for or not self._group_parallel_tools:
                self._wait_no_more()
        await super().broadcast_frame(  # pyright: ignore[reportUnknownMemberType]
            frame_cls, **kwargs
        )

    def _spoke(self) -> bool:
        # Together: a tag may come in pieces, and each of them looks like words.
        return has_words("".join(self._said))

    def _wait_for(self, calls: Sequence[FunctionCallFromLLM]) -> None:
        text = given(self._settings.slow_function_text)
        waited_for = {
            call.tool_call_id for call in calls if not self._function_is_async(call.function_name)
        }
        if not text or not waited_for or self._spoke():
            return
        self._waited_for |= waited_for
        if self._timer is None:
            after = given(self._settings.slow_function_after, SLOW_AFTER)
            self._timer = asyncio.get_running_loop().call_later(after, self._is_slow, text)

    def _wait_no_more(self) -> None:
        self._waited_for.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_slow(self, text: str) -> None:
        self.create_task(  # pyright: ignore[reportUnknownMemberType]
            self._say_so(text), "slow_function_text"
        )

    async def _say_so(self, text: str) -> None:
        waits = bool(self._waited_for) and not self._spoke()
        self._wait_no_more()
        if waits and not self._skip_tts:
            await self.push_frame(TTSSpeakFrame(text, append_to_context=False))
