"""What a reply says becomes Pipecat's frames and metrics: here, and nowhere else."""

from dataclasses import asdict, dataclass
from typing import Any

from pipecat.frames.frames import (
    LLMThoughtEndFrame,
    LLMThoughtStartFrame,
    LLMThoughtTextFrame,
    MetricsFrame,
)
from pipecat.metrics.metrics import LLMTokenUsage, MetricsData
from pipecat.services.openai.llm import OpenAILLMService

from mistral_service.conversation.thoughts import OWN
from mistral_service.reply.events import Text, Thought
from mistral_service.turn.retries import Handled
from mistral_service.wire.chunks import Usage


@dataclass
class TurnCounts:
    """What a turn took.

    Parameters:
        attempts: Requests sent, second ones beside the first included.
        hedges: Requests sent beside one that was late.
        hedges_won: Those of them that spoke first.
        resumes: Sentences that were cut and went on.
        fallbacks: Times that another model, or endpoint, was asked.
        faults: Faults that were met on the way.
    """

    attempts: int = 1
    hedges: int = 0
    hedges_won: int = 0
    resumes: int = 0
    fallbacks: int = 0
    faults: int = 0

    def count(self, handled: Handled) -> None:
        """Count a fault that was met."""
        self.faults += 1
        self.attempts += handled.done != "outrun"
        self.resumes += handled.done == "resumed"
        self.fallbacks += handled.done == "moved"


class MistralTurnMetrics(MetricsData):
    """What one turn took; pushed at its end, where metrics are enabled.

    Parameters:
        attempts: Requests sent, second ones beside the first included; 1 for a plain turn.
        hedges: Requests sent beside one that was late.
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


class Voice(OpenAILLMService):
    """Speaks what a reply says, thinks what it thinks, and measures both."""

    _thinking = False
    _silent = True

    async def start_ttfb_metrics(self, **options: Any) -> None:
        """Begin to wait for the first output of a turn.

        Args:
            **options: As in Pipecat.
        """
        self._silent = True
        await super().start_ttfb_metrics(**options)

    async def say(self, event: Text | Thought, *, keep_thoughts: bool = False) -> None:
        """Push one event of a reply.

        Thinking is output, but no answer: it ends the time to first byte and leaves that to the
        first answer running. It goes to the voice as little as into the transcript.

        Args:
            event: The words, or the thought.
            keep_thoughts: Whether a thought is kept in the context.
        """
        if self._silent:
            self._silent = False
            await self.stop_ttfb_metrics()
        if isinstance(event, Text):
            if self._thinking:
                await self.end_thought()
            await self._push_llm_text(event.text)
            return
        if not self._thinking:
            self._thinking = True
            await self.push_frame(LLMThoughtStartFrame(append_to_context=keep_thoughts, llm=OWN))
        await self.push_frame(LLMThoughtTextFrame(event.text))

    async def end_thought(self) -> None:
        """Close a thought, if one is open."""
        if self._thinking:
            self._thinking = False
            await self.push_frame(LLMThoughtEndFrame())

    async def measure_call(self) -> None:
        """Take note that the reply has begun to call a function, which is an answer too."""
        await self.stop_ttfb_metrics()
        await self.stop_ttfat_metrics()

    async def measure_usage(self, usages: list[Usage]) -> None:
        """Report the tokens of a turn, all its attempts together."""
        if not usages:
            return
        cached = [u.cached_tokens for u in usages if u.cached_tokens is not None]
        reasoning = [u.reasoning_tokens for u in usages if u.reasoning_tokens is not None]
        await self.start_llm_usage_metrics(
            LLMTokenUsage(
                prompt_tokens=sum(u.prompt_tokens for u in usages),
                completion_tokens=sum(u.completion_tokens for u in usages),
                total_tokens=sum(u.total_tokens for u in usages),
                cache_read_input_tokens=sum(cached) if cached else None,
                reasoning_tokens=sum(reasoning) if reasoning else None,
            )
        )

    async def measure_turn(self, counts: TurnCounts, cost: float | None) -> None:
        """Report what a turn took."""
        if self.can_generate_metrics() and self.metrics_enabled:
            data = MistralTurnMetrics(
                processor=self.name,
                model=str(self._settings.model),
                cost=cost,
                **asdict(counts),
            )
            await self.push_frame(MetricsFrame(data=[data]))
