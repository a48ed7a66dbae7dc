"""Every history becomes a request that a real vLLM accepts."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import hypothesis
import openai
import pytest
from histories import Message, histories
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.services.mistral.llm import MistralLLMService as PipecatsOwn
from real_vllm import KEY, MODEL, Vllm

from mistral_service import MistralClient, MistralError, Reason
from mistral_service.turn.retries import Limits

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

COUNT, BESIDE_PIPECAT = 500, 150
AT_ONCE = 8
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def drawn(count: int) -> list[list[Message]]:
    """The same histories on every day: texts, images, calls, results, roles in any order."""
    found: list[list[Message]] = []

    @hypothesis.seed(18)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(histories)
    def draw(history: list[Message]) -> None:
        found.append(history)

    draw()
    assert len(found) == count
    return found


async def refusals(
    ask: Callable[[int, list[Message]], Awaitable[str | None]], asked: Sequence[list[Message]]
) -> list[str]:
    """Ask for each, some at a time; what those say that are refused."""
    at_once = asyncio.Semaphore(AT_ONCE)

    async def one(index: int, history: list[Message]) -> str | None:
        async with at_once:
            return await ask(index, history)

    said = await asyncio.gather(*[one(index, history) for index, history in enumerate(asked)])
    return [each for each in said if each is not None]


async def test_every_history_is_accepted(vllm: Vllm, figures: list[str]):
    limits = Limits(first_token=120.0, stall=120.0, turn=300.0, attempts=1)
    async with MistralClient(api_key=KEY, base_url=vllm.base_url, limits=limits) as client:
        await client.models()  # as a service does when its pipeline starts

        async def ask(index: int, history: list[Message]) -> str | None:
            offered: Any = {"tools": TOOLS} if index % 2 else {}
            try:
                await client.chat(history, model=MODEL, max_tokens=1, **offered)
            except MistralError as e:
                # It was accepted: the one token of noise was an end, or no text.
                return None if e.reason is Reason.EMPTY else f"{e.status_code}: {e}"
            return None

        before = vllm.refused()
        said = await refusals(ask, drawn(COUNT))
    figures.append(f"Histories accepted, ours: {COUNT - len(said)} of {COUNT}.")
    assert said == []
    assert vllm.refused() == before  # none needed a second request either


async def test_pipecats_own_beside_it(vllm: Vllm, figures: list[str]):
    """Not judged: what the same server says to requests of Pipecat's own service."""
    theirs = PipecatsOwn(
        api_key=KEY, base_url=vllm.base_url, settings=PipecatsOwn.Settings(model=MODEL)
    )

    async def ask(_index: int, history: list[Message]) -> str | None:
        context = LLMContext(messages=[dict(message) for message in history])
        try:
            await theirs.run_inference(context, max_tokens=1)
        except openai.APIStatusError as e:
            words = str(e.body["message"] if isinstance(e.body, dict) else e.body)
            return f"{e.status_code}: " + re.sub(r"^\d+ (validation errors).*", r"\1", words)
        except Exception as e:
            return f"no request at all: {type(e).__name__}: {e}"
        return None

    said = await refusals(ask, drawn(BESIDE_PIPECAT))
    await theirs.cleanup()
    accepted = BESIDE_PIPECAT - len(said)
    figures.append(f"Histories accepted, Pipecat's own: {accepted} of {BESIDE_PIPECAT}.")
    reasons = Counter(each.partition("\n")[0] for each in said)
    figures += [f"  {count} × {words}" for words, count in reasons.most_common()]
