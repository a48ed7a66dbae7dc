"""What a reply says becomes Pipecat's frames: here, and nowhere else."""

import asyncio
from collections.abc import Callable

from pipecat.frames.frames import LLMThoughtEndFrame, LLMThoughtStartFrame, LLMThoughtTextFrame
from pipecat.utils.string import match_endofsentence

from mistral_service.conversation.thoughts import OWN
from mistral_service.pipecat.state import ServiceState
from mistral_service.reply.clauses import Clauses
from mistral_service.reply.speech import has_words
from mistral_service.turn.deadline import now


class FrameWriter:
    """Writes what a reply says and thinks as frames."""

    def __init__(self, state: ServiceState, on_text: Callable[[str], None] | None = None) -> None:
        """Write for a service; `on_text` learns the words that were pushed."""
        self._state = state
        self._service = state.service
        self._on_text = on_text
        self._thinking = False
        self._is_silent = True
        self._clauses = Clauses(self.end_of_sentence)
        self._pushing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._overdue: asyncio.Task[None] | None = None

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
        self._clauses = Clauses(self.end_of_sentence, self._state.settings.clause_within())

    async def write_text(self, text: str) -> None:
        """Write words of the reply; after the first sentence they may wait for their clause."""
        await self._on_output()
        await self._end_thought()
        if self._clauses.feed(text, now()):
            await self._push_text()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._clauses.due, self._push_overdue)

    async def write_thought(self, text: str, *, keep: bool = False) -> None:
        """Write a thought, which goes neither to the voice nor into the transcript.

        Thinking is output, but no answer: it ends the time to first byte and leaves that to the
        first answer running.
        """
        await self._on_output()
        await self._push_text()
        if not self._thinking:
            self._thinking = True
            start = LLMThoughtStartFrame(append_to_context=keep, llm=OWN)
            await self._service.push_frame(start)
        await self._service.push_frame(LLMThoughtTextFrame(text))

    async def flush(self) -> None:
        """Push the words that wait, and close a thought, if one is open."""
        await self._push_text()
        await self._end_thought()

    async def call_begins(self) -> None:
        """Learn that the reply has begun to call a function, which is an answer too."""
        await self._push_text()
        await self._service.stop_ttfb_metrics()
        await self._service.stop_ttfat_metrics()

    def end(self) -> None:
        """End a turn: words that still wait are those of an interrupted one, and are dropped."""
        self._clauses.take()
        self._stop_timer()
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def discard(self) -> bool:
        """What was pushed cannot be taken back."""
        return False

    async def _on_output(self) -> None:
        if self._is_silent:
            self._is_silent = False
            await self._service.stop_ttfb_metrics()

    async def _end_thought(self) -> None:
        if self._thinking:
            self._thinking = False
            await self._service.push_frame(LLMThoughtEndFrame())

    async def _push_text(self) -> None:
        """Push the words that wait, and those that come meanwhile, in their order."""
        self._stop_timer()
        if self._overdue is not None and self._overdue.done():
            overdue, self._overdue = self._overdue, None
            overdue.result()  # what an override raised there ends the turn
        async with self._pushing:
            while text := self._clauses.take():
                await self._state.push_text(text)
                if self._on_text is not None:
                    self._on_text(text)

    def _push_overdue(self) -> None:
        """Push the words that have waited long enough while the stream brought nothing."""
        self._timer = None
        if not self._pushing.locked():
            self._overdue = self._state.create_task(self._push_text(), "push_overdue_text")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
