"""How long each part of a turn took, measured where it happens and told to the page.

Pipecat loads this file into every pipeline (`PIPECAT_SETUP_FILES` names it), so that any bot is
measured without a line of its own.
"""

from typing import Any

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    InterruptionFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import FramePushed
from pipecat.observers.user_bot_latency_observer import (
    LatencyBreakdown,
    MeasuredFrom,
    UserBotLatencyObserver,
)
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection

# The page's parts, and which of the stretches that Pipecat names belong to them.
PARTS = {
    "stt": ("endpointing_wait", "transcription"),
    "turn": ("turn_detection", "turn_completion", "waiting_for_user"),
    "llm": ("llm_inference",),
    "sentence": ("sentence_aggregation", "awaiting_speakable_text"),
    "tts": ("speech_synthesis",),
}


def parts_of(breakdown: LatencyBreakdown) -> dict[str, float]:
    """Seconds by part, `rest` for what belongs to none, and their sum as `total`."""
    seconds = dict.fromkeys([*PARTS, "rest"], 0.0)
    part_of = {key: part for part, keys in PARTS.items() for key in keys}
    for contribution in breakdown.contributions:
        seconds[part_of.get(contribution.key, "rest")] += contribution.duration_secs
    return seconds | {"total": breakdown.total_secs}


class TurnLatencyObserver(UserBotLatencyObserver):
    """Pipecat's observer, which also measures a turn whose transcript came late.

    Pipecat ends a user's turn 5 s after the last sound, and opens another one when a transcript
    comes after that. The opening interrupts the bot. Pipecat's observer drops all that it has
    measured at an interruption, the end of the user's speech included. This observer gives it the
    end of speech and the transcript again.
    """

    _heard: tuple[FramePushed, ...] = ()

    async def on_push_frame(self, data: FramePushed) -> None:
        """Measure a frame on its way."""
        await super().on_push_frame(data)
        if data.direction is not FrameDirection.DOWNSTREAM:
            return
        if isinstance(data.frame, VADUserStartedSpeakingFrame | BotStartedSpeakingFrame):
            self._heard = ()
        elif isinstance(data.frame, VADUserStoppedSpeakingFrame):
            self._heard = (data,)
        elif isinstance(data.frame, TranscriptionFrame) and self._heard:
            self._heard = (self._heard[0], data)
        elif isinstance(data.frame, InterruptionFrame):
            for heard in self._heard:
                await super().on_push_frame(heard)


async def setup_pipeline_worker(worker: PipelineWorker) -> None:
    """Pipecat's hook: tell the page of every turn, in an RTVI `server-message`."""
    observer = TurnLatencyObserver()

    @observer.event_handler("on_latency_breakdown")
    async def on_latency_breakdown(_: Any, breakdown: LatencyBreakdown) -> None:
        if breakdown.measured_from is MeasuredFrom.USER_SILENCE:
            message = {"type": "latency", "seconds": parts_of(breakdown)}
            await worker.rtvi.send_server_message(message)

    worker.add_observer(observer)
