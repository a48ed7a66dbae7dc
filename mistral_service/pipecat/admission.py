"""What a service tells the gate of its requests: whose they are, what they cost, how urgent."""

import hashlib
import uuid
from collections.abc import Callable, Mapping
from typing import Any, cast

from openai import AsyncOpenAI
from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage

from mistral_service.settings import given
from mistral_service.turn.ports import Rank, RateLimiter, RequestEstimate
from mistral_service.wire.errors import HeldBack, MistralError, Reason
from mistral_service.wire.rate import RateBudget

_CHARACTERS_PER_TOKEN = 3
"""Characters to a token: English has four, other languages less; rather too many than too few."""

_PICTURE_TOKENS = 1500
"""Tokens of an image of a megapixel: Mistral's models make one of every 28 by 28 pixels."""

_GROWTH = 100
"""Tokens by which a turn is longer than the one before it: a sentence of each side."""

_TIMES, _BEYOND = 4, 32_000
"""A turn costs at most so many times what was estimated, and so many tokens more: a reply has some
thousands, and thinking some ten thousands. A server that says more says nothing."""

_PATIENCE = 9.0
"""Seconds that a question outside of a conversation waits for room: the default of a turn."""


class Admission:
    """One conversation's way through the gate.

    Attributes:
        gate: The gate.
    """

    def __init__(self, rate_limiter: RateLimiter) -> None:
        self.rate_limiter = rate_limiter
        self._caller = uuid.uuid4().hex
        self._waits: RequestEstimate | None = None
        self._cost: int | None = None
        self._goes_on = False

    def ask(
        self, client: AsyncOpenAI, model: str, context: LLMContext, *, aside: bool = False
    ) -> RequestEstimate:
        """Describe a request.

        Args:
            client: The endpoint's; its address and key are the account.
            model: The model that is asked.
            context: What is asked.
            aside: Whether it is asked outside of the conversation, whose last cost says nothing
                of it.
        """
        tokens = None if aside else self._cost
        # A call that comes from another machine has turns behind it.
        goes_on = self._goes_on or aside or _turns(context) > 1
        return RequestEstimate(
            account_of(client),
            model,
            _estimate(context) if tokens is None else tokens + _GROWTH,
            Rank.TURN if goes_on else Rank.NEW_CALL,
            "" if aside else self._caller,
        )

    async def acquire(self, ask: RequestEstimate) -> RequestEstimate:
        """Pass the gate.

        Returns:
            What was let out.

        Raises:
            MistralError: If the gate refuses it.
        """
        try:
            await self.rate_limiter.acquire(ask)
        except HeldBack as e:
            # A second request is not sent late, and a question that waits too long is given up.
            aside = not ask.caller
            if ask.rank is Rank.HEDGE or (aside and (e.retry_after or 0.0) > _PATIENCE):
                self._release(ask)
            elif not aside:
                self._waits = ask
            raise
        if ask.caller:
            self._waits = None
        return ask

    def release(self) -> None:
        """Give up the place where requests wait: the turn is over, however it ended."""
        if self._waits is not None:
            self._release(self._waits)
            self._waits = None

    def _release(self, ask: RequestEstimate) -> None:
        # A gate that keeps no line needs no such method.
        release = cast(
            "Callable[[RequestEstimate], None] | None", getattr(self.rate_limiter, "release", None)
        )
        if release is not None:
            release(ask)

    def record_answer(self, ask: RequestEstimate, budget: RateBudget | None) -> bool:
        """Take note of an answer; returns whether it told what the request was counted with."""
        self._goes_on = True
        self.rate_limiter.record_answer(ask, budget)
        if budget is None or not _is_a_cost(budget.query_cost, ask):
            return False
        self.record_usage(ask, int(budget.query_cost or 0))
        return True

    def record_usage(self, ask: RequestEstimate, tokens: int) -> None:
        """Take note of what a turn was counted with."""
        # The next turn is estimated anew where that cannot be.
        self._cost = tokens if _is_a_cost(tokens, ask) else None
        self.rate_limiter.record_usage(ask, tokens)

    def record_failure(self, ask: RequestEstimate, error: MistralError | None) -> None:
        """Take note that a request which was let out has failed."""
        if error is not None and error.reason is Reason.RATE_LIMIT:
            self.rate_limiter.record_refusal(ask, error)


def account_of(client: AsyncOpenAI) -> str:
    """A name of the account behind a client, which tells neither key nor address."""
    return hashlib.sha256(f"{client.base_url}\n{client.api_key}".encode()).hexdigest()[:16]


def _is_a_cost(tokens: float | None, ask: RequestEstimate) -> bool:
    """Whether a request can have been counted with so many tokens."""
    return tokens is not None and 0 <= tokens <= _TIMES * ask.tokens + _BEYOND


def _turns(context: LLMContext) -> int:
    return sum(message.get("role") == "user" for message in _messages(context))


def _estimate(context: LLMContext) -> int:
    """About how many tokens a context is, before anybody has counted."""
    characters, images = len(str(given(context.tools) or "")), 0
    for message in _messages(context):
        content = message.get("content")
        if isinstance(content, list):
            for part in cast("list[Any]", content):
                if not isinstance(part, Mapping):
                    continue
                part = cast("Mapping[str, Any]", part)
                text = part.get("text")
                characters += len(text) if isinstance(text, str) else 0
                images += part.get("type") == "image_url"
        else:
            characters += len(str(content or ""))
        characters += len(str(message.get("tool_calls") or ""))
    return characters // _CHARACTERS_PER_TOKEN + images * _PICTURE_TOKENS + _GROWTH


def _messages(context: LLMContext) -> list[dict[str, Any]]:
    messages = context.get_messages()
    return [cast("dict[str, Any]", m) for m in messages if not isinstance(m, LLMSpecificMessage)]
