"""What went wrong between us and Mistral: one error type, parsed once from any form it takes.

`error_body.py` reads the body, `reasons.py` says what its signs mean. Everything after this module
sees a `MistralError` with a `Reason`.
"""

import math
import re
from collections.abc import Mapping

from mistral_service.wire.error_body import ErrorBody
from mistral_service.wire.rate import RateBudget, retry_after
from mistral_service.wire.reasons import Reason, reason_of
from mistral_service.wire.secrets import Strike, secrets_in

# What each reason means to the developer who reads the log at night.
_ADVICE: dict[Reason, str] = {
    Reason.KEY: "Mistral did not accept the API key, so check MISTRAL_API_KEY",
    Reason.FORBIDDEN: "Mistral does not allow this with the key given",
    Reason.BLOCKED: "Mistral's guardrail blocked the content",
    Reason.UNKNOWN_MODEL: "Mistral does not know the model: check Settings(model=…)",
    Reason.HISTORY: "Mistral refused the history",
    Reason.REQUEST: "Mistral refused the request",
    Reason.TOO_LARGE: "The request is too long for the model",
    Reason.RATE_LIMIT: "Mistral's rate limit is reached",
    Reason.QUOTA: "The Mistral account has no credit left",
    Reason.CAPACITY: "The model is at capacity",
    Reason.SERVER: "Mistral's server failed",
    Reason.UNREACHABLE: "Mistral cannot be reached: check the network and base_url",
    Reason.TIMEOUT: "Mistral did not answer in time",
    Reason.STREAM: "Mistral's reply broke off with an error",
    Reason.EMPTY: "Mistral replied with no words and no call",
    Reason.CALL: "The model's function call leads nowhere",
    Reason.FORM: "The reply has not the form that was asked for",
}

# What servers say of a path that they do not have; of a model they say more.
_NO_PATH = re.compile(r"no route matched|not found\W*$|404 page not found", re.IGNORECASE)
_WRONG_ADDRESS = "There is no such address: check base_url, which ends in /v1 at Mistral"

_CUT_OFF = "…"

MAX_NAME = 200
"""Characters of a code, a type or an id that an error keeps."""

_MAX_READ = 64 * 1024

# Statuses under which gateways hide others.
_VAGUE = (500, 502)

MAX_SHOWN = 300
"""Characters of the server's own words that an error quotes."""


