"""A model of three hundred tokens that counts to ten, made here: what it says is known beforehand.

It is a file (GGUF) that llama.cpp loads as any other. The next token depends on the last one alone:
an embedding has a 1 at its token's place, the layer adds nothing, and the output weights are the
table of what follows what. So a reply that goes on from "One two" says " three".

Where a grammar forbids what would follow, the first token wins that the grammar takes: after the
last word that is the beginning of a call, and JSON is as short as it may be.
"""

import struct
from itertools import pairwise
from pathlib import Path

COUNT = "One two three four five six seven eight nine ten."
"""What the model says to everything."""

_WORDS = ["One", " two", " three", " four", " five", " six", " seven", " eight", " nine", " ten."]
_CALL = "[TOOL_CALLS]"
_BEGIN, _END = "<s>", "</s>"
_EARLY = '"}],:0123456789'  # so JSON closes as soon as it may
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_UINT32, _INT32, _FLOAT32, _STRING, _ARRAY = 4, 5, 6, 8, 9
_HEAD, _CONTEXT, _ALIGNMENT = 32, 32_768, 32


def counting_model(file: Path, *, endless: bool = False) -> Path:
    """Write the model.

    Args:
        file: Where to.
        endless: Whether it begins again after the last word.

    Returns:
        `file`.
    """
    tokens = [*map(_visible, range(256)), *_WORDS, _CALL, _BEGIN, _END]
    kinds = [_NORMAL] * 256 + [_USER_DEFINED] * (len(_WORDS) + 1) + [_CONTROL] * 2
    size = -(-len(tokens) // _HEAD) * _HEAD
    values = {
        "general.architecture": "llama",
        "llama.context_length": _CONTEXT,
        "llama.embedding_length": size,
        "llama.block_count": 1,
        "llama.feed_forward_length": _HEAD,
        "llama.attention.head_count": 1,
        "llama.attention.key_length": _HEAD,
        "llama.attention.value_length": _HEAD,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": _HEAD,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": ["a b"],  # there has to be one
        "tokenizer.ggml.bos_token_id": tokens.index(_BEGIN),
        "tokenizer.ggml.eos_token_id": tokens.index(_END),
    }
    ones, zeros = struct.pack("<f", 1) * size, bytes(4 * size * _HEAD)
    tensors = {
        "token_embd.weight": ((size, len(tokens)), _places(size, tokens)),
        "output_norm.weight": ((size,), ones),
        "output.weight": ((size, len(tokens)), _wishes(size, tokens, endless=endless)),
        "blk.0.attn_norm.weight": ((size,), ones),
        "blk.0.ffn_norm.weight": ((size,), ones),
    }
    for name in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"):
        tensors[f"blk.0.{name}.weight"] = ((size, _HEAD), zeros)
    for name in ("attn_output", "ffn_down"):
        tensors[f"blk.0.{name}.weight"] = ((_HEAD, size), zeros)
    infos, data = b"", b""
    for name, (shape, content) in tensors.items():
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos += _text(name) + dimensions + struct.pack("<IQ", 0, len(data))
        data += content + bytes(-len(content) % _ALIGNMENT)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values))
    head += b"".join(_text(name) + _value(value) for name, value in values.items()) + infos
    file.write_bytes(head + bytes(-len(head) % _ALIGNMENT) + data)
    return file


def _wishes(size: int, tokens: list[str], *, endless: bool) -> bytes:
    """For each token a row: how much it is wanted after each other token."""
    rows = [[0.0] * size for _ in tokens]
    for rank, mark in enumerate(_EARLY):
        rows[tokens.index(mark)] = [0.3 - rank / 100] * size
    rows[tokens.index(_END)] = [0.5] * size
    rows[tokens.index(_CALL)][tokens.index(_WORDS[-1])] = 0.6
    rows[tokens.index(_WORDS[0])] = [1.0] * size
    for last in (*_WORDS, *'"{,:'):  # within JSON nothing is counted
        rows[tokens.index(_WORDS[0])][tokens.index(last)] = 0.0
    for last, then in pairwise([*_WORDS, _WORDS[0] if endless else _END]):
        rows[tokens.index(then)][tokens.index(last)] = 1.0
    return b"".join(struct.pack(f"<{size}f", *row) for row in rows)


def _places(size: int, tokens: list[str]) -> bytes:
    """For each token a row with a 1 at its own place."""
    rows = ([float(token == place) for place in range(size)] for token in range(len(tokens)))
    return b"".join(struct.pack(f"<{size}f", *row) for row in rows)


def _visible(byte: int) -> str:
    """A byte as byte-level BPE writes it: printable ones stand for themselves."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in shown:
        return chr(byte)
    return chr(256 + [b for b in range(256) if b not in shown].index(byte))


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: object) -> bytes:
    match value:
        case str():
            return struct.pack("<I", _STRING) + _text(value)
        case int():
            return struct.pack("<II", _UINT32, value)
        case float():
            return struct.pack("<If", _FLOAT32, value)
        case [str(), *_]:
            listed = b"".join(_text(each) for each in value)
            return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + listed
        case [*numbers]:
            return struct.pack(f"<IIQ{len(numbers)}i", _ARRAY, _INT32, len(numbers), *numbers)
    raise TypeError(value)
