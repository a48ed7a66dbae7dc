"""Requests for one JSON object, tried again within the time that their caller has."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from openai import AsyncOpenAI

from mistral_service.turn.deadline import now, within
from mistral_service.turn.retries import Attempts, Limits
from mistral_service.turn.router import Router
from mistral_service.turn.routes import Route
from mistral_service.wire.client import error_of, fetch_object

T = TypeVar("T")

_ROUTE = Route("")
"""The endpoint, whatever the model."""


class Requests:
    """Asks one address; `turn/retries.py` decides whether a fault leads to another attempt.

    The router knows whether the endpoint has accepted the key before.
    """

    def __init__(self, client: AsyncOpenAI, limits: Limits, router: Router) -> None:
        self.client = client
        self._limits = limits
        self._router = router

    async def one(self, path: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for one JSON object; a `MistralError` if there is none within the limits."""

        async def attempt(seconds: float) -> dict[str, Any]:
            connect = self._limits.connect
            async with asyncio.timeout(seconds):
                return await fetch_object(self.client, path, params, connect=connect)

        return await self.within_limits(attempt)

    async def within_limits(self, attempt: Callable[[float], Awaitable[T]]) -> T:
        """Make an attempt, and others after it where that is worth while.

        Args:
            attempt: The attempt; it is called with the seconds that it may take.
        """
        attempts = Attempts(self._limits, now())

        async def until_there_is_one() -> T:
            while True:
                try:
                    answer = await attempt(attempts.first_token_within(now()))
                except Exception as e:
                    error = error_of(e, self.client)
                    if error is None:
                        raise
                    error = self._router.with_other_cause(_ROUTE, error)
                    delay = attempts.after(error, now())
                    if delay is None:
                        raise error from None
                    await asyncio.sleep(delay)
                else:
                    self._router.answered(_ROUTE)
                    return answer

        return await within(
            self._limits.whole, until_there_is_one(), "the whole reply did not come"
        )
