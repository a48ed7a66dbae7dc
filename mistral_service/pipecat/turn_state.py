"""How far a turn has come, and what one attempt has brought."""

from dataclasses import dataclass, field

from pipecat.processors.aggregators.llm_context import LLMContext

from mistral_service.conversation.conversion import Conversion
from mistral_service.pipecat.frames import TurnCounts
from mistral_service.reply.events import Finish, ToolCall, Unreadable
from mistral_service.reply.speech import Sentences
from mistral_service.turn.ports import RequestEstimate
from mistral_service.turn.retries import Attempts
from mistral_service.turn.routes import Route
from mistral_service.turn.silence import Silence
from mistral_service.wire.chunks import Usage


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """What one request has brought.

    Parameters:
        spoke: Whether a voice had something to say.
        calls: The functions that were called.
        unreadable: Markup of which nothing could be made.
        end: How it ended.
        run: What the rules did for the request that brought it.
    """

    spoke: bool
    calls: list[ToolCall]
    unreadable: list[Unreadable]
    end: Finish
    conversion: Conversion


@dataclass
class TurnState:
    """How far a turn has come.

    Parameters:
        context: The conversation, with a reminder behind it where the model needs one.
        attempts: What it may still try.
        route: Where its last request went.
        asked: What is asked: the context, or the context and a word to go on.
        cut: The words after which the last reply was cut; empty unless it was.
        said: All words so far.
        usages: What each request has cost in tokens.
        costs: And in dollars; None where the model has no price.
        counts: What it took.
        run: What the rules did for its last request.
        model: The model that answered last, as it calls itself.
        correlation_id: Mistral's name of the last answer, refusals included.
        sentences: What the voice has got of it; None where no voice speaks.
        silence: How long the caller may go on hearing nothing.
        timed_out: Whether handlers have heard of a timeout.
        unsettled: The request that was let out, while its true cost is not known.
    """

    context: LLMContext
    attempts: Attempts
    route: Route
    asked: LLMContext
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
    unsettled: RequestEstimate | None = None
