"""A question outside of the conversation, answered whole."""

import asyncio
from typing import Any

from pipecat.processors.aggregators.llm_context import LLMContext

from mistral_service.pipecat.conversation import ContextConversation
from mistral_service.pipecat.requests import RequestBuilder
from mistral_service.reply.events import Text
from mistral_service.reply.reader import ReplyReader
from mistral_service.turn.admission import Admission
from mistral_service.turn.deadline import now, within
from mistral_service.turn.retries import Attempts, Limits
from mistral_service.turn.router import Router
from mistral_service.wire.client import WHOLE_REPLY_S, error_of, fetch_reply


class Inference:
    """Asks once, and waits for the whole reply; a fault is met with another attempt."""

    def __init__(
        self, requests: RequestBuilder, router: Router, admission: Admission | None
    ) -> None:
        self._requests = requests
        self._router = router
        self._admission = admission

    async def run(
        self,
        context: LLMContext,
        limits: Limits,
        *,
        seconds: float | None = None,
        max_tokens: int | None = None,
        schema: dict[str, Any] | None = None,
        system_instruction: str | None = None,
    ) -> str | None:
        """Ask, as `MistralLLMService.run_inference` does.

        Args:
            context: What to ask; left as it is.
            limits: How long an attempt may take, and how many there are.
            seconds: For all of it; by default `WHOLE_REPLY_S`.
            max_tokens: By default the settings' limit.
            schema: A JSON schema that the reply follows.
            system_instruction: Takes the place of the settings' instruction.
        """
        overrides: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}
        if schema is not None:
            named = {"name": "response", "schema": schema, "strict": True}
            overrides["response_format"] = {"type": "json_schema", "json_schema": named}
        asked = self._ask(context, limits, overrides, system_instruction)
        seconds = WHOLE_REPLY_S if seconds is None else seconds
        return await within(seconds, asked, "the whole reply did not come")

    async def _ask(
        self,
        context: LLMContext,
        limits: Limits,
        overrides: dict[str, Any],
        system_instruction: str | None,
    ) -> str | None:
        conversation = ContextConversation(context)
        attempts, needs = Attempts(limits, now()), conversation.needs
        while True:
            route = self._router.choose(needs)
            params = await self._requests.build(context, system_instruction)
            client = self._router.clients.open(route.endpoint)
            admission, estimate = self._admission, None
            try:
                if admission is not None:
                    estimate = admission.estimate(client, route.model, conversation, aside=True)
                    await admission.acquire(estimate)
                chunk = await fetch_reply(
                    client, {**params, **overrides}, connect=attempts.limits.connect
                )
            except Exception as e:
                error = error_of(e, client)
                if error is None:
                    raise
                if admission is not None and estimate is not None:
                    admission.record_failure(estimate, error)
                _, moved = self._router.failed(route, error, needs)
                delay = attempts.after(error, now(), moved=moved)
                if delay is None:
                    raise self._router.final_error(route, error) from None
                await asyncio.sleep(delay)
                continue
            finally:
                if client is not self._router.client(route):
                    await client.close()
            self._router.answered(route)
            if admission is not None and estimate is not None and chunk.usage is not None:
                admission.rate_limiter.record_usage(estimate, chunk.usage.total_tokens)
            conversion = self._requests.conversion
            reader = ReplyReader(conversion.offered)
            events = [*reader.feed(chunk), *reader.finish()]
            words = "".join(event.text for event in events if isinstance(event, Text))
            return words.removeprefix(conversion.prefix) or None
