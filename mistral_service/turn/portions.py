"""What comes in one read, however much it is, in portions that take some milliseconds each."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace

from mistral_service.wire.chunks import Chunk, Part

PORTION = 8_000
"""Characters of a portion, about. A token has four, and a read of a plain stream some hundred."""

# What a chunk counts in addition to its characters, and a part or a call.
_CHUNK, _EACH = 4, 20


async def in_portions(reads: AsyncGenerator[list[Chunk]]) -> AsyncGenerator[list[Chunk]]:
    """Hand on the chunks of each read, and let others work between the portions of a large one.

    A long chunk becomes several that say the same.
    """
    async with aclosing(reads):
        async for chunks in reads:
            if sum(map(_size, chunks)) <= PORTION:
                yield chunks
                continue
            for portion in portions(chunks):
                yield portion
                await asyncio.sleep(0)


def portions(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Divide chunks into portions.

    Words, parts and calls stand in them in the order in which a reader takes those of one chunk.
    """
    portion: list[Chunk] = []
    left = PORTION
    for chunk in chunks:
        for piece in _pieces(chunk):
            portion.append(piece)
            left -= _size(piece)
            if left <= 0:
                yield portion
                portion, left = [], PORTION
    if portion:
        yield portion


def _pieces(chunk: Chunk) -> Iterator[Chunk]:
    if _size(chunk) <= PORTION:
        yield chunk
        return
    first, *thoughts = _slices(chunk.thought)
    # Where it belongs is said once: the pieces behind go on there.
    yield Chunk(chunk.model, thought=first, hidden_thought=chunk.hidden_thought, place=chunk.place)
    yield from (Chunk(thought=thought) for thought in thoughts)
    yield from (Chunk(text=text) for text in _slices(chunk.text) if text)
    yield from (Chunk(parts=(piece,)) for part in chunk.parts for piece in _pieces_of(part))
    yield from (Chunk(tool_calls=(call,)) for call in chunk.tool_calls)
    yield replace(chunk, text="", parts=(), thought="", hidden_thought=False, tool_calls=())


def _pieces_of(part: Part) -> Iterator[Part]:
    text = part.get("text")
    if isinstance(text, str) and len(text) > PORTION:
        yield from ({**part, "text": each} for each in _slices(text))
    else:
        yield part


def _slices(text: str) -> Sequence[str]:
    return [text[at : at + PORTION] for at in range(0, len(text), PORTION)] or [""]


def _size(chunk: Chunk) -> int:
    size = _CHUNK + len(chunk.text) + len(chunk.thought)
    for part in chunk.parts:
        text = part.get("text")
        size += _EACH + (len(text) if isinstance(text, str) else 0)
    for call in chunk.tool_calls:
        size += _EACH + len(call.arguments)
    return size
