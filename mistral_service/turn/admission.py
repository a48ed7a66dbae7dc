"""What a service reports to the rate limiter: whose a request is, what it costs, how urgent."""

import hashlib
import uuid
from collections.abc import Callable
from typing import cast

from openai import AsyncOpenAI

from mistral_service.turn.conversation import Conversation
from mistral_service.turn.shared_services import Rank, RateLimiter, RequestEstimate
from mistral_service.wire.errors import HeldBack, MistralError, Reason
from mistral_service.wire.rate import RateBudget
from mistral_service.wire.trees import objects_of

_CHARACTERS_PER_TOKEN = 3
"""Characters to a token: English has four, other languages less; rather too many than too few."""

_IMAGE_TOKENS = 1500
"""Tokens of an image of a megapixel: Mistral's models make one of every 28 by 28 pixels."""

_GROWTH = 100
"""Tokens by which a turn is longer than the one before it: a sentence of each side."""

_TIMES, _BEYOND = 4, 32_000
"""A turn costs at most so many times its estimate, and so many tokens more: a reply has some
thousands, and thinking some ten thousands. A server that reports more is not believed."""

_PATIENCE = 9.0
"""Seconds that a question outside of a conversation waits: the default of a turn."""


class Admission:
    """One conversation's requests before the rate limiter."""

    def __init__(self, rate_limiter: RateLimiter) -> None:
        self.rate_limiter = rate_limiter
        self._caller = uuid.uuid4().hex
        self._waits: RequestEstimate | None = None
        self._unsettled: RequestEstimate | None = None
        self._cost: int | None = None
        self._goes_on = False

    def estimate(
        self,
        client: AsyncOpenAI,
        model: str,
        conversation: Conversation,
        *,
        aside: bool = False,
        hedges: bool = False,
    ) -> RequestEstimate:
        """Describe a request; the last turn's cost says nothing about one that is asked `aside`."""
        tokens = None if aside else self._cost
        # A call that comes from another machine has turns behind it.
        turns = sum(message.get("role") == "user" for message in conversation.messages)
        goes_on = self._goes_on or aside or turns > 1
        return RequestEstimate(
            _account_of(client),
            model,
            _tokens(conversation) if tokens is None else tokens + _GROWTH,
            Rank.HEDGE if hedges else Rank.TURN if goes_on else Rank.NEW_CALL,
            "" if aside else self._caller,
        )

    async def acquire(self, estimate: RequestEstimate) -> None:
        """Ask the rate limiter to let a request go out; raises `HeldBack` where it has to wait."""
        try:
            await self.rate_limiter.acquire(estimate)
        except HeldBack as e:
            # A second request is not sent late, and a question that waits too long is given up.
            aside = not estimate.caller
            if estimate.rank is Rank.HEDGE or (aside and (e.retry_after or 0.0) > _PATIENCE):
                self._release(estimate)
            elif not aside:
                self._waits = estimate
            raise
        if estimate.caller:
            self._waits = None

    def release(self) -> None:
        """Give up the place in the queue: the turn is over, however it ended."""
        self._unsettled = None
        if self._waits is not None:
            self._release(self._waits)
            self._waits = None

    def _release(self, estimate: RequestEstimate) -> None:
        # A rate limiter without a queue needs no such method.
        release = cast(
            "Callable[[RequestEstimate], None] | None", getattr(self.rate_limiter, "release", None)
        )
        if release is not None:
            release(estimate)

    def record_answer(self, estimate: RequestEstimate, budget: RateBudget | None) -> None:
        """Record the headers of an answer, which may say what the request was counted with."""
        self._goes_on = True
        self.rate_limiter.record_answer(estimate, budget)
        if budget is not None and _is_a_cost(budget.query_cost, estimate):
            self._unsettled = None
            self._record(estimate, int(budget.query_cost or 0))
        else:
            self._unsettled = estimate

    def record_usage(self, tokens: int) -> None:
        """Record what the last answer cost, unless its headers said so."""
        if self._unsettled is not None:
            self._record(self._unsettled, tokens)
            self._unsettled = None

    def record_failure(self, estimate: RequestEstimate, error: MistralError | None) -> None:
        """Record that a request which went out has failed."""
        if error is not None and error.reason is Reason.RATE_LIMIT:
            self.rate_limiter.record_refusal(estimate, error)

    def _record(self, estimate: RequestEstimate, tokens: int) -> None:
        # The next turn is estimated anew where that cannot be.
        self._cost = tokens if _is_a_cost(tokens, estimate) else None
        self.rate_limiter.record_usage(estimate, tokens)


def _account_of(client: AsyncOpenAI) -> str:
    """A name of the account behind a client, which reveals neither key nor address."""
    return hashlib.sha256(f"{client.base_url}\n{client.api_key}".encode()).hexdigest()[:16]


def _is_a_cost(tokens: float | None, estimate: RequestEstimate) -> bool:
    """Whether a request can have been counted with so many tokens."""
    return tokens is not None and 0 <= tokens <= _TIMES * estimate.tokens + _BEYOND


def _tokens(conversation: Conversation) -> int:
    """About how many tokens a conversation is, before anything has counted."""
    characters, images = len(str(conversation.tools or "")), 0
    for message in conversation.messages:
        content = message.get("content")
        for part in objects_of(content):
            text = part.get("text")
            characters += len(text) if isinstance(text, str) else 0
            images += part.get("type") == "image_url"
        if not isinstance(content, list):
            characters += len(str(content or ""))
        characters += len(str(message.get("tool_calls") or ""))
    return characters // _CHARACTERS_PER_TOKEN + images * _IMAGE_TOKENS + _GROWTH
