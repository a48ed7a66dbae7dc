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
from mistral_service.wire.errors import MistralError

T = TypeVar("T")

_ROUTE = Route("")
"""The endpoint, whatever the model."""


class Requests:
    """Asks one address.

    Whether a fault leads to another attempt is decided where a call's turns decide it
    (`turn/retries.py`).
    """

    def __init__(self, client: AsyncOpenAI, limits: Limits, router: Router) -> None:
        """Prepare to ask.

        Args:
            client: The client whose connections, key and headers are used.
            limits: How long a request may take, and how often it is tried.
            router: Knows whether the endpoint has accepted the key before.
        """
        self.client = client
        self._limits = limits
        self._router = router

    async def one(self, path: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for one JSON object.

        Raises:
            MistralError: If there is none within the limits.
        """

        async def attempt(seconds: float) -> dict[str, Any]:
            connect = self._limits.connect
            async with asyncio.timeout(seconds):
                return await fetch_object(self.client, path, params, connect=connect)

        return await self.within_limits(attempt)

    async def within_limits(self, attempt: Callable[[float], Awaitable[T]]) -> T:
        """Make an attempt, and others after it where that is worth while.

        Args:
            attempt: The attempt; it is called with the seconds that it may take.

        Raises:
            MistralError: If none succeeds.
        """
        attempts = Attempts(self._limits, now())

        async def until_there_is_one() -> T:
            while True:
                try:
                    answer = await attempt(attempts.first_token_within(now()))
                except Exception as e:
                    error = self._understood(e)
                    again = attempts.after(error, now())
                    if again is None:
                        raise error from None
                    await asyncio.sleep(again.delay)
                else:
                    self._router.answered(_ROUTE)
                    return answer

        return await within(
            self._limits.whole, until_there_is_one(), "the whole reply did not come"
        )

    def _understood(self, exception: Exception) -> MistralError:
        """An exception as a `MistralError` without anything secret in it; others are raised."""
        error = error_of(exception, self.client)
        if error is None:
            raise exception
        return self._router.with_other_cause(_ROUTE, error)
