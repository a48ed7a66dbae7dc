"""What a caller was sent of a reply, signed: the caller repeats it, and the server believes that.

The journal in Redis may be late, so a caller may have heard words that it does not have. Only the
words of a valid proof count beyond it.
"""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

LONGEST = 100_000
"""Characters of a reply that are signed, and that a client may say it heard: some two hours."""

_PROOF_BYTES = 18


def _whole(value: Any) -> Any:
    return _bytes(value).decode() if isinstance(value, str) else value


Words = Annotated[str, BeforeValidator(_whole)]
"""Words of the server's that come back: half a surrogate pair is replaced as in the proof."""


class Sent(BaseModel):
    """What a client repeats of the server's messages about a reply.

    Parameters:
        turn: The turn whose reply it is.
        words: The `sent` of all messages of this turn, joined.
        proof: The `proof` of the last of them.
    """

    turn: int = Field(ge=0, le=1_000_000_000)
    words: Words = Field(max_length=LONGEST)
    proof: str = Field(max_length=64)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a client says when it calls again; what each part is worth is decided elsewhere.

    Parameters:
        heard: What the caller has heard of the last reply; None where that is not known.
        ended: Whether the caller has heard its end.
        asked: The caller's last words; empty where they are not known.
        sent: What the caller was sent of the reply, as the last machine signed it.
        note: What the last machine gave to the client to keep.
    """

    heard: str | None = None
    ended: bool = False
    asked: str = ""
    sent: Sent | None = None
    note: str | None = None


class Progress:
    """Signs the words of a call's replies as they are sent, each word once."""

    def __init__(self, key: str, call_id: str) -> None:
        """Begin.

        Args:
            key: The call's secret, which no client knows. Every machine that takes the call over
                needs the same.
            call_id: The call.
        """
        self._key = key
        self._call_id = call_id
        self._turn: int | None = None
        self._length = 0
        self._mac = _begin(key, call_id, 0)

    def of(self, turn: int, words: str) -> str | None:
        """The message that tells the client how far a reply was sent.

        Args:
            turn: The turn.
            words: The words that were sent of its reply. Within a turn they only grow.

        Returns:
            The message as JSON; None where nothing was sent since the last one, or the reply is too
            long to be signed.
        """
        if turn == self._turn and len(words) == self._length:
            return None
        if not words or len(words) > LONGEST:
            return None
        if turn != self._turn:
            self._turn, self._length = turn, 0
            self._mac = _begin(self._key, self._call_id, turn)
        piece, self._length = words[self._length :], len(words)
        self._mac.update(_bytes(piece))
        return json.dumps(
            {"type": "call", "turn": turn, "sent": piece, "proof": _text(self._mac.digest())}
        )


def proven(key: str, call_id: str, turn: int, sent: Sent | None) -> str:
    """Of what a client repeats, the words that were signed for a turn of this call.

    Args:
        key: The call's secret; nothing is proven with an empty one.
        call_id: The call.
        turn: The turn.
        sent: What the client repeats; None where it repeats nothing.

    Returns:
        The words; empty where there is no proof.
    """
    if sent is None or sent.turn != turn or not key:
        return ""
    mac = _begin(key, call_id, turn)
    mac.update(_bytes(sent.words))
    is_valid = hmac.compare_digest(_bytes(sent.proof), _bytes(_text(mac.digest())))
    return sent.words if is_valid else ""


def _begin(key: str, call_id: str, turn: int) -> hmac.HMAC:
    return hmac.new(key.encode(), f"{call_id}\n{turn}\n".encode(), hashlib.sha256)


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest[:_PROOF_BYTES]).decode()


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")  # half a surrogate pair has no bytes of its own
