"""What the parts of a service see of it: the one place that reads Pipecat's private state."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, cast

from pipecat.services.openai.llm import OpenAILLMService

from mistral_service.settings import MistralLLMSettings


class ServiceState:
    """A service as its parts see it; everything is looked up when it is asked for.

    Attributes:
        service: The service, for what is public of it.
    """

    def __init__(self, service: OpenAILLMService) -> None:
        self.service = service
        self._private: Any = service

    def __str__(self) -> str:
        return str(self.service)

    @property
    def settings(self) -> MistralLLMSettings:
        """The settings as they are now."""
        return cast(MistralLLMSettings, self._private._settings)

    @property
    def has_voice(self) -> bool:
        """Whether a voice speaks the words."""
        return not self._private._skip_tts

    @property
    def is_traced(self) -> bool:
        """Whether spans are written."""
        return self._private._tracing_enabled

    @property
    def turn_markers(self) -> Sequence[str] | None:
        """The markers of a complete turn of the user, then those of incomplete ones.

        None where the model writes none.
        """
        if not self._private._filter_incomplete_user_turns:
            return None
        return self._private._user_turn_completion_config.markers

    async def push_text(self, text: str) -> None:
        """Push words of a reply, as Pipecat's services do."""
        await self._private._push_llm_text(text)

    async def emit(self, event: str, *arguments: Any) -> None:
        """Call the handlers of an event."""
        await self._private._call_event_handler(event, *arguments)

    def create_task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run work in a task of the service, which ends with it."""
        return self._private.create_task(work, name)

    async def cancel_task(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task of the service, and wait for its end."""
        await self._private.cancel_task(task)
