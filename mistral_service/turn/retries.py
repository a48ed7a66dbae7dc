"""Whether to try again, when, and for how long: decided here, and nowhere else.

A state machine without clocks or sockets: the time is handed in. On a phone, three seconds of
nothing is a failure; so a turn has a budget, and every attempt and every pause between attempts
has to fit into what is left of it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from mistral_service.wire.errors import MistralError, Reason

_FIRST_PAUSE = 0.1
"""Seconds before the second attempt where the server does not say; doubled for each further one."""

_WORTH_TRYING = 0.5
"""Seconds that must be left for an attempt to be worth its request."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a turn may take, in seconds, and how often it is tried.

    Parameters:
        connect: To a connection, TLS included. Half a second is slow; two leave room for one lost
            packet, which is sent again after one.
        first_token: From the request to the first output of an attempt, thinking included.
            Mistral's models begin within one; four leave room for a slow second.
        stall: From one output to the next. A stream that pauses so long has died.
        turn: From the beginning of the turn, or from the end of the last sentence that the voice
            got, to the last moment at which an attempt may still be waited for: then the turn
            ends in an error. A reply that keeps coming may take as long as it likes.
        thinking: The same, where the model thinks, or writes a call, all the while.
        attempts: Requests that a turn may cost, hedges included.
        whole: For all of what a method of `MistralClient` asks, its attempts together, also where
            the reply keeps coming; of a stream, only the time that its reader waits for it.
    """

    connect: float = 2.0
    first_token: float = 4.0
    stall: float = 3.0
    turn: float = 9.0
    thinking: float = 30.0
    attempts: int = 3
    whole: float = 600.0


@dataclass(frozen=True, slots=True)
class Handled:
    """What was done about a fault, for those who count.

    Parameters:
        done: `retried`: the same was asked again. `resumed`: the sentence that was cut goes on.
            `moved`: another model, or endpoint, was asked, going on where there was a sentence.
            `outrun`: a hedge of the one that failed was already under way.
        attempt: The number of the request that this leads to, 2 for the first after a fault.
        delay: Seconds of the pause before it.
        model: The model that it asks.
    """

    done: Literal["retried", "resumed", "moved", "outrun"]
    attempt: int
    delay: float
    model: str


@dataclass
class Attempts:
    """The attempts of one turn.

    Parameters:
        limits: How long, how often.
        began: When the turn began, on the clock of `now` everywhere below.
        jitter: A random number from 0 to 1.
        made: Requests sent so far, the one under way included.
        hedges: Those of them that hedged another.
    """

    limits: Limits
    began: float
    jitter: Callable[[], float] = random.random
    made: int = 1
    hedges: int = 0
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self._until = self.began + self.limits.turn

    def first_token_within(self, now: float, *, others: bool = False) -> float:
        """Seconds that the attempt which begins now may take to its first output.

        The first is given up for another, and so is one after which there are `others` to ask. The
        last may use all that is left, so that a model which is always slow still answers.
        """
        if self.made == 1:
            return self.limits.first_token
        left = self._until - now
        another = others and self.made < self.limits.attempts
        return min(left, self.limits.first_token) if another else left

    def hedge(self) -> bool:
        """Decide about a hedge of the request that is under way: one in a turn."""
        if self.hedges or self.made >= self.limits.attempts:
            return False
        self.made += 1
        self.hedges += 1
        return True

    def again(self, now: float) -> bool:
        """Decide about another request after a reply that brought nothing."""
        if self.made >= self.limits.attempts or now + _WORTH_TRYING > self._until:
            return False
        self.made += 1
        return True

    def after(
        self,
        error: MistralError,
        now: float,
        *,
        silent_since: float | None = None,
        moved: bool = False,
    ) -> float | None:
        """Decide about another attempt after a fault that has just happened.

        Args:
            error: The fault.
            now: The time.
            silent_since: Since when the caller hears nothing, where sentences were said; None
                where the caller waits since the turn began.
            moved: Whether another model or endpoint would be asked, which needs no pause and may
                take what this one has refused.

        Returns:
            Seconds to wait before it; None to give up and report the error.
        """
        if silent_since is not None:
            self._until = max(self._until, silent_since + self.limits.turn)
        if self.made >= self.limits.attempts or not (moved or error.retryable):
            return None
        delay = 0.0 if moved else self._pause(error)
        if now + delay + _WORTH_TRYING > self._until:
            return None
        self.made += 1
        return delay

    def _pause(self, error: MistralError) -> float:
        if error.retry_after is not None:
            return error.retry_after
        if error.reason is Reason.TIMEOUT:
            return 0.0  # a stream that timed out has cost enough already
        earlier = self.made - self.hedges - 1
        return _FIRST_PAUSE * 2**earlier * (0.5 + self.jitter())
