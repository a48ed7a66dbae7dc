"""Records as bytes: compressed, sealed (encrypted and signed), and bounded in size."""

import base64
import hashlib
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from loguru import logger

from mistral_service.scale.incremental_json import loads

KEY_VARIABLE = "MISTRAL_SERVICE_KEEP_KEY"
API_KEY_VARIABLE = "MISTRAL_API_KEY"

UNSEALED = "none"
"""The value of `MISTRAL_SERVICE_KEEP_KEY` with which calls are recorded unsealed."""

MAX_UNPACKED_BYTES = 12_000_000
"""Bytes of one field, unpacked: three times what the messages of a conversation may have."""

MAX_CONTAINERS = 1_000_000
"""Objects and lists of one field. An empty one takes 2 bytes as JSON, and 64 in memory."""


class Unreadable(ValueError):
    """A record that this process cannot read: another key, another form, or damage."""


class Codec:
    """Turns JSON into bytes and back: compressed, and sealed where there is a key.

    Example::

        Codec(["…a key of Fernet.generate_key()…"]).pack('{"words": "Hello."}')
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Make the codec; without a key nothing is encrypted.

        The first key encrypts, all of them decrypt, so that keys can be rotated.

        Raises:
            ValueError: If one is not a Fernet key.
        """
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys]) if keys else None
        except ValueError:
            # No error quotes a key.
            raise ValueError(
                f"{KEY_VARIABLE} is not valid: allowed are a key of Fernet.generate_key(), several "
                f"with commas between them, or {UNSEALED!r}."
            ) from None

    @property
    def is_sealed(self) -> bool:
        """Whether there is a key."""
        return self._fernet is not None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Codec":
        """Make the codec with the keys of the environment.

        `MISTRAL_SERVICE_KEEP_KEY`, or the file that `MISTRAL_SERVICE_KEEP_KEY_FILE` names, holds
        the keys. Without them the key is derived from `MISTRAL_API_KEY`, which all machines of an
        account have and Redis does not. The derived key decrypts in both cases.

        Args:
            environment: By default the process's own.

        Returns:
            The codec. It is unsealed only where `MISTRAL_SERVICE_KEEP_KEY` is `none`.

        Raises:
            ValueError: If a key is not valid, the file cannot be read, or there is no key.
        """
        environment = os.environ if environment is None else environment
        given = environment.get(KEY_VARIABLE, "")
        if path := environment.get(f"{KEY_VARIABLE}_FILE"):
            try:
                given = Path(path).read_text()
            except OSError as e:
                raise ValueError(f"{KEY_VARIABLE}_FILE cannot be read: {e.strerror}") from None
        if given.strip().lower() == UNSEALED:
            logger.warning(
                f"{KEY_VARIABLE} is {UNSEALED!r}: everyone who reaches Redis can read what callers "
                "say"
            )
            return cls()
        keys = [key for part in given.split(",") if (key := part.strip())]
        if api_key := environment.get(API_KEY_VARIABLE, "").strip():
            keys.append(derived_key(api_key))
        if not keys:
            raise ValueError(
                f"Calls are recorded sealed, and there is no key: set {API_KEY_VARIABLE}, from "
                f"which one is derived, or {KEY_VARIABLE} to a key of Fernet.generate_key() that "
                f"all machines share. {KEY_VARIABLE}={UNSEALED} records calls unsealed."
            )
        return cls(keys)

    def pack(self, text: str) -> bytes:
        """Compress and seal a JSON text."""
        packed = zlib.compress(text.encode(), 1)
        return self._fernet.encrypt(packed) if self._fernet else packed

    def unpack(self, data: bytes, most: int = MAX_UNPACKED_BYTES) -> Any:
        """Decode the value of packed bytes.

        Raises:
            Unreadable: If it was sealed with another key, is damaged, or has more than `most` bytes
                unpacked.
        """
        try:
            packed = self._fernet.decrypt(data) if self._fernet else data
            text = _decompress(packed, most).decode()
            if text.count("[") + text.count("{") > MAX_CONTAINERS:
                raise ValueError("too many containers")
            return loads(text)
        except (InvalidToken, zlib.error, ValueError, RecursionError):
            raise Unreadable(
                "The call's record cannot be read: it is damaged, or sealed with a key that "
                f"neither {KEY_VARIABLE} nor {API_KEY_VARIABLE} gives."
            ) from None


def derived_key(api_key: str) -> str:
    """A Fernet key derived from an API key with scrypt, which is slow to try out."""
    salt = b"pipecat-mistral-service: calls"
    raw = hashlib.scrypt(api_key.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32)
    return base64.urlsafe_b64encode(raw).decode()


def _decompress(packed: bytes, most: int) -> bytes:
    """Decompress at most that many bytes; raises `ValueError` for more, or incomplete data."""
    inflater = zlib.decompressobj()
    unpacked = inflater.decompress(packed, most + 1)
    if len(unpacked) > most:
        raise ValueError("larger than any record")
    if not inflater.eof:
        raise ValueError("cut off")
    if inflater.unused_data:
        raise ValueError("more than one value")
    return unpacked
