"""How what is kept becomes bytes and back: compressed, sealed, and bounded both ways."""

import base64
import hashlib
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from loguru import logger

from mistral_service.scale.incremental_json import parse

KEY_VARIABLE = "MISTRAL_SERVICE_KEEP_KEY"
API_KEY_VARIABLE = "MISTRAL_API_KEY"

OPEN = "none"
"""The value of `MISTRAL_SERVICE_KEEP_KEY` with which calls are kept unsealed."""

UNPACKED_MOST = 12_000_000
"""Bytes of one field, unpacked: three times what the messages of a conversation may have."""

CONTAINERS_MOST = 1_000_000
"""Objects and lists of one field. An empty one takes 2 bytes as JSON, and 64 in memory."""

_STEP = 64_000


class Unreadable(ValueError):
    """What was kept cannot be read here: another key, another form, or damage."""


class Form:
    """How what is kept becomes bytes and back: JSON, compressed, and sealed where there is a key.

    Example::

        Form(["…a key of Fernet.generate_key()…"]).pack('{"words": "Hello."}')
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Make the form.

        Args:
            keys: Fernet keys. The first seals, all of them open, so that keys can be changed.
                Without one nothing is sealed.

        Raises:
            ValueError: If one is no Fernet key.
        """
        try:
            self._seal = MultiFernet([Fernet(key) for key in keys]) if keys else None
        except ValueError:
            # No error quotes a key.
            raise ValueError(
                f"{KEY_VARIABLE} may not be what it is: it is one key of Fernet.generate_key(), or "
                f"several with commas between them, or {OPEN!r}."
            ) from None

    @property
    def sealed(self) -> bool:
        """Whether there is a key."""
        return self._seal is not None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Form":
        """Make the form with the keys that the environment has.

        `MISTRAL_SERVICE_KEEP_KEY`, or the file that `MISTRAL_SERVICE_KEEP_KEY_FILE` names, holds
        the keys. Without them the key is made of `MISTRAL_API_KEY`, which all machines of an
        account have and Redis has not. What was sealed with that one opens in both cases.

        Args:
            environment: By default the process's own.

        Returns:
            The form; one that seals nothing only where `MISTRAL_SERVICE_KEEP_KEY` is `none`.

        Raises:
            ValueError: If a key is none, the file cannot be read, or there is no key at all.
        """
        environment = os.environ if environment is None else environment
        given = environment.get(KEY_VARIABLE, "")
        if path := environment.get(f"{KEY_VARIABLE}_FILE"):
            try:
                given = Path(path).read_text()
            except OSError as e:
                raise ValueError(f"{KEY_VARIABLE}_FILE cannot be read: {e.strerror}") from None
        if given.strip().lower() == OPEN:
            logger.warning(
                f"{KEY_VARIABLE} is {OPEN!r}: what callers say lies in Redis unsealed, and all who "
                "reach it can read it"
            )
            return cls()
        keys = [key for part in given.split(",") if (key := part.strip())]
        if api_key := environment.get(API_KEY_VARIABLE, "").strip():
            keys.append(key_from(api_key))
        if not keys:
            raise ValueError(
                f"Calls are kept sealed, and there is no key: set {API_KEY_VARIABLE}, of which one "
                f"is made, or {KEY_VARIABLE} to a key of Fernet.generate_key() that all machines "
                f"share. {KEY_VARIABLE}={OPEN} keeps calls unsealed."
            )
        return cls(keys)

    def pack(self, text: str | Iterable[str]) -> bytes:
        """Make bytes of a JSON text, or of its pieces."""
        compressor = zlib.compressobj(1)
        parts = [text] if isinstance(text, str) else text
        packed = b"".join([*(compressor.compress(p.encode()) for p in parts), compressor.flush()])
        return self._seal.encrypt(packed) if self._seal else packed

    def unpack(self, data: bytes, most: int = UNPACKED_MOST) -> Any:
        """Make bytes what they were.

        Args:
            data: What `pack` made.
            most: Bytes that there may be, unpacked.

        Raises:
            Unreadable: If they were sealed with another key, are damaged, or are more than that.
        """
        try:
            packed = self._seal.decrypt(data) if self._seal else data
            text = _inflated(packed, most).decode()
            if text.count("[") + text.count("{") > CONTAINERS_MOST:
                raise ValueError("too many containers")
            return parse(text)
        except (InvalidToken, zlib.error, ValueError, RecursionError):
            raise Unreadable(
                "What was kept of the call cannot be read: it is damaged, or sealed with a key "
                f"that neither {KEY_VARIABLE} nor {API_KEY_VARIABLE} gives."
            ) from None


def key_from(api_key: str) -> str:
    """A Fernet key made of an API key: slow to try out, and nothing of the API key shows in it."""
    salt = b"pipecat-mistral-service: calls"
    raw = hashlib.scrypt(api_key.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32)
    return base64.urlsafe_b64encode(raw).decode()


def _inflated(packed: bytes, most: int) -> bytes:
    """What was compressed, no more of it than there may be.

    Raises:
        ValueError: If there is more, or less than it says.
    """
    inflater = zlib.decompressobj()
    out: list[bytes] = []
    size, rest = 0, packed
    while not inflater.eof:
        out.append(inflater.decompress(rest, _STEP))
        size += len(out[-1])
        rest = inflater.unconsumed_tail
        if size > most:
            raise ValueError("larger than anything that is kept")
        if not out[-1] and not rest and not inflater.eof:
            raise ValueError("cut off")
    if inflater.unused_data:
        raise ValueError("more than one value")
    return b"".join(out)
