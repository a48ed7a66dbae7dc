"""The report of a client that calls again: what its caller has heard and asked, unverified."""

import unicodedata
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from mistral_service.scale.function_notes import MAX_NOTE
from mistral_service.scale.progress import MAX_SIGNED_WORDS, Sent, Words
from mistral_service.scale.resume import MAX_ASKED


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
