"""The protocols through which a turn sends requests, writes text, calls functions and records.

A class that derives from one inherits methods that do nothing.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol

from mistral_service.conversation.conversion import Conversion
from mistral_service.reply.calls import Plan, PlannedCall
from mistral_service.reply.events import ToolCall
from mistral_service.reply.reader import ReplyReader
from mistral_service.turn.admission import Admission
from mistral_service.turn.hedge import Pace
from mistral_service.turn.prices import Price
from mistral_service.turn.race import Stream
from mistral_service.turn.retries import Handled
from mistral_service.turn.router import Router
from mistral_service.turn.shared_services import ResumePoint
from mistral_service.turn.state import C, C_contra, TurnOptions, TurnState
from mistral_service.wire.errors import MistralError


class Output(Protocol):
    """Takes what a reply says."""

    @property
    def has_voice(self) -> bool:
        """Whether a voice speaks the words, sentence by sentence."""
        ...

    def end_of_sentence(self, text: str) -> int:
        """Where the first sentence of a text ends; 0 where it has no end yet."""
        ...

    def is_speech(self, words: str) -> bool:
        """Whether the caller hears anything of these words."""
        ...

    def begin(self) -> None:
        """Begin a turn."""

    async def write_text(self, text: str) -> None:
        """Write words of the reply, at once or soon: words may wait for others."""

    async def write_thought(self, text: str, *, keep: bool = False) -> None:
        """Write words of a thought; `keep` says whether the conversation keeps them."""

    async def flush(self) -> None:
        """Write the words that wait, and close a thought, if one is open."""

    async def call_begins(self) -> None:
        """Learn that the reply has begun to call a function, which is an answer too."""

    def discard(self) -> bool:
        """Take back what was written of the turn; False where that cannot be."""
        ...

    def end(self) -> None:
        """End a turn; words that still wait were interrupted, and are never written."""


class Functions(Protocol[C_contra]):
    """Runs functions, or hands their calls on."""

    def begin(self, conversation: C_contra, options: TurnOptions) -> bool:
        """Begin a turn; returns whether the model may call functions in it."""
        ...

    def plan(
        self,
        conversation: C_contra,
        calls: Sequence[ToolCall],
        left_out: int,
        *,
        offered: Collection[str] | None,
    ) -> Plan:
        """Decide about the calls of one reply, as `CallLedger.plan` does."""
        ...

    def forget(self, calls: Sequence[PlannedCall]) -> None:
        """Learn that planned calls do not run."""

    async def start(
        self, conversation: C_contra, calls: Sequence[PlannedCall], *, spoke: bool
    ) -> None:
        """Start planned calls, if any, as one group; `spoke` says whether words came with them."""


class TurnRecorder(Protocol[C_contra]):
    """Records the turns of a conversation where another machine finds it."""

    async def begin(self, conversation: C_contra) -> ResumePoint | None:
        """Record that a turn begins; returns where it goes on, once after a takeover."""
        ...

    async def end(self, *, complete: bool) -> None:
        """Record the end of the turn; an interruption or an error leaves it incomplete."""


class TurnObserver(Protocol[C]):
    """Learns what happens in a turn, for events, metrics and traces."""

    async def on_begin(self) -> None:
        """The turn begins: from here the time to first byte counts."""

    async def on_timeout(self) -> None:
        """An attempt took too long, for the first time in this turn."""

    async def on_fault_handled(self, error: MistralError, handled: Handled) -> None:
        """A fault led to another attempt."""

    def on_model(self, name: str) -> None:
        """A model has answered, and calls itself so."""

    async def on_end(self, turn: TurnState[C]) -> None:
        """The turn is over, however it ended."""


@dataclass(frozen=True, slots=True)
class TurnPorts(Generic[C]):
    """What the turns of one service are made with.

    Parameters:
        name: The service's name, for the log.
        options: What the settings say now.
        open_stream: Sends a conversation, and returns the stream of the reply.
        conversion: What the rules did for the last request of this task.
        output: Takes what the reply says.
        functions: Runs functions.
        router: Chooses whom to ask.
        observer: Learns what happens.
        admission: Asks the rate limiter; None without one.
        recorder: Records the turns; None where they are not recorded.
        prices: What tokens cost.
        pace: How fast replies begin.
        make_reader: Makes what reads a reply, with the arguments of `ReplyReader`.
    """

    name: str
    options: Callable[[], TurnOptions]
    open_stream: Callable[[C], Awaitable[Stream]]
    conversion: Callable[[], Conversion]
    output: Output
    functions: Functions[C]
    router: Router
    observer: TurnObserver[C]
    admission: Admission | None = None
    recorder: TurnRecorder[C] | None = None
    prices: Mapping[str, Price] = field(default_factory=dict[str, Price])
    pace: Pace = field(default_factory=Pace)
    make_reader: Callable[..., ReplyReader] = ReplyReader
