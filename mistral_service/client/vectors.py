"""Texts to vectors: in batches that Mistral takes, some at once, in their order."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from mistral_service.client.answers import Vector, vectors_of
from mistral_service.client.batches import batches_of
from mistral_service.client.requests import Requests
from mistral_service.wire.errors import MistralError

_TOO_LONG = "3210"
"""Mistral's code for a batch that has too many texts or tokens."""


async def vectors(
    requests: Requests, texts: Sequence[str], params: Mapping[str, Any], at_once: asyncio.Semaphore
) -> list[Vector]:
    """Make vectors of texts.

    Args:
        requests: Where they are asked for.
        texts: The texts.
        params: What else each request says.
        at_once: How many batches may be under way.

    Returns:
        A vector for each text, in their order.

    Raises:
        MistralError: If one batch fails; the others are given up.
    """

    async def embed(batch: Sequence[str]) -> list[Vector]:
        try:
            async with at_once:
                reply = await requests.one("/embeddings", {**params, "input": batch})
        except MistralError as e:
            if e.code != _TOO_LONG or len(batch) < 2:
                raise
            half = len(batch) // 2
            return await embed(batch[:half]) + await embed(batch[half:])
        return vectors_of(reply, len(batch))

    tasks = [asyncio.create_task(embed(batch)) for batch in batches_of(list(texts))]
    try:
        found = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [vector for batch in found for vector in batch]
