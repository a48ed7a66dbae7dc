"""Metrics of turns, in every pipeline: Pipecat loads this file (`PIPECAT_SETUP_FILES` names it).

A bot needs no code for it. It gets the frames that reach the pipeline's end, a few per turn, where
an observer would get every frame.
"""

from typing import Any

from pipecat.frames.frames import MetricsFrame
from pipecat.metrics.metrics import TTFBMetricsData
from pipecat.pipeline.worker import PipelineWorker

from mistral_service.pipecat.metrics import MistralTurnMetrics
from mistral_service.scale import metrics


async def setup_pipeline_worker(worker: PipelineWorker) -> None:
    """Pipecat's hook: record the metrics of every turn."""
    worker.add_reached_downstream_filter((MetricsFrame,))

    @worker.event_handler("on_frame_reached_downstream")
    async def on_frame_reached_downstream(_: Any, frame: Any) -> None:
        if isinstance(frame, MetricsFrame):
            record(frame)


def record(frame: MetricsFrame) -> None:
    """Record the metrics of one frame."""
    for data in frame.data:
        if isinstance(data, TTFBMetricsData) and "MistralLLMService" in data.processor:
            if data.value > 0:  # Pipecat pushes an empty one at the beginning
                metrics.FIRST_WORD.record(data.value)
        elif isinstance(data, MistralTurnMetrics):
            if data.faults:
                metrics.FAULTS.record(data.faults)
            if data.cost:
                metrics.COST.record(data.cost)
