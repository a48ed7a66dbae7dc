"""Every form that Mistral's errors take gives one error that says what to do."""

import pytest

from mistral_service.wire.errors import MAX_SHOWN, MistralError, Reason

EXTRA = {"type": "extra_forbidden", "loc": ["body", "messages", 0, "user", "name"], "msg": "Extra"}

FORMS = [
    (401, {"detail": "Unauthorized"}, Reason.KEY, None, "Unauthorized"),
    (401, {"message": "Unauthorized", "request_id": "r1"}, Reason.KEY, None, "Unauthorized"),
    (
        403,
        {"error": {"message": "Content blocked by guardrail", "status": 403}, "guardrails": {}},
        Reason.BLOCKED,
        None,
        "Content blocked by guardrail",
    ),
    (403, {"message": "no", "code": 3201}, Reason.BLOCKED, "3201", "no"),
    (422, {"detail": [EXTRA]}, Reason.REQUEST, None, "messages.0.user.name: Extra"),
    (
        422,
        {"object": "error", "message": {"detail": [EXTRA]}, "type": "invalid_request_error"},
        Reason.REQUEST,
        None,
        "messages.0.user.name: Extra",
    ),
    (
        400,
        {
            "object": "error",
            "message": "Unexpected role 'user' after role 'tool'",
            "type": "invalid_request_message_order",
            "param": None,
            "code": "3230",
        },
        Reason.HISTORY,
        "3230",
        "Unexpected role 'user' after role 'tool'",
    ),
    (400, {"message": "Not the same number", "code": 3230}, Reason.HISTORY, "3230", "Not the same"),
    (
        500,
        {"message": "Service unavailable.", "type": "internal_server_error", "code": "3600"},
        Reason.HISTORY,
        "3600",
        "Service unavailable.",
    ),
    (400, {"message": "No model x", "type": "invalid_model"}, Reason.UNKNOWN_MODEL, None, "x"),
    (
        429,
        {"message": "Rate limit exceeded", "type": "rate_limited", "code": "1300"},
        Reason.RATE_LIMIT,
        "1300",
        "Rate limit exceeded",
    ),
    (503, {"message": "Service tier capacity exceeded"}, Reason.CAPACITY, None, "capacity"),
    (502, "<html><h1>Bad Gateway</h1></html>", Reason.SERVER, None, ""),
    (504, b"", Reason.TIMEOUT, None, ""),
    (529, b"overloaded", Reason.SERVER, None, "overloaded"),
    (418, b"\xff\xfe", Reason.REQUEST, None, ""),
    (400, "[" * 100_000, Reason.REQUEST, None, "["),
]


@pytest.mark.parametrize(("status", "body", "reason", "code", "said"), FORMS)
def test_every_form_is_understood(status: int, body, reason: Reason, code, said: str):
    error = MistralError.from_response(status, body)
    assert (error.reason, error.status_code, error.code) == (reason, status, code)
    assert said in error.detail
    assert str(status) in str(error)
    assert "\n" not in str(error)


def test_the_sentence_says_what_to_do():
    error = MistralError.from_response(401, {"detail": "Unauthorized"})
    assert str(error) == (
        "Mistral did not accept the API key, so check MISTRAL_API_KEY (401): Unauthorized"
    )


def test_a_disguised_refusal_is_not_tried_again():
    body = {"message": "Service unavailable.", "code": "3600"}
    assert not MistralError.from_response(503, body).retryable
    assert MistralError.from_response(503, {"message": "Service unavailable."}).retryable


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("2", 2.0), ("0.5", 0.5), ("-1", None), ("nan", None), ("inf", None), ("soon", None)],
)
def test_retry_after_is_a_number_of_seconds_or_nothing(value: str, seconds: float | None):
    assert MistralError.from_response(429, {}, {"retry-after": value}).retry_after == seconds


@pytest.mark.parametrize(
    ("date", "value", "seconds"),
    [
        ("Sat, 21 Nov 2026 08:00:00 GMT", "Sat, 21 Nov 2026 08:00:07 GMT", 7.0),
        ("Sat, 21 Nov 2026 08:00:07 GMT", "Sat, 21 Nov 2026 08:00:00 GMT", None),
        ("Sat, 21 Nov 2026 08:00:00 GMT", "Sat, 21 Nov 2026 08:00:07", None),
        (None, "Sat, 21 Nov 2026 08:00:07 GMT", None),
        ("today", "tomorrow", None),
    ],
)
def test_retry_after_may_be_a_date_counted_from_the_servers_own(date, value, seconds):
    headers = {"retry-after": value} | ({"date": date} if date else {})
    assert MistralError.from_response(429, {}, headers).retry_after == seconds


def test_a_long_answer_is_cut():
    assert len(MistralError.from_response(500, "x" * 10_000).detail) == MAX_SHOWN


def test_what_support_asks_for_is_kept():
    error = MistralError.from_response(500, {}, {"mistral-correlation-id": "c1"})
    assert error.correlation_id == "c1"


@pytest.mark.parametrize("before", range(MAX_SHOWN - 40, MAX_SHOWN + 1, 3))
def test_a_key_is_struck_out_even_where_the_server_s_words_are_cut(before: int):
    key = "kD83hfPq0vTz71LmXw52RbNc69YsGaUj"
    said = {"message": "x" * (before - 1) + " " + key + " is not known"}
    shown = str(MistralError.from_response(401, said).without(key))
    assert not any(key[:length] in shown for length in range(5, len(key) + 1))


@pytest.mark.parametrize(
    "body",
    [
        {"message": "no Route matched with those values", "request_id": "4e66bb7f"},
        {"detail": "Not Found"},
        "404 page not found",
    ],
)
def test_an_address_that_is_wrong_is_told_as_one(body):
    error = MistralError.from_response(404, body)
    assert error.reason is Reason.UNKNOWN_MODEL  # a fallback may have it
    assert str(error).startswith("There is no such address: check base_url, which ends in /v1")
    named = MistralError.from_response(404, {"message": "Model x not found", "code": "1500"})
    assert str(named).startswith("Mistral does not know the model: check Settings(model=…)")
