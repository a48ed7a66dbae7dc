"""Texts to vectors: in batches that Mistral takes, some at once, in their order."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

from mistral_service.client.requests import Requests
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.trees import objects_of

Vector = list[float]
"""The numbers of one text: 1,024 for `mistral-embed`, the length of the whole is 1."""

MAX_INPUTS = 512
"""Texts of one request; with more Mistral answers 400, code 3210, "Too many inputs in request"."""

MAX_TOKENS = 16_384
"""Tokens of one request; with more it answers code 3210, "Too many tokens overall"."""

_TOO_LONG = "3210"
"""Mistral's code for a batch that has too many texts or tokens."""

_BYTES_A_TOKEN = 3
"""English has four or more, Chinese three; what has fewer is met when the refusal comes."""

_FLOAT = 1e300


async def vectors(
    requests: Requests, texts: Sequence[str], params: Mapping[str, Any], at_once: asyncio.Semaphore
) -> list[Vector]:
    """Make a vector of each text, in their order.

    Args:
        requests: Where they are asked for.
        texts: The texts.
        params: What else each request says.
        at_once: How many batches may be under way.

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
        return _vectors_of(reply, len(batch))

    tasks = [asyncio.create_task(embed(batch)) for batch in batches_of(list(texts))]
    try:
        found = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [vector for batch in found for vector in batch]


def batches_of(texts: Sequence[str]) -> list[Sequence[str]]:
    """Split texts into batches, in their order; a text that is too long is a batch of its own.

    The tokens are guessed from the bytes: Mistral alone knows them, and a batch that it finds too
    long is halved and asked again.
    """
    batches: list[Sequence[str]] = []
    begin = tokens = 0
    for place, text in enumerate(texts):
        costs = len(text.encode("utf-8", "replace")) // _BYTES_A_TOKEN + 1
        if place > begin and (tokens + costs > MAX_TOKENS or place - begin >= MAX_INPUTS):
            batches.append(texts[begin:place])
            begin, tokens = place, 0
        tokens += costs
    if begin < len(texts):
        batches.append(texts[begin:])
    return batches


def _vectors_of(reply: Mapping[str, Any], asked: int) -> list[Vector]:
    """A vector for each text that was asked, in that order, whatever the order of the answer."""
    found: dict[int, Vector] = {}
    for place, entry in enumerate(objects_of(reply.get("data"))):
        vector, index = entry.get("embedding"), entry.get("index", place)
        if isinstance(vector, list) and _is_vector(cast("list[object]", vector)):
            found[index if isinstance(index, int) else place] = cast("Vector", vector)
    if sorted(found) != list(range(asked)):
        raise MistralError(Reason.SERVER, f"it answered {asked} texts with {len(found)} vectors")
    return [found[place] for place in range(asked)]


def _is_vector(numbers: list[object]) -> bool:
    """Whether a list has numbers and nothing else; an integer that no float can hold is none."""
    kinds = set(map(type, numbers))
    if not kinds or not kinds <= {int, float}:
        return False
    return int not in kinds or all(abs(cast("float", each)) < _FLOAT for each in numbers)
