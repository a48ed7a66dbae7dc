"""What a reply says becomes Pipecat's frames and metrics: here, and nowhere else."""

from pipecat.frames.frames import (
    LLMThoughtEndFrame,
    LLMThoughtStartFrame,
    LLMThoughtTextFrame,
)
from pipecat.metrics.metrics import LLMTokenUsage
from pipecat.services.openai.llm import OpenAILLMService

from mistral_service.conversation.thoughts import OWN
from mistral_service.reply.events import Text, Thought
from mistral_service.wire.chunks import Usage


class Voice(OpenAILLMService):
    """Speaks what a reply says, thinks what it thinks, and measures both."""

    _thinking = False

    async def say(self, event: Text | Thought, *, keep_thoughts: bool = False) -> None:
        """Push one event of a reply.

        Thinking is output, but no answer: it ends the time to first byte and leaves that to the
        first answer running. It goes to the voice as little as into the transcript.

        Args:
            event: The words, or the thought.
            keep_thoughts: Whether a thought is kept in the context.
        """
        await self.stop_ttfb_metrics()
        if isinstance(event, Text):
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
