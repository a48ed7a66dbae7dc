"""What a turn took, as Pipecat's metrics."""

from dataclasses import asdict
from typing import Any

from pipecat.frames.frames import MetricsFrame
from pipecat.metrics.metrics import LLMTokenUsage, MetricsData
from pipecat.services.openai.llm import OpenAILLMService

from mistral_service.turn.prices import total
from mistral_service.turn.state import TurnState
from mistral_service.wire.chunks import Usage


class MistralTurnMetrics(MetricsData):
    """What one turn took; pushed at its end, where metrics are enabled.

    Parameters:
        attempts: Requests sent, hedges included; 1 for a plain turn.
        hedges: Requests sent in parallel with one that was late.
        hedges_won: Those of them that spoke first.
        resumes: Sentences that were cut and went on.
        fallbacks: Times that another model, or endpoint, was asked.
        faults: Faults that were met on the way.
        cost: What it cost in dollars, roughly, by the `prices` that the service was given; None
            without them, and for a model that is not among them.
    """

    attempts: int
    hedges: int
    hedges_won: int
    resumes: int
    fallbacks: int
    faults: int
    cost: float | None = None


async def report_turn(service: OpenAILLMService, turn: TurnState[Any], model: str) -> None:
    """Report what a turn took, all its attempts together; the model is that of the settings."""
    if turn.usages:
        usage = Usage.total(turn.usages)
        await service.start_llm_usage_metrics(
            LLMTokenUsage(
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                total_tokens=usage.total_tokens,
                cache_read_input_tokens=usage.cached_tokens,
                reasoning_tokens=usage.reasoning_tokens,
            )
        )
    if service.can_generate_metrics() and service.metrics_enabled:
        counts, cost = asdict(turn.counts), total(turn.costs)
        data = MistralTurnMetrics(processor=service.name, model=model, cost=cost, **counts)
        await service.push_frame(MetricsFrame(data=[data]))
