"""How faults reach Pipecat: in which words, and whether they end the service or the turn."""

from collections.abc import Awaitable, Callable

from pipecat.frames.frames import ErrorFrame
from pipecat.utils.errors import ErrorCategory

from mistral_service.conversation.conversion import Conversion
from mistral_service.conversation.parts import ImageError
from mistral_service.conversation.tools import ToolsNotPassable
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


def category_of(exception: Exception) -> ErrorCategory | None:
    """Whether an error ends the service or only the turn; None for one that is not ours."""
    if isinstance(exception, MistralError):
        return _CATEGORIES[exception.reason]
    if isinstance(exception, ToolsNotPassable):
        return ErrorCategory.APPLICATION
    return None


def in_own_words(error: ErrorFrame) -> None:
    """Have an error frame say what its exception says, where that is a sentence by itself."""
    if isinstance(error.exception, MistralError | ToolsNotPassable):
        error.error = str(error.exception)


class ErrorReporter:
    """Reports what a request has to do without; each fault once in the life of a service.

    Attributes:
        report: Pushes an error, as Pipecat's `push_error`.
    """

    def __init__(self, report: Callable[..., Awaitable[None]], name: str) -> None:
        self.report = report
        self._name = name
        self._reported: set[str] = set()

    def __str__(self) -> str:
        return self._name

    async def report_conversion(self, conversion: Conversion, model: str) -> None:
        """Report the images and tools that a request to a model has to do without."""
        for fault in conversion.image_errors:
            await self.report_image(fault)
        if conversion.unseen_images:
            await self._report_once(
                f"{model} does not see images, so it is sent the words alone: choose a model "
                "with vision, such as mistral-small-latest."
            )
        for fault in conversion.tool_faults:
            await self._report_once(str(fault))

    async def report_image(self, fault: ImageError) -> None:
        """Report an image that was left out."""
        if not fault.reported:
            fault.reported = True
            await self.report(
                f"An image was left out: {fault}",
                exception=fault,
                category=ErrorCategory.APPLICATION,
            )

    async def _report_once(self, fault: str) -> None:
        if fault not in self._reported:
            self._reported.add(fault)
            await self.report(fault, category=ErrorCategory.APPLICATION)
