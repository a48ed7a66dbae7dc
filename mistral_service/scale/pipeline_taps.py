"""What is heard of a call: its caller's words, the bot's as they are spoken, and where they end up.

It listens at three places of the pipeline. An observer would be told of every frame at every hop,
each through a queue of its own: a tenth of what a spoken call costs.
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


class Listener(Protocol):
    """Who is told."""

    def on_user_text(self, words: str) -> None:
        """The caller has said something: what RTVI tells their client as `user-input`."""
        ...

    def on_bot_text(self, text: str, spaced: bool) -> None:
        """Words were spoken aloud; `spaced` tells whether they bring the spaces between them."""
        ...

    def on_bot_silent(self) -> None:
        """Nothing is spoken any more."""
        ...

    def on_context_updated(self) -> None:
        """The words of a turn have come into the context."""
        ...


def listen(pipeline: FrameProcessor, listener: Listener) -> bool:
    """Listen to a pipeline from now on.

    Args:
        pipeline: The pipeline.
        listener: Who is told, before the frame goes on its way.

    Returns:
        Whether it has a voice.
    """
    heard: list[int] = [0]  # the caller's latest frame: branches of a pipeline share it

    async def on_user_text(_: Any, frame: Frame) -> None:
        if isinstance(frame, TranscriptionFrame | RTVISendTextFrame) and frame.id not in heard:
            heard[0] = frame.id
            listener.on_user_text(frame.text)

    async def on_output(_: Any, frame: Frame) -> None:
        if isinstance(frame, TTSTextFrame):
            listener.on_bot_text(frame.text, frame.includes_inter_frame_spaces)
        elif isinstance(frame, BotStoppedSpeakingFrame):
            listener.on_bot_silent()

    async def on_assistant_turn(_: Any, frame: Frame) -> None:
        if isinstance(frame, LLMContextAssistantTurnFrame):
            listener.on_context_updated()

    voice = False
    for processor in _all(pipeline):
        add = cast("Callable[[str, Any], None]", cast(Any, processor).add_event_handler)
        if isinstance(processor, LLMUserAggregator):
            add("on_before_process_frame", on_user_text)
        elif isinstance(processor, BaseOutputTransport):
            add("on_after_push_frame", on_output)
        elif isinstance(processor, LLMAssistantAggregator):
            add("on_after_push_frame", on_assistant_turn)
        voice = voice or isinstance(processor, TTSService)
    return voice


def _all(processor: FrameProcessor) -> Iterator[FrameProcessor]:
    yield processor
    for part in processor.processors:
        yield from _all(part)
