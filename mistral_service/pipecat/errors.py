"""How faults reach Pipecat: in which words, and whether they end the service or the turn."""

from typing import Any

from pipecat.frames.frames import ErrorFrame
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.utils.errors import ErrorCategory

from mistral_service.conversation.run import Run
from mistral_service.conversation.tools import ToolFault, ToolsNotPassable
from mistral_service.wire.errors import MistralError, Reason

# A refusal of one request says nothing about the next: the history may be another by then. Only
# what will refuse every request makes the service unusable (`ErrorCategory.is_permanent`).
_CATEGORIES: dict[Reason, ErrorCategory] = {
    Reason.KEY: ErrorCategory.AUTHENTICATION,
    Reason.FORBIDDEN: ErrorCategory.AUTHORIZATION,
    Reason.BLOCKED: ErrorCategory.APPLICATION,
    Reason.UNKNOWN_MODEL: ErrorCategory.INVALID_REQUEST,
    Reason.HISTORY: ErrorCategory.APPLICATION,
    Reason.REQUEST: ErrorCategory.APPLICATION,
    Reason.TOO_LARGE: ErrorCategory.APPLICATION,
    Reason.RATE_LIMIT: ErrorCategory.RATE_LIMIT,
    Reason.QUOTA: ErrorCategory.QUOTA,
    Reason.CAPACITY: ErrorCategory.SERVER,
    Reason.SERVER: ErrorCategory.SERVER,
    Reason.UNREACHABLE: ErrorCategory.CONNECTIVITY,
    Reason.TIMEOUT: ErrorCategory.CONNECTIVITY,
    Reason.STREAM: ErrorCategory.SERVER,
    Reason.EMPTY: ErrorCategory.SERVER,
    Reason.CALL: ErrorCategory.SERVER,
    Reason.FORM: ErrorCategory.SERVER,
}


class Telling(OpenAILLMService):
    """Tells errors in their own words, each in its category."""

    def __init__(self, **kwargs: Any) -> None:
        self._tool_faults_told: set[ToolFault] = set()
        super().__init__(**kwargs)  # pyright: ignore[reportUnknownMemberType]

    async def tell_of_tools(self, run: Run) -> None:
        """Tell of tools that a request has to do without, each once for each fault.

        Args:
            run: What is known of the request.
        """
        for fault in run.tool_faults:
            if fault not in self._tool_faults_told:
                self._tool_faults_told.add(fault)
                await self.push_error(str(fault), category=ErrorCategory.APPLICATION)

    async def push_error_frame(
        self, error: ErrorFrame, force_treat_as_permanent: bool = False
    ) -> None:
        """Tell an error upstream; one that is a sentence by itself is told as that sentence.

        Args:
            error: The error.
            force_treat_as_permanent: As in Pipecat.
        """
        if isinstance(error.exception, MistralError | ToolsNotPassable):
            error.error = str(error.exception)
        await super().push_error_frame(error, force_treat_as_permanent)

    def _classify_error(self, exception: Exception) -> ErrorCategory | None:
        """Tell Pipecat whether an error ends the service or only the turn."""
        if isinstance(exception, MistralError):
            return _CATEGORIES[exception.reason]
        if isinstance(exception, ToolsNotPassable):
            return ErrorCategory.APPLICATION
        return super()._classify_error(exception)
