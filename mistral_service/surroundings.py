"""What a service finds around it: what calls of many processes share, set by who runs the bot.

A bot's own code says nothing of machines. Who runs it on many of them sets the surroundings before
the bot is called; the service looks here when it is made. On one machine there are none.
"""

from collections.abc import Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from mistral_service.wire.errors import MistralError
from mistral_service.wire.rate import RateBudget

if TYPE_CHECKING:
    from pipecat.processors.aggregators.llm_context import LLMContext

    from mistral_service.reply.calls import Ledger, Planned


class Rank(IntEnum):
    """Who goes first where the account's budget runs low; the smaller the sooner.

    Parameters:
        TURN: A turn of a conversation that goes on.
        NEW_CALL: The first turn of a new call.
        HEDGE: A second request beside one that is late.
    """

    TURN = 0
    NEW_CALL = 1
    HEDGE = 2


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that wants to go out.

    Parameters:
        account: A name of the account, which does not tell its key.
        model: The model that is asked.
        tokens: How many tokens it will probably be counted with.
        rank: How urgent it is.
        caller: A name of the conversation that asks, which has one place where requests wait;
            empty for the task that asks.
    """

    account: str
    model: str
    tokens: int
    rank: Rank
    caller: str = ""


class Gate(Protocol):
    """Who may ask, of all that share an account."""

    async def admit(self, ask: Ask) -> None:
        """Let a request go out.

        Raises:
            HeldBack: With the seconds until it may, if it may not.
        """
        ...

    def can_spare(self, ask: Ask) -> bool:
        """Whether such a request would probably be let out, as far as is known without asking."""
        ...

    def answered(self, ask: Ask, budget: RateBudget | None) -> None:
        """Take note of what an answer's headers tell."""
        ...

    def refused(self, ask: Ask, error: MistralError) -> None:
        """Take note of a refusal of the server's for its rate limit."""
        ...

    def spent(self, ask: Ask, tokens: int) -> None:
        """Take note of what the reply has cost in the end."""
        ...


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a call that was taken over.

    Parameters:
        cut: The words after which its reply was cut; empty if none was.
        answer: Whether a turn waits for its answer, or for the rest of it.
    """

    cut: str = ""
    answer: bool = True


class RecordedService(Protocol):
    """What a keeper sees of the service whose conversation it records."""

    @property
    def ledger(self) -> "Ledger":
        """What is remembered of the conversation's calls."""
        ...

    @property
    def pipeline_worker(self) -> Any:
        """The worker of the pipeline in which the service runs."""
        ...


class Keeper(Protocol):
    """Who keeps a conversation where another machine finds it."""

    @property
    def id(self) -> str:
        """The conversation's name, the same on every machine."""
        ...

    @property
    def waits(self) -> bool:
        """Whether a call that was taken over has not gone on yet."""
        ...

    def starts(self, service: "RecordedService") -> None:
        """Take note that the pipeline of a service runs, and can be watched."""
        ...

    async def begins(self, service: "RecordedService", context: "LLMContext") -> Past | None:
        """Take note of a turn that begins.

        Returns:
            What came before, once after a takeover: `context` then holds the conversation.
        """
        ...

    def says(self, words: str) -> None:
        """Take note of words that were just handed to the voice."""
        ...

    async def calls(
        self, calls: "Sequence[Planned]", *, repeatable: Collection[str] = ()
    ) -> Collection[str]:
        """Take note of functions before they start: what is not noted must not run.

        Args:
            calls: The calls.
            repeatable: Names of functions that may start without a note.

        Returns:
            The ids of calls that must not start.

        Raises:
            MistralError: If the call belongs to another machine by now.
        """
        ...

    async def returned(self, call_id: str, result: object) -> None:
        """Take note of a function's result before anyone else learns of it.

        Args:
            call_id: The call.
            result: What the model reads.
        """
        ...

    async def ends(self, *, complete: bool) -> None:
        """Take note of the end of a turn; an interruption or an error leaves it incomplete."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a service finds around it.

    Parameters:
        gate: Who may ask; None lets everybody.
        keeper: Who keeps this conversation; None where nobody does.
    """

    gate: Gate | None = None
    keeper: Keeper | None = None


ALONE = Surroundings()
surroundings: ContextVar[Surroundings] = ContextVar("surroundings", default=ALONE)
"""What services that are made in this task will find around them."""
