"""What a caller's client was sent of a reply, and its report when it calls again.

The report is unverified. The journal in Redis may be late, so a caller may have heard words that it
lacks: the words are signed as they are sent, the client sends them back as a proof, and beyond the
journal only words with a valid proof count.
"""

import base64
import hashlib
import hmac
import json
import unicodedata
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from mistral_service.scale.function_notes import MAX_NOTE
from mistral_service.scale.resume import MAX_ASKED

MAX_SIGNED_WORDS = 100_000
"""Characters of a reply that are signed, and of a client's `heard`: some two hours."""

_PROOF_BYTES = 18


def _encodable(value: Any) -> Any:
    return _bytes(value).decode() if isinstance(value, str) else value


Words = Annotated[str, BeforeValidator(_encodable)]
"""The server's words as a client repeats them: a lone surrogate is replaced as in the proof."""


class Sent(BaseModel):
    """The server's messages about a reply, as the client repeats them.

    Parameters:
        turn: The turn of the reply.
        words: The `sent` of all messages of this turn, joined.
        proof: The `proof` of the last of them.
    """

    turn: int = Field(ge=0, le=1_000_000_000)
    words: Words = Field(max_length=MAX_SIGNED_WORDS)
    proof: str = Field(max_length=64)


def _without_control_characters(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return "".join(c for c in value if c.isspace() or unicodedata.category(c) not in ("Cc", "Cs"))


class ClientReport(BaseModel):
    """A client's report; the protocol is in `docs/calls.md`.

    Parameters:
        heard: The words of the last reply that the caller has heard; None where not known. Words
            beyond the record count where `sent` proves them.
        ended: Whether the caller has heard its end.
        asked: The caller's last words; None where not known.
        sent: The words that the client was sent, as `CallRecorder.progress` signed them.
        note: The note that the client stores; None if there is none.
    """

    heard: Words | None = Field(default=None, max_length=MAX_SIGNED_WORDS)
    ended: bool = False
    asked: Annotated[str | None, BeforeValidator(_without_control_characters)] = Field(
        default=None, max_length=MAX_ASKED
    )
    sent: Sent | None = None
    note: str | None = Field(default=None, max_length=MAX_NOTE)


NO_REPORT = ClientReport()
"""The report of a client that calls for the first time, or reports nothing."""


class Progress:
    """Signs the words of a call's replies as they are sent, each word once."""

    def __init__(self, key: str, call_id: str) -> None:
        """Make it; `key` is the call's secret, which no client knows and all machines share."""
        self._key = key
        self._call_id = call_id
        self._turn: int | None = None
        self._length = 0
        self._mac = _new_mac(key, call_id, 0)

    def message(self, turn: int, words: str) -> str | None:
        """The message to the client with the new words of a turn's reply and their proof.

        `words` are all that were sent: within a turn they only grow. None where there are no new
        ones, or too many to be signed.
        """
        if turn == self._turn and len(words) == self._length:
            return None
        if not words or len(words) > MAX_SIGNED_WORDS:
            return None
        if turn != self._turn:
            self._turn, self._length = turn, 0
            self._mac = _new_mac(self._key, self._call_id, turn)
        piece, self._length = words[self._length :], len(words)
        self._mac.update(_bytes(piece))
        return json.dumps(
            {"type": "call", "turn": turn, "sent": piece, "proof": _text(self._mac.digest())}
        )


def verified_words(key: str, call_id: str, turn: int, sent: Sent | None) -> str:
    """The words that a client repeats, if they were signed for a turn of this call, else none.

    An empty `key` proves nothing.
    """
    if sent is None or sent.turn != turn or not key:
        return ""
    mac = _new_mac(key, call_id, turn)
    mac.update(_bytes(sent.words))
    is_valid = hmac.compare_digest(_bytes(sent.proof), _bytes(_text(mac.digest())))
    return sent.words if is_valid else ""


def _new_mac(key: str, call_id: str, turn: int) -> hmac.HMAC:
    return hmac.new(key.encode(), f"{call_id}\n{turn}\n".encode(), hashlib.sha256)


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest[:_PROOF_BYTES]).decode()


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")  # a lone surrogate cannot be encoded
