"""What a turn took, as Pipecat's metrics."""

from dataclasses import asdict

from pipecat.frames.frames import MetricsFrame
from pipecat.metrics.metrics import LLMTokenUsage, MetricsData
from pipecat.services.openai.llm import OpenAILLMService

from mistral_service.turn.state import TurnCounts
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


async def report_usage(service: OpenAILLMService, usages: list[Usage]) -> None:
    """Report the tokens of a turn, all its attempts together."""
    if not usages:
        return
    usage = Usage.total(usages)
    await service.start_llm_usage_metrics(
        LLMTokenUsage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
            cache_read_input_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        )
    )


async def report_turn(
    service: OpenAILLMService, counts: TurnCounts, model: str, cost: float | None
) -> None:
    """Report what a turn took; the model is that of the settings, the cost is in dollars."""
    if service.can_generate_metrics() and service.metrics_enabled:
        data = MistralTurnMetrics(processor=service.name, model=model, cost=cost, **asdict(counts))
        await service.push_frame(MetricsFrame(data=[data]))
