"""Event handlers in a pipeline: the user's text, the bot's as it is spoken, context updates.

Handlers of three processors cost less than an observer, which gets every frame at every hop
through a queue of its own: a tenth of the cost of a spoken call.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

from pipecat.frames.frames import (
    BotStoppedSpeakingFrame,
    Frame,
    LLMContextAssistantTurnFrame,
    TranscriptionFrame,
    TTSTextFrame,
)
from pipecat.processors.aggregators.llm_response_universal import (
    LLMAssistantAggregator,
    LLMUserAggregator,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.processors.frameworks.rtvi.frames import RTVISendTextFrame
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_output import BaseOutputTransport


class PipelineListener(Protocol):
    """Receives what happens in a pipeline."""

    def on_user_text(self, words: str) -> None:
        """The user has said something: the `user-input` of RTVI."""
        ...

    def on_bot_text(self, text: str, spaced: bool) -> None:
        """Words were spoken; `spaced` says whether they contain the spaces between them."""
        ...

    def on_bot_silent(self) -> None:
        """The bot has stopped speaking."""
        ...

    def on_context_updated(self) -> None:
        """The words of a turn have been added to the context."""
        ...


def add_taps(pipeline: FrameProcessor, listener: PipelineListener) -> bool:
    """Add the event handlers to a pipeline.

    Args:
        pipeline: The pipeline.
        listener: Called before the frame goes on.

    Returns:
        Whether the pipeline has a TTS service.
    """
    latest: list[int] = [0]  # the id of the user's latest frame, which several branches may have

    async def on_user_text(_: Any, frame: Frame) -> None:
        if isinstance(frame, TranscriptionFrame | RTVISendTextFrame) and frame.id not in latest:
            latest[0] = frame.id
            listener.on_user_text(frame.text)

    async def on_output(_: Any, frame: Frame) -> None:
        if isinstance(frame, TTSTextFrame):
            listener.on_bot_text(frame.text, frame.includes_inter_frame_spaces)
        elif isinstance(frame, BotStoppedSpeakingFrame):
            listener.on_bot_silent()

    async def on_assistant_turn(_: Any, frame: Frame) -> None:
        if isinstance(frame, LLMContextAssistantTurnFrame):
            listener.on_context_updated()

    has_tts = False
    for processor in _all(pipeline):
        add = cast("Callable[[str, Any], None]", cast(Any, processor).add_event_handler)
        if isinstance(processor, LLMUserAggregator):
            add("on_before_process_frame", on_user_text)
        elif isinstance(processor, BaseOutputTransport):
            add("on_after_push_frame", on_output)
        elif isinstance(processor, LLMAssistantAggregator):
            add("on_after_push_frame", on_assistant_turn)
        has_tts = has_tts or isinstance(processor, TTSService)
    return has_tts


def _all(processor: FrameProcessor) -> Iterator[FrameProcessor]:
    yield processor
    for part in processor.processors:
        yield from _all(part)
