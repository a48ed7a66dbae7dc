"""What a reply says becomes Pipecat's frames: here, and nowhere else."""

from pipecat.frames.frames import LLMThoughtEndFrame, LLMThoughtStartFrame, LLMThoughtTextFrame
from pipecat.utils.string import match_endofsentence

from mistral_service.conversation.thoughts import OWN
from mistral_service.pipecat.state import ServiceState
from mistral_service.reply.speech import has_words


class FrameWriter:
    """Writes what a reply says and thinks as frames."""

    def __init__(self, state: ServiceState) -> None:
        """Write for a service.

        Args:
            state: The service.
        """
        self._state = state
        self._service = state.service
        self._thinking = False
        self._is_silent = True

    @property
    def has_voice(self) -> bool:
        """Whether a voice speaks the words, sentence by sentence."""
        return self._state.has_voice

    def end_of_sentence(self, text: str) -> int:
        """Where the first sentence of a text ends; 0 where it has no end yet."""
        return match_endofsentence(text)

    def is_speech(self, words: str) -> bool:
        """Whether the caller hears anything of these words."""
        if (markers := self._state.turn_markers) is not None:
            # The marker of a complete turn is taken out on the way; one of an incomplete turn
            # stands for a silence that the framework asked for.
            complete, *incomplete = markers
            if words.lstrip().startswith(tuple(incomplete)):
                return True
            words = words.replace(complete, "")
        return has_words(words)

    def begin(self) -> None:
        """Begin a turn; an interrupted thought is over."""
        self._is_silent, self._thinking = True, False

    async def write_text(self, text: str) -> None:
        """Write words of the reply."""
        await self._on_output()
        await self.end_thought()
        await self._state.push_text(text)

    async def write_thought(self, text: str, *, keep: bool = False) -> None:
        """Write a thought, which goes neither to the voice nor into the transcript.

        Thinking is output, but no answer: it ends the time to first byte and leaves that to the
        first answer running.

        Args:
            text: Words of the thought.
            keep: Whether the thought is kept in the context.
        """
        await self._on_output()
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

    async def call_begins(self) -> None:
        """Learn that the reply has begun to call a function, which is an answer too."""
        await self._service.stop_ttfb_metrics()
        await self._service.stop_ttfat_metrics()

    def discard(self) -> bool:
        """What was pushed cannot be taken back."""
        return False

    async def _on_output(self) -> None:
        if self._is_silent:
            self._is_silent = False
            await self._service.stop_ttfb_metrics()
