"""Why a request failed: one table of signs that classify errors.

A sign is a code or a type, some words of the message, or a status: Mistral's own, and those of
compatible servers and gateways. Sources: `docs/odd-replies.md`.
"""

import re
from collections.abc import Iterable
from enum import Enum


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
        QUOTA: The account has no credit left.
        CAPACITY: The model's servers are full; another model may be free.
        SERVER: The server failed.
        UNREACHABLE: No connection, or it broke before the answer.
        TIMEOUT: No answer in time.
        STREAM: The stream broke off, or contained something that is no chunk.
        EMPTY: The reply had no text and no function call.
        CALL: The model calls functions in a way that cannot be completed, also after a reminder.
        FORM: The reply does not have the requested form.
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


def normalize_name(name: str) -> str:
    """A code or a type in normalised spelling: `ratelimit` for `litellm.RateLimitError`."""
    name = re.split(r"[.#]", name.partition(":")[0])[-1]
    return re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("exception").removesuffix("error")


class Sign:
    """A row of the table: it matches if each of its columns that has an entry matches."""

    def __init__(
        self,
        reason: Reason,
        names: str = "",
        words: str = "",
        statuses: Iterable[int | None] = (),
    ) -> None:
        """Make a row.

        Args:
            reason: The reason that it shows.
            names: Codes and types, in any spelling, separated by blanks.
            words: Words of the message, in lower case, separated by semicolons.
            statuses: HTTP statuses, of the answer or in its body; None if there is none, as in a
                stream.
        """
        self.reason = reason
        self.names = names.split()
        self.words = words.split("; ") if words else []
        self.statuses = tuple(statuses)

    def matches(self, names: frozenset[str], words: str, status: int | None) -> bool:
        """Whether an error with these normalised names and lower-case words shows this sign."""
        return (
            (not self.names or any(normalize_name(name) in names for name in self.names))
            and (not self.words or any(each in words for each in self.words))
            and (not self.statuses or status in self.statuses)
        )


_REFUSALS = (None, 400, 403, 422, 446, 451, 500)
_TOO_LONG = (None, 400, 413, 422, 500)

