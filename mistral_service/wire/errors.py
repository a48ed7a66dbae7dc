"""What went wrong between us and Mistral: one error type, parsed once from any form it takes.

Mistral's errors have no one shape (`message` is a string, an object or a list; `code` a string, an
int or null; the body may be `{"object": "error"}`, `{"detail": …}`, `{"message": …}` or
`{"error": …}`); gateways and self-hosted servers add theirs. Everything after this module sees a
`MistralError` with a `Reason`.
"""

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any, cast

from mistral_service.wire.encoding import decode
from mistral_service.wire.rate import RateBudget, retry_after


class Reason(Enum):
    """Why a request failed, in terms of what one can do about it.

    Parameters:
        KEY: The key is missing, wrong or revoked.
        FORBIDDEN: The key may not do this.
        BLOCKED: A guardrail blocked the content.
        UNKNOWN_MODEL: There is no such model, or not for this key.
        HISTORY: The messages break one of the rules for a conversation.
        REQUEST: Something else in the request is wrong.
        TOO_LARGE: The request is longer than the model's context or the server's limit.
        RATE_LIMIT: The account's own limit of requests or tokens is reached.
        QUOTA: The account has nothing left to spend.
        CAPACITY: The model's servers are full; another model may be free.
        SERVER: The server failed.
        UNREACHABLE: No connection, or it broke.
        TIMEOUT: No answer in time.
        STREAM: The stream had something in it that is no chunk.
        EMPTY: The reply had no words and no call in it.
        CALL: The model calls a function in a way that leads nowhere, and was told so.
        FORM: The reply has not the form that was asked for.
    """

    KEY = "key"
    FORBIDDEN = "forbidden"
    BLOCKED = "blocked"
    UNKNOWN_MODEL = "unknown_model"
    HISTORY = "history"
    REQUEST = "request"
    TOO_LARGE = "too_large"
    RATE_LIMIT = "rate_limit"
    QUOTA = "quota"
    CAPACITY = "capacity"
    SERVER = "server"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    STREAM = "stream"
    EMPTY = "empty"
    CALL = "call"
    FORM = "form"

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed a moment later."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        Reason.RATE_LIMIT,
        Reason.CAPACITY,
        Reason.SERVER,
        Reason.UNREACHABLE,
        Reason.TIMEOUT,
        Reason.STREAM,
        Reason.EMPTY,
    }
)

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

_STATUS_REASONS: dict[int, Reason] = {
    400: Reason.REQUEST,
    401: Reason.KEY,
    402: Reason.QUOTA,
    403: Reason.FORBIDDEN,
    404: Reason.UNKNOWN_MODEL,
    408: Reason.TIMEOUT,
    413: Reason.TOO_LARGE,
    422: Reason.REQUEST,
    429: Reason.RATE_LIMIT,
    503: Reason.CAPACITY,
    504: Reason.TIMEOUT,
}

# Codes and types that say more than the status does.
_CODE_REASONS: dict[str, Reason] = {
    "1300": Reason.RATE_LIMIT,
    "1500": Reason.UNKNOWN_MODEL,
    "3201": Reason.BLOCKED,
    "3210": Reason.TOO_LARGE,
    "3230": Reason.HISTORY,
    "3280": Reason.HISTORY,
}
_TYPE_REASONS: dict[str, Reason] = {
    "invalid_model": Reason.UNKNOWN_MODEL,
    "invalid_request_message_order": Reason.HISTORY,
    "invalid_function_call": Reason.HISTORY,
    "rate_limited": Reason.RATE_LIMIT,
}
# An assistant message without content is refused as "Service unavailable." under this code: it
# looks as if one should try again, and one never should.
_DISGUISED_REFUSAL = "3600"

_SHORTEST_KEY = 8

_CUT_OFF = "…"

MAX_SHOWN = 300
"""Characters of the server's own words that an error quotes."""