class MistralError(Exception):
    """A request to Mistral failed.

    Attributes:
        reason: Why, in terms of what to do about it.
        detail: The server's (or the network's) own words, at most `MAX_SHOWN` characters.
        status_code: The HTTP status, of the answer or told in its stream; None where there is none.
        code: The error code, as text: `"3230"`.
        type: The error type: `"invalid_request_message_order"`.
        retry_after: Seconds after which the server asks to come back; None if it does not say.
        correlation_id: What Mistral's support asks for, from `mistral-correlation-id`.
        budget: What the answer told of the account's rate budget; None if nothing.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        status_code: int | None = None,
        code: str | None = None,
        type: str | None = None,
        retry_after: float | None = None,
        correlation_id: str | None = None,
        budget: RateBudget | None = None,
    ) -> None:
        self.reason = reason
        self.detail = printable(detail, MAX_SHOWN)
        self.status_code = status_code
        self.code = code and printable(code, MAX_NAME)
        self.type = type and printable(type, MAX_NAME)
        self.retry_after = retry_after
        self.correlation_id = correlation_id and printable(correlation_id, MAX_NAME)
        self.budget = budget
        super().__init__(self._sentence())

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed a moment later."""
        return self.reason.retryable

    def without(self, key: str) -> "MistralError":
        """The same error, with the API key struck out of the server's words.

        Args:
            key: The key; one of less than eight characters is no secret but a stand-in.
        """
        return self.but_for(Strike(secrets_in(key)))

    def but_for(self, strike: Strike) -> "MistralError":
        """The same error, with secrets struck out of the server's words.

        Args:
            strike: What strikes them out.
        """

        def struck(text: str | None) -> str | None:
            return text and strike(text)

        return MistralError(
            self.reason,
            strike(self.detail),
            status_code=self.status_code,
            code=struck(self.code),
            type=struck(self.type),
            retry_after=self.retry_after,
            correlation_id=struck(self.correlation_id),
            budget=self.budget,
        )

    def but(self, *, detail: str) -> "MistralError":
        """The same error, told in other words.

        Args:
            detail: The words that take the place of the server's.
        """
        return MistralError(
            self.reason,
            detail,
            status_code=self.status_code,
            code=self.code,
            type=self.type,
            retry_after=self.retry_after,
            correlation_id=self.correlation_id,
            budget=self.budget,
        )

    def with_key_accepted_before(self) -> "MistralError":
        """The same error; a refusal of a key that was good names what else it may mean."""
        if self.reason is not Reason.KEY:
            return self
        cause = (
            "the same key was accepted before, so the budget of its workspace, or at a gateway, "
            "may be spent, or the key was revoked"
        )
        return self.but(detail="; the server says: ".join(filter(None, (cause, self.detail))))

    @classmethod
    def from_response(
        cls, status_code: int, body: object, headers: Mapping[str, str] | None = None
    ) -> "MistralError":
        """Read the answer to a refused request.

        Args:
            status_code: The HTTP status, 400 or above.
            body: The body: bytes, text, or what JSON made of it.
            headers: The answer's headers; names in lower case, or a case-blind mapping.

        Returns:
            The error.
        """
        headers = headers or {}
        said = ErrorBody.read(body, headers)
        # What the body tells is nearer to the cause than what a gateway answers with.
        status = said.status or (status_code in _VAGUE and said.said_status()) or status_code
        seconds = retry_after(headers)
        return cls(
            reason_of(said.names, "\n".join(said.words), status),
            said.message,
            status_code=status_code,
            code=said.code,
            type=said.type,
            retry_after=said.retry_after if seconds is None else seconds,
            budget=RateBudget.from_headers(headers),
            correlation_id=headers.get("mistral-correlation-id") or said.request_id,
        )

    @classmethod
    def from_stream(cls, payload: object) -> "MistralError":
        """Read what stood in a stream where a chunk should be.

        Args:
            payload: The error object, or the text that is no JSON.

        Returns:
            The error. A status that stands in it counts as that of an answer does; where it shows
            nothing that is known, its reason is `STREAM`.
        """
        said = ErrorBody.read(payload)
        status = said.status or said.said_status()
        names = said.names if status is not None else said.names | said.said_names()
        return cls(
            reason_of(names, "\n".join(said.words), status),
            said.message,
            status_code=status,
            code=said.code,
            type=said.type,
            retry_after=said.retry_after,
            correlation_id=said.request_id,
        )

    def _sentence(self) -> str:
        marks = [str(m) for m in (self.status_code, self.code) if m is not None]
        no_path = self.reason is Reason.UNKNOWN_MODEL and _NO_PATH.match(self.detail)
        advice = _WRONG_ADDRESS if no_path else _ADVICE[self.reason]
        advice += f" ({', '.join(dict.fromkeys(marks))})" if marks else ""
        when = f" Try again in {_time(self.retry_after)}." if self.retry_after else ""
        sentence = f"{advice}: {self.detail}" if self.detail else advice
        ends = (not when and self.detail) or sentence.endswith((".", "!", "?", _CUT_OFF))
        return sentence + ("" if ends else ".") + when


class HeldBack(MistralError):
    """A request was not sent, since the account's minute is used up: our word, not Mistral's."""

    def __init__(self, retry_after: float) -> None:
        """Make the error.

        Args:
            retry_after: Seconds until there is room.
        """
        super().__init__(
            Reason.RATE_LIMIT,
            "held back before it was sent, since the account's minute is used up",
            retry_after=retry_after,
        )

    def but_for(self, strike: Strike) -> MistralError:
        """The same error: its words are ours.

        Args:
            strike: What strikes secrets out.
        """
        return self


def _time(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:,.0f} hours"
    # Rounded up: who comes a moment too early is refused once more.
    return f"{math.ceil(seconds)} s" if seconds >= 10 else f"{math.ceil(seconds * 10) / 10:g} s"


def printable(text: str, most: int) -> str:
    """A server's words in one line, and without what would move the cursor of a terminal.

    Args:
        text: The words.
        most: Characters that are kept; what is longer ends in "…".
    """
    text = " ".join(text[:_MAX_READ].split())
    if not text.isprintable():
        text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return text if len(text) <= most else text[: most - 1] + _CUT_OFF
