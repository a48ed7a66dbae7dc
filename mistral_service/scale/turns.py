"""What turns took, in every pipeline: Pipecat loads this file (`PIPECAT_SETUP_FILES` names it).

So any bot is measured without a line of its own. It looks at what reaches the pipeline's end, a
few frames a turn, instead of watching every frame as an observer would.
"""

from typing import Any

from pipecat.frames.frames import MetricsFrame
from pipecat.metrics.metrics import TTFBMetricsData
from pipecat.pipeline.worker import PipelineWorker

from mistral_service.pipecat.metrics import MistralTurnMetrics
from mistral_service.scale import metrics


async def setup_pipeline_worker(worker: PipelineWorker) -> None:
    """Pipecat's hook: note the figures of every turn."""
    worker.add_reached_downstream_filter((MetricsFrame,))

    @worker.event_handler("on_frame_reached_downstream")
    async def on_frame_reached_downstream(_: Any, frame: Any) -> None:
        if isinstance(frame, MetricsFrame):
            note(frame)


def note(frame: MetricsFrame) -> None:
    """Note what one frame tells of a turn."""
    for data in frame.data:
        if isinstance(data, TTFBMetricsData) and "MistralLLMService" in data.processor:
            if data.value > 0:  # Pipecat pushes an empty one at the beginning
                metrics.FIRST_WORD.record(data.value)
        elif isinstance(data, MistralTurnMetrics):
            if data.faults:
                metrics.FAULTS.record(data.faults)
            if data.cost:
                metrics.COST.record(data.cost)
