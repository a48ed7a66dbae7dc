"""What a turn is given: the settings, where words go, who is asked, and who is kept informed."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipecat.processors.aggregators.llm_context import LLMContext

from mistral_service.conversation.conversion import Conversion
from mistral_service.pipecat.admission import Admission
from mistral_service.pipecat.frames import FrameWriter
from mistral_service.reply.calls import CallLedger, Plan, PlannedCall
from mistral_service.reply.events import ToolCall
from mistral_service.settings import MistralLLMSettings
from mistral_service.turn.ports import ConversationRecorder
from mistral_service.turn.prices import Price
from mistral_service.turn.race import Stream
from mistral_service.turn.router import Router


class Functions(Protocol):
    """Runs functions."""

    @property
    def ledger(self) -> CallLedger:
        """What is remembered of this conversation's calls."""
        ...

    def plan_calls(
        self,
        context: LLMContext,
        calls: Sequence[ToolCall],
        left_out: int = 0,
        *,
        offered: Collection[str] | None = None,
    ) -> Plan:
        """Decide about the calls of one reply."""
        ...

    async def start_calls(self, context: LLMContext, calls: Sequence[PlannedCall]) -> None:
        """Start planned calls as one group."""
        ...


@dataclass(frozen=True, slots=True)
class TurnPorts:
    """What the turns of one service are given.

    Parameters:
        name: The service's name, for the log.
        settings: The settings as they are now.
        open_stream: Sends a context, and returns the stream of the reply.
        conversion: What the rules did for the last request of this task.
        frames: Where words and thoughts go.
        functions: Runs functions.
        router: Chooses whom to ask.
        admission: Asks the rate limiter; None without one.
        recorder: Records the conversation; None where it is not recorded.
        owner: The service, for the recorder.
        prices: What tokens cost.
        emit: Calls the handlers of an event.
        start_ttfb: Begins to measure the time to first byte.
        has_voice: Whether a voice speaks the words.
        is_traced: Whether spans are written.
        markers: The markers of complete and incomplete turns of the user; None where the model
            writes none.
        set_model_name: Takes the name by which the model calls itself.
    """

    name: str
    settings: Callable[[], MistralLLMSettings]
    open_stream: Callable[[LLMContext], Awaitable[Stream]]
    conversion: Callable[[], Conversion]
    frames: FrameWriter
    functions: Functions
    router: Router
    admission: Admission | None
    recorder: ConversationRecorder | None
    owner: Any
    prices: Mapping[str, Price]
    emit: Callable[..., Awaitable[None]]
    start_ttfb: Callable[[], Awaitable[None]]
    has_voice: Callable[[], bool]
    is_traced: Callable[[], bool]
    markers: Callable[[], Sequence[str] | None]
    set_model_name: Callable[[str], None]
