"""The one error type of requests to Mistral, parsed from any form of an error.

`error_body.py` parses the body, `reasons.py` classifies it. All other modules only see a
`MistralError` with a `Reason`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from mistral_service.wire.error_body import ErrorBody
from mistral_service.wire.rate import RateBudget, retry_after
from mistral_service.wire.reasons import Reason, reason_of
from mistral_service.wire.secrets import Redactor, secrets_in

# How the message begins, by reason: what happened, and what to check.
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
    Reason.EMPTY: "Mistral's reply has no text and no function call",
    Reason.CALL: "The model's function calls cannot be completed",
    Reason.FORM: "The reply does not have the requested form",
}

# The words of servers for an unknown path; for an unknown model they have more.
_NO_PATH = re.compile(r"no route matched|not found\W*$|404 page not found", re.IGNORECASE)
_WRONG_ADDRESS = "There is no such address: check base_url, which ends in /v1 at Mistral"

_CUT_OFF = "…"

MAX_NAME = 200
"""Characters of a code, a type or an id in an error."""

_MAX_READ = 64 * 1024

# Statuses that gateways use for any upstream error.
_VAGUE = (500, 502)

MAX_SHOWN = 300
"""Characters of the server's message that an error quotes."""


class MistralError(Exception):
    """A request to Mistral failed.

    Attributes:
        reason: Why, in terms of what to do about it.
        detail: The message of the server or the network, at most `MAX_SHOWN` characters.
        status_code: The HTTP status, of the answer or in its stream; None if there is none.
        code: The error code, as text: `"3230"`.
        type: The error type: `"invalid_request_message_order"`.
        retry_after: Seconds after which the server allows a retry; None if it does not say.
        correlation_id: The id for Mistral's support, from `mistral-correlation-id`.
        budget: The account's rate budget in the answer; None if it has none.
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
        """The same error, with the API key redacted from the server's message."""
        return self.redacted(Redactor(secrets_in(key)))

    def redacted(self, redact: Redactor) -> "MistralError":
        """The same error, with secrets redacted from the server's message."""
        names = ("detail", "code", "type", "correlation_id")
        texts: dict[str, str | None] = {name: getattr(self, name) for name in names}
        return self._replaced(**{name: text and redact(text) for name, text in texts.items()})

    def with_detail(self, detail: str) -> "MistralError":
        """The same error, with another text in place of the server's message."""
        return self._replaced(detail=detail)

    def _replaced(self, **changed: Any) -> "MistralError":
        names = ("detail", "status_code", "code", "type", "retry_after", "correlation_id", "budget")
        return MistralError(self.reason, **{name: getattr(self, name) for name in names} | changed)

    def with_key_accepted_before(self) -> "MistralError":
        """The same error; if its reason is the key, it names what else may have caused it."""
        if self.reason is not Reason.KEY:
            return self
        cause = (
            "the same key was accepted before, so the budget of its workspace, or at a gateway, "
            "may be spent, or the key was revoked"
        )
        return self.with_detail("; the server says: ".join(filter(None, (cause, self.detail))))

    @classmethod
    def from_response(
        cls, status_code: int, body: object, headers: Mapping[str, str] | None = None
    ) -> "MistralError":
        """Parse the answer to a refused request.

        Args:
            status_code: The HTTP status, 400 or above.
            body: The body: bytes, text, or what JSON made of it.
            headers: The answer's headers; names in lower case, or a case-blind mapping.
        """
        headers = headers or {}
        parsed = ErrorBody.read(body, headers)
        # The status in the body is nearer to the cause than that of a gateway's answer.
        status = (
            parsed.status or (status_code in _VAGUE and parsed.status_in_words()) or status_code
        )
        seconds = retry_after(headers)
        return cls(
            reason_of(parsed.names, "\n".join(parsed.words), status),
            parsed.message,
            status_code=status_code,
            code=parsed.code,
            type=parsed.type,
            retry_after=parsed.retry_after if seconds is None else seconds,
            budget=RateBudget.from_headers(headers),
            correlation_id=headers.get("mistral-correlation-id") or parsed.request_id,
        )

    @classmethod
    def from_stream(cls, payload: object) -> "MistralError":
        """Parse a payload of a stream that is no chunk.

        Args:
            payload: The error object, or the text that is no JSON.

        Returns:
            The error. A status in it counts like that of an answer; if it has no known sign, its
            reason is `STREAM`.
        """
        parsed = ErrorBody.read(payload)
        status = parsed.status or parsed.status_in_words()
        names = parsed.names if status is not None else parsed.names | parsed.short_messages()
        return cls(
            reason_of(names, "\n".join(parsed.words), status),
            parsed.message,
            status_code=status,
            code=parsed.code,
            type=parsed.type,
            retry_after=parsed.retry_after,
            correlation_id=parsed.request_id,
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
    """The rate limiter did not send a request, since the account's minute is used up."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(
            Reason.RATE_LIMIT,
            "held back before it was sent, since the account's minute is used up",
            retry_after=retry_after,
        )

    def redacted(self, redact: Redactor) -> MistralError:
        """The same error: its text is ours."""
        return self


def _time(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:,.0f} hours"
    # Rounded up: a retry that is a moment too early is refused again.
    return f"{math.ceil(seconds)} s" if seconds >= 10 else f"{math.ceil(seconds * 10) / 10:g} s"


def printable(text: str, most: int) -> str:
    """A server's message in one line of `most` characters, with control characters escaped."""
    text = " ".join(text[:_MAX_READ].split())
    if not text.isprintable():
        text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return text if len(text) <= most else text[: most - 1] + _CUT_OFF
