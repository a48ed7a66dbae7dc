"""What calls of many processes share: the rate limiter of an account, and who records a call.

A bot's own code knows nothing of machines. The process that runs it on many of them sets
`shared_services` before it calls the bot; a service reads them when it is made. On one machine
there are none.
"""

from collections.abc import Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from mistral_service.reply.calls import CallLedger, PlannedCall
from mistral_service.wire.errors import MistralError
from mistral_service.wire.rate import RateBudget


class Rank(IntEnum):
    """Who goes first where the account's budget runs low; the smaller the sooner.

    Parameters:
        TURN: A turn of a conversation that goes on.
        NEW_CALL: The first turn of a new call.
        HEDGE: A second request, in parallel with one that is late.
    """

    TURN = 0
    NEW_CALL = 1
    HEDGE = 2


@dataclass(frozen=True, slots=True)
class RequestEstimate:
    """A request that wants to go out.

    Parameters:
        account: A name of the account, which does not reveal its key.
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


class RateLimiter(Protocol):
    """Who may ask, of all that share an account."""

    async def acquire(self, ask: RequestEstimate) -> None:
        """Let a request go out.

        Raises:
            HeldBack: With the seconds until it may, if it may not.
        """

    def has_headroom(self, ask: RequestEstimate) -> bool:
        """Whether such a request would probably be let out, as far as is known without asking."""
        ...

    def record_answer(self, ask: RequestEstimate, budget: RateBudget | None) -> None:
        """Record the headers of an answer."""

    def record_refusal(self, ask: RequestEstimate, error: MistralError) -> None:
        """Record that the server refused a request for its rate limit."""

    def record_usage(self, ask: RequestEstimate, tokens: int) -> None:
        """Record what the reply cost in the end."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What is known of a call that was taken over.

    Parameters:
        spoken_so_far: The words after which its reply was cut; empty if none was.
        must_answer: Whether a turn waits for its answer, or for the rest of it.
    """

    spoken_so_far: str = ""
    must_answer: bool = True


class RecordedService(Protocol):
    """What a recorder sees of the service whose conversation it records."""

    @property
    def ledger(self) -> CallLedger:
        """What is remembered of the conversation's calls."""
        ...

    @property
    def pipeline_worker(self) -> Any:
        """The worker of the pipeline in which the service runs."""
        ...


class ConversationRecorder(Protocol):
    """Records a conversation where another machine finds it."""

    @property
    def id(self) -> str:
        """The conversation's name, the same on every machine."""
        ...

    @property
    def is_pending(self) -> bool:
        """Whether a call that was taken over has not gone on yet."""
        ...

    def on_start(self, service: RecordedService) -> None:
        """Watch the pipeline of a service, which runs from now on."""

    async def on_turn_start(self, service: RecordedService, context: Any) -> ResumePoint | None:
        """Record that a turn begins; `context` is Pipecat's `LLMContext`.

        Returns:
            What came before, once after a takeover: `context` then holds the conversation.
        """
        ...

    def on_text(self, words: str) -> None:
        """Record words that were just pushed to the voice."""

    async def on_function_calls(
        self, calls: Sequence[PlannedCall], *, repeatable: Collection[str] = ()
    ) -> Collection[str]:
        """Record functions before they start: what is not recorded must not run.

        Args:
            calls: The calls.
            repeatable: Names of functions that may start without a record.

        Returns:
            The ids of calls that must not start.

        Raises:
            MistralError: If the call belongs to another machine by now.
        """
        ...

    async def on_function_result(self, call_id: str, result: object) -> None:
        """Record a function's result, as the model reads it, before anything reads it."""

    async def on_turn_end(self, *, complete: bool) -> None:
        """Record the end of a turn; an interruption or an error leaves it incomplete."""


@dataclass(frozen=True, slots=True)
class SharedServices:
    """What a service shares with others.

    Parameters:
        rate_limiter: The limiter of the account; None limits nothing.
        recorder: Records this conversation; None records nothing.
    """

    rate_limiter: RateLimiter | None = None
    recorder: ConversationRecorder | None = None


shared_services = ContextVar("shared_services", default=SharedServices())  # noqa: B039 - frozen
"""What services that are made in this task share."""
