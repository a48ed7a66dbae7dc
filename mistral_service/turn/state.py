"""How far a turn has come, what one attempt has brought, and what the settings say of both."""

import math
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from mistral_service.conversation.conversion import Conversion
from mistral_service.reply.calls import RepeatedCalls
from mistral_service.reply.events import Finish, ToolCall, Unreadable
from mistral_service.reply.reader import MAX_CALLS, ReplyReader
from mistral_service.reply.rounds import MAX_ROUNDS
from mistral_service.reply.speech import Sentences
from mistral_service.turn.conversation import Conversation
from mistral_service.turn.retries import Attempts, Handled, Limits
from mistral_service.turn.routes import Route
from mistral_service.turn.silence import Silence
from mistral_service.wire.chunks import Usage

C = TypeVar("C", bound=Conversation)
C_contra = TypeVar("C_contra", bound=Conversation, contravariant=True)


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """How the turns of a service run, as its settings say when a turn begins.

    Parameters:
        limits: How long a turn may take, and how many requests.
        sentence_within: Seconds from the first word of a sentence to its end, where a voice speaks
            it.
        hedging: Whether a request that is late is hedged by a second one.
        hedge_after: Seconds after which it is; None for what `Pace` finds.
        most_calls: Functions that one reply may call.
        most_rounds: Replies without words that may call functions, one after the other.
        repeated_calls: What becomes of a call that is like another of the same turn.
        keep_thoughts: Whether thoughts are kept in the conversation.
        empty_reply_text: What is said where the model has nothing to say, twice.
        empty_replies: Which replies without words are an answer: none, those that a limit ended,
            or all.
    """

    limits: Limits = Limits()
    sentence_within: float = math.inf
    hedging: bool = True
    hedge_after: float | None = None
    most_calls: int = MAX_CALLS
    most_rounds: int = MAX_ROUNDS
    repeated_calls: RepeatedCalls = "run"
    keep_thoughts: bool = False
    empty_reply_text: str | None = None
    empty_replies: Literal["none", "limited", "all"] = "none"


@dataclass
class TurnCounts:
    """What a turn took.

    Parameters:
        attempts: Requests sent, hedges included.
        hedges: Requests sent in parallel with one that was late.
        hedges_won: Those of them that spoke first.
        resumes: Sentences that were cut and went on.
        fallbacks: Times that another model, or endpoint, was asked.
        faults: Faults that were met on the way.
    """

    attempts: int = 1
    hedges: int = 0
    hedges_won: int = 0
    resumes: int = 0
    fallbacks: int = 0
    faults: int = 0

    def count(self, handled: Handled) -> None:
        """Count a fault that was met."""
        self.faults += 1
        self.attempts += handled.done != "outrun"
        self.resumes += handled.done == "resumed"
        self.fallbacks += handled.done == "moved"


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """What one request has brought.

    Parameters:
        spoke: Whether the caller has heard something.
        calls: The functions that were called.
        unreadable: Markup of which nothing could be made.
        end: How it ended.
        conversion: What the rules did for the request that brought it.
        reader: What has read it.
    """

    spoke: bool
    calls: list[ToolCall]
    unreadable: list[Unreadable]
    end: Finish
    conversion: Conversion
    reader: ReplyReader


@dataclass
class TurnState(Generic[C]):
    """How far a turn has come.

    Parameters:
        options: What the settings said when it began.
        conversation: The conversation, with a reminder behind it where the model needs one.
        attempts: What it may still try.
        route: Where its last request went.
        asked: What is asked: the conversation, or the conversation and a word to go on.
        sentences: What the voice has got of it; None where no voice speaks.
        silence: How long the caller may go on hearing nothing.
        cut: The words after which the last reply was cut; empty unless it was.
        said: All words so far.
        usages: What each request has cost in tokens.
        costs: And in dollars; None where the model has no price.
        counts: What it took.
        conversion: What the rules did for its last request.
        model: The model that answered last, as it calls itself.
        correlation_id: Mistral's name of the last answer, refusals included.
        timed_out: Whether a timeout was reported.
    """

    options: TurnOptions
    conversation: C
    attempts: Attempts
    route: Route
    asked: C
    sentences: Sentences | None
    silence: Silence
    cut: str = ""
    said: list[str] = field(default_factory=list[str])
    usages: list[Usage] = field(default_factory=list[Usage])
    costs: list[float | None] = field(default_factory=list[float | None])
    counts: TurnCounts = field(default_factory=TurnCounts)
    conversion: Conversion = field(default_factory=Conversion)
    model: str = ""
    correlation_id: str | None = None
    timed_out: bool = False