class MistralError(Exception):
    """A request to Mistral failed.

    Attributes:
        reason: Why, in terms of what to do about it.
        detail: The server's (or the network's) own words, at most `MAX_SHOWN` characters.
        status_code: The HTTP status; None where there was no answer, or it broke later.
        code: Mistral's error code, as text: `"3230"`.
        type: Mistral's error type: `"invalid_request_message_order"`.
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
        self.detail = _cut(detail)
        self.status_code = status_code
        self.code = code
        self.type = type
        self.retry_after = retry_after
        self.correlation_id = correlation_id
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
        if len(key) < _SHORTEST_KEY:
            return self

        def struck(text: str | None) -> str | None:
            text = text and text.replace(key, "[key]")
            # Words that were cut may end with the beginning of it.
            parts = (key[:length] + _CUT_OFF for length in range(len(key) - 1, 3, -1))
            part = text and next((each for each in parts if text.endswith(each)), None)
            return text.removesuffix(part) + "[key]" + _CUT_OFF if text and part else text

        return MistralError(
            self.reason,
            struck(self.detail) or "",
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
        found = _Found.of(_decoded(body))
        reason = (
            _CODE_REASONS.get(found.code or "")
            or _TYPE_REASONS.get(found.type or "")
            or _STATUS_REASONS.get(status_code)
            or (Reason.SERVER if status_code >= 500 else Reason.REQUEST)
        )
        if found.guardrail:
            reason = Reason.BLOCKED
        elif found.code == _DISGUISED_REFUSAL:
            reason = Reason.HISTORY
        return cls(
            reason,
            found.message,
            status_code=status_code,
            code=found.code,
            type=found.type,
            retry_after=retry_after(headers),
            budget=RateBudget.from_headers(headers),
            correlation_id=headers.get("mistral-correlation-id") or found.request_id,
        )

    @classmethod
    def from_stream(cls, payload: object) -> "MistralError":
        """Read what stood in a stream where a chunk should be.

        Args:
            payload: The error object, or the text that is no JSON.

        Returns:
            The error; its reason is that of the error object where it names one, else `STREAM`.
        """
        found = _Found.of(_decoded(payload))
        reason = _CODE_REASONS.get(found.code or "") or _TYPE_REASONS.get(found.type or "")
        return cls(reason or Reason.STREAM, found.message, code=found.code, type=found.type)

    def _sentence(self) -> str:
        marks = [str(m) for m in (self.status_code, self.code) if m is not None]
        advice = _ADVICE[self.reason] + (f" ({', '.join(dict.fromkeys(marks))})" if marks else "")
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

    def without(self, key: str) -> MistralError:
        """The same error: its words are ours.

        Args:
            key: The key.
        """
        return self


class _Found:
    """The fields that error bodies have in common, wherever they stand."""

    def __init__(self) -> None:
        self.message = ""
        self.code: str | None = None
        self.type: str | None = None
        self.request_id: str | None = None
        self.guardrail = False

    @classmethod
    def of(cls, body: object) -> "_Found":
        found = cls()
        found._read(body)
        return found

    def _read(self, body: object) -> None:
        if isinstance(body, str):
            self.message = self.message or body.strip()
        elif isinstance(body, list):
            self.message = self.message or "; ".join(
                filter(None, (_issue(item) for item in cast("list[object]", body)[:3]))
            )
        elif isinstance(body, Mapping):
            data = cast("Mapping[str, Any]", body)
            self.guardrail = self.guardrail or data.get("guardrails") is not None
            if self.code is None and isinstance(data.get("code"), str | int):
                self.code = str(data["code"])
            if self.type is None and isinstance(data.get("type"), str):
                self.type = data["type"]
            if isinstance(data.get("request_id"), str):
                self.request_id = data["request_id"]
            # `detail` may hold the list of issues, `message` a string or again an object with
            # `detail` in it, `error` an object or a string.
            for key in ("message", "detail", "error"):
                if data.get(key):
                    self._read(data[key])


def _issue(item: object) -> str:
    """One entry of a 422's list, as `messages.0.user.name: Extra inputs are not permitted`."""
    if isinstance(item, str):
        return item
    if not isinstance(item, Mapping):
        return ""
    data = cast("Mapping[str, Any]", item)
    where = [str(part) for part in cast("list[object]", data.get("loc") or []) if part != "body"]
    said = str(data.get("msg") or data.get("message") or "")
    return ": ".join(filter(None, (".".join(where), said)))


def _decoded(body: object) -> object:
    if isinstance(body, bytes):
        body = body.decode("utf-8", "replace")
    if not isinstance(body, str):
        return body
    try:
        return decode(body)
    except ValueError:
        # A proxy's HTML page says nothing in its tags.
        return "" if body.lstrip().startswith("<") else body


def _time(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:,.0f} hours"
    # Rounded up: who comes a moment too early is refused once more.
    return f"{math.ceil(seconds)} s" if seconds >= 10 else f"{math.ceil(seconds * 10) / 10:g} s"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + _CUT_OFF