SIGNS: tuple[Sign, ...] = (
    # Signs of the cause itself come before the status, which may be a gateway's.
    Sign(
        Reason.BLOCKED,
        "guardrails flagged_input 3201 content_filter content_filter_error content_filtered "
        "ResponsibleAIPolicyViolation content_policy_violation content_policy content_blocked "
        "content_violation content_moderation moderation_blocked prompt_blocked prohibited_content "
        "image_content_policy_violation bio_policy guardrail_violation guardrail_blocked "
        "guardrail_intervened GuardrailRaisedException "
        "BlockedPiiEntityError RejectedRequestError hooks_failed data_inspection_failed refusal",
    ),
    Sign(Reason.BLOCKED, "reasons", statuses=(None, 403, 446, 451)),
    Sign(
        Reason.BLOCKED,
        words="blocked by guardrail; guardrail checks; guardrail policy; blocked due to security; "
        "content management policy; moderation policy; content safety policy; "
        "input was flagged; request blocked",
        statuses=_REFUSALS,
    ),
    Sign(
        Reason.CAPACITY,
        "3505 service_tier_capacity_exceeded capacity_exceeded model_capacity_exhausted overloaded "
        "engine_overloaded model_overloaded server_overloaded provider_overloaded "
        "provider_unavailable ModelNotReadyException",
    ),
    Sign(Reason.CAPACITY, words="service tier capacity exceeded; no capacity available"),
    Sign(
        Reason.QUOTA,
        "insufficient_quota insufficient_credits insufficient_credit insufficient_balance "
        "insufficient_funds payment_required billing billing_not_active billing_hard_limit_reached "
        "budget_exceeded BudgetExceededError exceeded_budget budget_exhausted spend_limit_exceeded "
        "spending_limit_exceeded key_spend_limit_exceeded credit_limit_exceeded credits_exhausted "
        "out_of_credits no_credits arrearage ServiceQuotaExceededException",
    ),
    Sign(
        Reason.QUOTA,
        words="credit balance; insufficient credit; insufficient balance; insufficient fund; "
        "insufficient quota; more credits; out of credit; budget has been exceeded; "
        "budget exceeded; exceeded budget; over budget; budget is exhausted; "
        "budget exhausted; spend limit; spending limit; key limit exceeded; "
        "monthly usage limit; payment required",
    ),
    Sign(
        Reason.TOO_LARGE,
        "3210 context_length_exceeded context_window_exceeded exceed_context_size "
        "request_too_large payload_too_large request_entity_too_large content_too_large "
        "prompt_too_long input_too_long string_too_long string_above_max_length "
        "tokens_limit_reached",
    ),
    Sign(
        Reason.TOO_LARGE,
        words="context length; context size; context window; maximum context; "
        "maximum model length; context the overflows; too large for model; "
        "prompt is too long; input is too long; `inputs` must have less than; "
        "`max_new_tokens` must be",
        statuses=_TOO_LONG,
    ),
    # Without a status, Bedrock means a rate limit by it.
    Sign(Reason.TOO_LARGE, words="too many tokens", statuses=(400, 413, 422)),
    # An assistant message without content is refused as "Service unavailable." with code 3600: it
    # looks retryable, but is not.
    Sign(Reason.HISTORY, "3230 3280 3600 invalid_request_message_order invalid_function_call"),
    Sign(
        Reason.HISTORY,
        words="unexpected role; expected last role; roles must alternate; "
        "not the same number of function calls; must have either content or tool_calls",
        statuses=(None, 400, 422, 500),
    ),
    Sign(
        Reason.UNKNOWN_MODEL,
        "1500 invalid_model unknown_model model_not_found model_not_available model_decommissioned "
        "no_such_model invalid_model_name invalid_model_id DeploymentNotFound "
        "key_model_access_denied team_model_access_denied user_model_access_denied "
        "customer_model_access_denied org_model_access_denied project_model_access_denied "
        "agent_model_access_denied",
    ),
    Sign(
        Reason.UNKNOWN_MODEL,
        words="invalid model:; invalid model name; not a valid model; no such model; "
        "model not found; unknown model; no endpoints found; pulling it first",
        statuses=(None, 400, 404, 422, 500),
    ),
    Sign(Reason.RATE_LIMIT, "RESOURCE_EXHAUSTED"),
    Sign(Reason.QUOTA, words="exceeded your current quota"),
    # Signs of the kind of failure: like a status, but nearer to the cause.
    Sign(
        Reason.KEY,
        "authentication auth unauthorized unauthenticated invalid_authentication "
        "invalid_credentials invalid_api_key incorrect_api_key missing_api_key no_api_key "
        "api_key_invalid expired_api_key api_key_expired expired_key invalid_token expired_token "
        "token_expired token_not_found_in_db no_db_connection UnrecognizedClientException "
        "InvalidClientTokenId InvalidSignatureException IncompleteSignature "
        "MissingAuthenticationToken",
    ),
    Sign(
        Reason.KEY,
        words="invalid api key; incorrect api key; api key not valid",
        statuses=(None, 400, 403),
    ),
    Sign(
        Reason.FORBIDDEN,
        "permission permission_denied access_denied forbidden insufficient_permissions "
        "NotAuthorized OptInRequired unsupported_country_region_territory",
    ),
    Sign(
        Reason.RATE_LIMIT,
        "1300 rate_limited rate_limit rate_limit_exceeded rate_limit_reached too_many_requests "
        "throttled throttling request_limit_exceeded limit_exceeded quota_violation "
        "spike_arrest_violation",
    ),
    Sign(Reason.QUOTA, "quota_exceeded"),
    Sign(
        Reason.TIMEOUT,
        "timeout APITimeoutError request_timeout gateway_timeout upstream_timeout read_timeout "
        "ModelTimeoutException DEADLINE_EXCEEDED",
    ),
    Sign(Reason.CAPACITY, "service_unavailable unavailable"),
    Sign(Reason.KEY, statuses=(401,)),
    Sign(Reason.QUOTA, statuses=(402, 412)),  # 412 is Portkey's status for a spent budget
    Sign(Reason.FORBIDDEN, statuses=(403,)),
    Sign(Reason.UNKNOWN_MODEL, statuses=(404, 410)),
    Sign(Reason.TIMEOUT, statuses=(408, 504, 522, 524)),
    Sign(Reason.TOO_LARGE, statuses=(413,)),
    Sign(Reason.RATE_LIMIT, statuses=(429,)),
    Sign(Reason.BLOCKED, statuses=(446, 451)),  # 446 is that of Portkey's and WSO2's guardrails
    Sign(Reason.CAPACITY, statuses=(503,)),
    # 424: a Bedrock model failed. 425: too early. 499: a proxy closed the connection.
    Sign(Reason.SERVER, statuses=(424, 425, 499, *range(500, 600))),
    Sign(Reason.REQUEST, statuses=range(400, 500)),
    # Signs that are vaguer than a status only count without one.
    Sign(Reason.UNKNOWN_MODEL, "not_found resource_not_found"),
    Sign(
        Reason.REQUEST,
        "3051 invalid_request invalid_request_invalid_args bad_request validation unprocessable "
        "unprocessable_entity INVALID_ARGUMENT FAILED_PRECONDITION OUT_OF_RANGE invalid_prompt "
        "invalid_parameter invalid_value unsupported_parameter unsupported_params "
        "unsupported_value missing_required_parameter",
    ),
    Sign(
        Reason.SERVER,
        "server internal_server internal api api_connection upstream provider bad_gateway unknown "
        "aborted data_loss service generation incomplete_generation internal_error_proxy "
        "model_stream_error model unmapped",
    ),
)
"""The table: the first row that matches is the reason."""


def reason_of(names: Iterable[str], words: str, status: int | None) -> Reason:
    """Classify an error by its codes and types, its messages and its HTTP status, if it has one.

    An error that shows no sign and has no status is a `STREAM`.
    """
    known, said = frozenset(map(normalize_name, names)) - {""}, words.lower()
    found = (sign.reason for sign in SIGNS if sign.matches(known, said, status))
    return next(found, Reason.STREAM)
