"""Every form that Mistral's errors take gives one error that says what to do."""

import pytest
from error_bodies import FORMS

from mistral_service.wire.errors import MAX_SHOWN, MistralError, Reason
from mistral_service.wire.faults import error_of


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


@pytest.mark.parametrize("length", range(1, 9))
def test_the_masked_beginning_of_a_key_may_be_all_that_is_said(length: int):
    key = "kD83hfPq0vTz71LmXw52RbNc69YsGaUj"
    error = error_of(MistralError.from_response(401, {"message": f"{key[:length]}…"}), key)
    assert error is not None
    assert error.detail == ("[key]…" if length >= 4 else f"{key[:length]}…")


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
