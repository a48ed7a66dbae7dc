"""Texts to batches that one request for vectors may have."""

from collections.abc import Sequence

MAX_INPUTS = 512
"""Texts of one request; with more Mistral answers 400, code 3210, "Too many inputs in request"."""

MAX_TOKENS = 16_384
"""Tokens of one request; with more it answers code 3210, "Too many tokens overall"."""

_BYTES_A_TOKEN = 3
"""English has four or more, Chinese three; what has fewer is met when the refusal comes."""


def batches_of(texts: Sequence[str]) -> list[Sequence[str]]:
    """Split texts into batches.

    The tokens are guessed from the bytes: Mistral alone knows them, and a batch that it finds too
    long is halved and asked again (`MistralClient.embed`).

    Args:
        texts: The texts.

    Returns:
        The batches, none empty; joined they are the texts in their order. A text that is too long
        by itself is a batch of its own.
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
