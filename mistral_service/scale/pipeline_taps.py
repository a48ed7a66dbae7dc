"""Event handlers in a pipeline: the user's text, the bot's as it is spoken, context updates.

Handlers of three processors cost less than an observer, which gets every frame at every hop
through a queue of its own: a tenth of the cost of a spoken call.
"""

from collections.abc import Callable
from typing import Any, cast

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

from mistral_service.pipecat.state import all_processors


def add_taps(
    pipeline: FrameProcessor,
    *,
    on_user_text: Callable[[str], None],
    on_bot_text: Callable[[str, bool], None],
    on_bot_silent: Callable[[], None],
    on_context_updated: Callable[[], None],
) -> bool:
    """Add the event handlers, which are called before the frame goes on, to a pipeline.

    Args:
        pipeline: The pipeline.
        on_user_text: The user has said something: the `user-input` of RTVI.
        on_bot_text: Words were spoken; whether they contain the spaces between them.
        on_bot_silent: The bot has stopped speaking.
        on_context_updated: The words of a turn have been added to the context.

    Returns:
        Whether the pipeline has a TTS service.
    """
    latest: list[int] = [0]  # the id of the user's latest frame, which several branches may have

    async def on_input(_: Any, frame: Frame) -> None:
        if isinstance(frame, TranscriptionFrame | RTVISendTextFrame) and frame.id not in latest:
            latest[0] = frame.id
            on_user_text(frame.text)

    async def on_output(_: Any, frame: Frame) -> None:
        if isinstance(frame, TTSTextFrame):
            on_bot_text(frame.text, frame.includes_inter_frame_spaces)
        elif isinstance(frame, BotStoppedSpeakingFrame):
            on_bot_silent()

    async def on_assistant_turn(_: Any, frame: Frame) -> None:
        if isinstance(frame, LLMContextAssistantTurnFrame):
            on_context_updated()

    has_tts = False
    for processor in all_processors(pipeline):
        add = cast("Callable[[str, Any], None]", cast(Any, processor).add_event_handler)
        if isinstance(processor, LLMUserAggregator):
            add("on_before_process_frame", on_input)
        elif isinstance(processor, BaseOutputTransport):
            add("on_after_push_frame", on_output)
        elif isinstance(processor, LLMAssistantAggregator):
            add("on_after_push_frame", on_assistant_turn)
        has_tts = has_tts or isinstance(processor, TTSService)
    return has_tts
