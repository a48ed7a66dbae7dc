"""What a reply says becomes Pipecat's frames and metrics: here, and nowhere else."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

from pipecat.frames.frames import (
    LLMThoughtEndFrame,
    LLMThoughtStartFrame,
    LLMThoughtTextFrame,
    MetricsFrame,
)
from pipecat.metrics.metrics import LLMTokenUsage, MetricsData
from pipecat.services.openai.llm import OpenAILLMService

from mistral_service.conversation.thoughts import OWN
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


class FrameWriter:
    """Writes what a reply says and thinks as frames, and measures both.

    Attributes:
        is_silent: Whether the turn has had no output yet.
    """

    def __init__(
        self, service: OpenAILLMService, push_text: Callable[[str], Awaitable[None]]
    ) -> None:
        """Write for a service.

        Args:
            service: Whose frames and metrics they are.
            push_text: Pushes words, as Pipecat's services do.
        """
        self._service = service
        self._push_text = push_text
        self._thinking = False
        self.is_silent = True

    def begin(self) -> None:
        """Begin a turn; an interrupted thought is over."""
        self.is_silent, self._thinking = True, False

    async def write_text(self, text: str) -> None:
        """Write words of the reply."""
        await self._output()
        await self.end_thought()
        await self._push_text(text)

    async def write_thought(self, text: str, *, keep: bool = False) -> None:
        """Write a thought, which goes to the voice as little as into the transcript.

        Thinking is output, but no answer: it ends the time to first byte and leaves that to the
        first answer running.

        Args:
            text: Words of the thought.
            keep: Whether the thought is kept in the context.
        """
        await self._output()
        if not self._thinking:
            self._thinking = True
            start = LLMThoughtStartFrame(append_to_context=keep, llm=OWN)
            await self._service.push_frame(start)
        await self._service.push_frame(LLMThoughtTextFrame(text))

    async def end_thought(self) -> None:
        """Close a thought, if one is open."""
        if self._thinking:
            self._thinking = False
            await self._service.push_frame(LLMThoughtEndFrame())

    async def measure_call(self) -> None:
        """Take note that the reply has begun to call a function, which is an answer too."""
        await self._service.stop_ttfb_metrics()
        await self._service.stop_ttfat_metrics()

    async def measure_usage(self, usages: list[Usage]) -> None:
        """Report the tokens of a turn, all its attempts together."""
        if not usages:
            return
        cached = [u.cached_tokens for u in usages if u.cached_tokens is not None]
        reasoning = [u.reasoning_tokens for u in usages if u.reasoning_tokens is not None]
        await self._service.start_llm_usage_metrics(
            LLMTokenUsage(
                prompt_tokens=sum(u.prompt_tokens for u in usages),
                completion_tokens=sum(u.completion_tokens for u in usages),
                total_tokens=sum(u.total_tokens for u in usages),
                cache_read_input_tokens=sum(cached) if cached else None,
                reasoning_tokens=sum(reasoning) if reasoning else None,
            )
        )

    async def measure_turn(self, counts: TurnCounts, model: str, cost: float | None) -> None:
        """Report what a turn took."""
        service = self._service
        if service.can_generate_metrics() and service.metrics_enabled:
            data = MistralTurnMetrics(
                processor=service.name, model=model, cost=cost, **asdict(counts)
            )
            await service.push_frame(MetricsFrame(data=[data]))

    async def _output(self) -> None:
        if self.is_silent:
            self.is_silent = False
            await self._service.stop_ttfb_metrics()
