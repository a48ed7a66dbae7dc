"""Every row of the table of signs, and the forms in which servers and gateways show them."""

import json

import pytest

from mistral_service.wire.chunks import chunk_from_mapping, read_payload
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.reasons import SIGNS, normalize_name

NAMES = [
    (sign.reason, name, status)
    for sign in SIGNS
    for name in sign.names
    for status in (sign.statuses or [None])
]
WORDS = [
    (sign.reason, words, status)
    for sign in SIGNS
    for words in sign.words
    for status in (sign.statuses or [None])
]
STATUSES = {
    400: Reason.REQUEST,
    401: Reason.KEY,
    402: Reason.QUOTA,
    403: Reason.FORBIDDEN,
    404: Reason.UNKNOWN_MODEL,
    405: Reason.REQUEST,
    408: Reason.TIMEOUT,
    410: Reason.UNKNOWN_MODEL,
    412: Reason.QUOTA,
    413: Reason.TOO_LARGE,
    422: Reason.REQUEST,
    424: Reason.SERVER,
    429: Reason.RATE_LIMIT,
    446: Reason.BLOCKED,
    451: Reason.BLOCKED,
    499: Reason.SERVER,
    500: Reason.SERVER,
    502: Reason.SERVER,
    503: Reason.CAPACITY,
    504: Reason.TIMEOUT,
    520: Reason.SERVER,
    524: Reason.TIMEOUT,
    529: Reason.SERVER,
}


def understood(body: object, status: int | None) -> MistralError:
    if status is None:
        return MistralError.from_stream(body)
    return MistralError.from_response(status, body)


@pytest.mark.parametrize(("reason", "name", "status"), NAMES)
def test_a_code_or_a_type_is_enough(reason: Reason, name: str, status: int | None):
    if name in ("guardrails", "flagged_input", "reasons"):
        body: dict = {"error": {"message": "No.", "metadata": {name: ["it"]}}}
        assert understood(body, status).reason is reason
        return
    for key in ("code", "type"):
        body = {"error": {"message": "It will not do.", key: name}}
        assert understood(body, status).reason is reason
        assert understood({"object": "error", "message": "No.", key: name}, status).reason is reason


@pytest.mark.parametrize(("reason", "words", "status"), WORDS)
def test_words_are_enough(reason: Reason, words: str, status: int | None):
    for said in (words, words.upper(), f"It says: {words}, and so on."):
        error = understood({"error": {"message": said}}, status)
        assert error.reason is reason
        assert error.detail == said


@pytest.mark.parametrize(("status", "reason"), STATUSES.items())
@pytest.mark.parametrize(
    "form",
    [
        lambda s: {"error": {"message": "No.", "code": s}},
        lambda s: {"error": {"message": "No.", "code": str(s)}},
        lambda s: {"error": {"message": "No.", "type": None, "param": "None", "status": s}},
        lambda s: {"error": {"message": "No.", "status_code": str(s)}},
        lambda s: {"error": {"message": "No."}, "status": f"{s} Refused"},
        lambda s: {"error": "No.", "statusCode": s},
        lambda s: {"error": {"message": "No.", "http_status_code": s}},
        lambda s: {"object": "error", "message": "No.", "raw_status_code": s},
        lambda s: {"object": "error", "message": "No.", "type": "odd", "code": s},
        lambda s: {"detail": {"error": {"message": "No.", "code": s}}},
        lambda s: [{"error": {"message": "No.", "code": s}}],
        lambda s: {"errors": [{"message": "No.", "code": s}]},
        lambda s: {"code": f"HTTP_{s}", "message": "No."},
        lambda s: {"message": "No.", "error": {"code": float(s)}},
    ],
)
def test_a_status_in_a_stream_is_that_status(status: int, reason: Reason, form):
    error = MistralError.from_stream(form(status))
    assert (error.reason, error.status_code, error.detail) == (reason, status, "No.")
    assert error.retryable is reason.retryable
    _, fault = read_payload(json.dumps(form(status)))
    assert fault is not None
    assert fault.status_code == status


@pytest.mark.parametrize("code", [0, 1, 200, 399, 600, 1000, 4290, "4010", "-401", True, None, ""])
def test_another_number_is_no_status(code):
    error = MistralError.from_stream({"error": {"message": "It will not do.", "code": code}})
    assert (error.reason, error.status_code) == (Reason.STREAM, None)


@pytest.mark.parametrize(
    "name",
    ["RateLimitError", "rate_limit_error", "litellm.RateLimitError", "RATE_LIMIT", "rate-limit"],
)
def test_a_name_is_known_in_any_spelling(name: str):
    assert normalize_name(name) == "ratelimit"
    assert MistralError.from_response(500, {"error": {"type": name}}).reason is Reason.RATE_LIMIT


# --- what is seen of each server and gateway ------------------------------------------------------

ORDER = {
    "object": "error",
    "message": "Unexpected role 'user' after role 'tool'",
    "type": "invalid_request_message_order",
    "param": None,
    "code": "3230",
}
FULL = {
    "object": "error",
    "message": "Service tier capacity exceeded for this model.",
    "type": "service_tier_capacity_exceeded",
    "param": None,
    "code": "3505",
}
LITELLM_ADDS = (
    "\n\nLiteLLM: model group 'm' failed with the error above. No fallback was attempted."
)


def openrouter(code: object, raw: object = None, **metadata: object) -> dict:
    if raw is not None:
        metadata["raw"] = raw
    said = {"code": code, "message": "Provider returned error", "metadata": metadata}
    return {"error": said, "user_id": "user_1"}


def litellm(said: str, code: str, kind: object = "None") -> dict:
    return {"error": {"message": said, "type": kind, "param": "None", "code": code}}


def mistral(kind: str, code: str | None) -> dict:
    return {"object": "error", "message": "It will not do.", "type": kind, "code": code}


SEEN = [
    # Mistral
    (503, {"message": "Service tier capacity exceeded for this model"}, Reason.CAPACITY, None, ""),
    (429, FULL, Reason.CAPACITY, "3505", "Service tier"),
    (429, {"message": "x", "code": 3505}, Reason.CAPACITY, "3505", "x"),
    (429, {"type": "service_tier_capacity_exceeded"}, Reason.CAPACITY, None, ""),
    (429, {"message": "x", "code": "3505", "type": "rate_limited"}, Reason.CAPACITY, "3505", "x"),
    *[
        (status, mistral(kind, code), reason, code, "It will not do.")
        for status, kind, code, reason in (
            (401, "authentication_error", None, Reason.KEY),
            (None, "authentication_error", None, Reason.KEY),
            (429, "rate_limit_error", None, Reason.RATE_LIMIT),
            (429, "rate_limit_error", "3505", Reason.CAPACITY),
            (None, "rate_limit_error", None, Reason.RATE_LIMIT),
            (500, "server_error", None, Reason.SERVER),
            (503, "server_error", None, Reason.CAPACITY),
            (None, "server_error", None, Reason.SERVER),
            (400, "invalid_request_error", "unknown_model", Reason.UNKNOWN_MODEL),
            (404, "not_found_error", "unknown_model", Reason.UNKNOWN_MODEL),
            (None, "invalid_request_error", "unknown_model", Reason.UNKNOWN_MODEL),
        )
    ],
    (
        404,
        {"message": "no Route matched with those values", "request_id": "4e66bb7f"},
        Reason.UNKNOWN_MODEL,
        None,
        "no Route matched",
    ),
    (
        400,
        {
            "object": "error",
            "message": "Prompt contains 65673 tokens, too large for model with 32768 maximum "
            "context length",
            "type": "invalid_request_invalid_args",
            "code": "3051",
        },
        Reason.TOO_LARGE,
        "3051",
        "65673",
    ),
    (400, {"message": "one of none, high", "code": "3051"}, Reason.REQUEST, "3051", "none, high"),
    (
        422,
        {
            "object": "error",
            "message": '{"detail":[{"loc":["body","max_tokens"],"msg":"Input should be greater"}]}',
            "type": "internal_error_proxy",
            "code": "1000",
        },
        Reason.REQUEST,
        "1000",
        "max_tokens: Input should be greater",
    ),
    (None, {"detail": [{"loc": ["body", "x"], "msg": "Extra"}]}, Reason.REQUEST, None, "x: Extra"),
    # OpenRouter
    (400, openrouter(400, json.dumps(ORDER)), Reason.HISTORY, "3230", ORDER["message"]),
    (None, openrouter(400, ORDER), Reason.HISTORY, "3230", ORDER["message"]),
    (None, openrouter(429, [{"error": FULL}]), Reason.CAPACITY, "3505", FULL["message"]),
    (429, openrouter(429, "m is rate-limited upstream."), Reason.RATE_LIMIT, "429", "upstream."),
    (
        None,
        openrouter(
            400, json.dumps({"detail": f"Invalid request: {json.dumps({'detail': ORDER})}"})
        ),
        Reason.HISTORY,
        "3230",
        f"Invalid request: {ORDER['message']}",
    ),
    (
        502,
        openrouter(502, "<html><title>Oops &amp; co</title></html>"),
        Reason.SERVER,
        "502",
        "& co",
    ),
    (None, openrouter("server_error"), Reason.SERVER, "server_error", "Provider returned error"),
    (403, openrouter(403, reasons=["hate"], flagged_input="…"), Reason.BLOCKED, "403", ""),
    (None, openrouter(403, reasons=["hate"]), Reason.BLOCKED, "403", ""),
    (403, openrouter(403, flagged_input="what was said"), Reason.BLOCKED, "403", ""),
    (403, openrouter(403, reasons=[], provider_name="x"), Reason.FORBIDDEN, "403", ""),
    (402, {"error": {"code": 402, "message": "requires more credits"}}, Reason.QUOTA, "402", ""),
    (403, {"error": {"code": 403, "message": "Key limit exceeded"}}, Reason.QUOTA, "403", ""),
    (400, {"error": {"message": "x is not a valid model ID"}}, Reason.UNKNOWN_MODEL, None, "x"),
    # LiteLLM
    (
        400,
        litellm(
            f"litellm.BadRequestError: MistralException - {json.dumps(ORDER)}{LITELLM_ADDS}", "400"
        ),
        Reason.HISTORY,
        "3230",
        f"litellm.BadRequestError: MistralException - {ORDER['message']}",
    ),
    (
        None,
        litellm(f"litellm.RateLimitError: MistralException - Error code: 429 - {FULL}", "429"),
        Reason.CAPACITY,
        "3505",
        FULL["message"],
    ),
    (
        None,
        litellm(f"litellm.BadRequestError: MistralException - b'{json.dumps(ORDER)}'", "400"),
        Reason.HISTORY,
        "3230",
        f"MistralException - {ORDER['message']}",
    ),
    (None, litellm("litellm.RateLimitError: slow down", "429"), Reason.RATE_LIMIT, "429", "slow"),
    (500, litellm("litellm.AuthenticationError: no", "500"), Reason.KEY, "500", "no"),
    (500, litellm("litellm.Timeout: no answer", "None"), Reason.TIMEOUT, None, "no answer"),
    (400, litellm("litellm.ContextWindowExceededError: x", "400"), Reason.TOO_LARGE, "400", "x"),
    (400, litellm("litellm.ContentPolicyViolationError: x", "400"), Reason.BLOCKED, "400", "x"),
    (401, litellm("Authentication Error, …", "401", "auth_error"), Reason.KEY, "401", "…"),
    # A proxy without a database says so of every key but its own.
    (400, litellm("No connected db.", "400", "no_db_connection"), Reason.KEY, "400", "No conn"),
    (
        400,
        litellm(
            "Budget has been exceeded! Current cost: 2, Max budget: 1", "400", "budget_exceeded"
        ),
        Reason.QUOTA,
        "400",
        "Budget",
    ),
    (
        401,
        litellm("Authentication Error, Over budget", "401", "auth_error"),
        Reason.QUOTA,
        "401",
        "",
    ),
    (401, litellm("No", "401", "key_model_access_denied"), Reason.UNKNOWN_MODEL, "401", "No"),
    # Portkey
    (
        422,
        {
            "error": {
                "message": "Invalid response received from mistral-ai: "
                '{"detail":[{"loc":["body","x"],"msg":"Extra"}]}',
                "type": None,
                "code": None,
            },
            "provider": "mistral-ai",
        },
        Reason.REQUEST,
        None,
        "Invalid response received from mistral-ai: x: Extra",
    ),
    (
        502,
        {"error": {"message": 'x: {"html-message":"<html><title>Bad</title></html>"}'}},
        Reason.SERVER,
        None,
        "x: an HTML page, probably from a proxy: Bad",
    ),
    (446, {"error": {"message": "…", "type": "hooks_failed"}}, Reason.BLOCKED, None, "…"),
    (412, {"error": {"message": "exhausted"}}, Reason.QUOTA, None, "exhausted"),
    # vLLM, SGLang
    (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, …",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        Reason.TOO_LARGE,
        "400",
        "4096",
    ),
    (
        None,
        {"error": {"message": "No.", "type": "BadRequestError", "param": None, "code": 400}},
        Reason.REQUEST,
        "400",
        "No.",
    ),
    (None, {"message": "No.", "type": "NotFoundError"}, Reason.UNKNOWN_MODEL, None, "No."),
    (
        400,
        {"message": "conversation roles must alternate user/assistant", "type": "BadRequestError"},
        Reason.HISTORY,
        None,
        "alternate",
    ),
    # llama.cpp, Ollama, TGI
    (
        None,
        {
            "error": {
                "code": 400,
                "message": "request (4390 tokens) exceeds the available context size",
                "type": "exceed_context_size_error",
                "n_ctx": 4096,
            }
        },
        Reason.TOO_LARGE,
        "400",
        "4390",
    ),
    (
        500,
        {"error": {"message": "Context size has been exceeded."}},
        Reason.TOO_LARGE,
        None,
        "size",
    ),
    (503, {"error": {"message": "Loading model", "code": 503}}, Reason.CAPACITY, "503", "Loading"),
    (404, {"error": "model 'x' not found"}, Reason.UNKNOWN_MODEL, None, "model 'x' not found"),
    (None, {"error": "unauthorized"}, Reason.KEY, None, "unauthorized"),
    (None, {"error": "an error of its own"}, Reason.STREAM, None, "an error of its own"),
    (429, {"error": "Model is overloaded", "error_type": "overloaded"}, Reason.CAPACITY, None, ""),
    # Azure
    (
        400,
        {
            "error": {
                "message": "The response was filtered",
                "type": None,
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
        Reason.BLOCKED,
        "content_filter",
        "filtered",
    ),
    (
        404,
        {"error": {"code": "DeploymentNotFound"}},
        Reason.UNKNOWN_MODEL,
        "DeploymentNotFound",
        "",
    ),
    (None, {"error": {"code": "Unauthorized", "message": "x"}}, Reason.KEY, "Unauthorized", "x"),
    (401, {"statusCode": 401, "message": "Unauthorized. Token"}, Reason.KEY, None, "Token"),
    (401, {"error": {"code": "401", "message": "subscription key"}}, Reason.KEY, "401", ""),
    # Bedrock
    (400, {"message": "Input is too long for it."}, Reason.TOO_LARGE, None, "Input"),
    (
        429,
        {"message": "Too many tokens, wait", "__type": "x#ThrottlingException"},
        Reason.RATE_LIMIT,
        None,
        "",
    ),
    (None, {"throttlingException": {"message": "wait"}}, Reason.RATE_LIMIT, None, "wait"),
    (
        None,
        {"modelStreamErrorException": {"message": "x", "originalStatusCode": 503}},
        Reason.CAPACITY,
        None,
        "x",
    ),
    (
        None,
        "An error occurred (ThrottlingException) when calling ConverseStream: Too many tokens",
        Reason.RATE_LIMIT,
        None,
        "An error occurred",
    ),
    (403, {"message": "x", "__type": "AccessDeniedException"}, Reason.FORBIDDEN, None, "x"),
    # Vertex
    (
        429,
        b'[{\n  "error": {\n    "code": 429,\n    "message": "Quota exceeded for x",\n'
        b'    "status": "RESOURCE_EXHAUSTED"\n  }\n}\n]\n',
        Reason.RATE_LIMIT,
        "429",
        "Quota exceeded for x",
    ),
    (None, [{"error": {"status": "UNAVAILABLE", "message": "x"}}], Reason.CAPACITY, None, "x"),
    (
        400,
        {
            "error": {
                "code": 400,
                "message": "x",
                "status": "INVALID_ARGUMENT",
                "details": [{"@type": "google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}],
            }
        },
        Reason.KEY,
        "400",
        "x",
    ),
    # OpenAI, Anthropic, and what speaks like them
    (401, {"error": {"type": "invalid_request_error", "message": "x"}}, Reason.KEY, None, "x"),
    (
        429,
        {"error": {"code": "insufficient_quota", "message": "x"}},
        Reason.QUOTA,
        "insufficient_quota",
        "",
    ),
    (400, {"error": {"message": "Your credit balance is too low"}}, Reason.QUOTA, None, "credit"),
    (401, {"error": {"type": "quota_exceeded", "message": "x"}}, Reason.QUOTA, None, "x"),
    (None, {"type": "error", "error": {"type": "overloaded_error"}}, Reason.CAPACITY, None, ""),
    (
        None,
        {"errors": [{"code": 10000, "message": "Authentication error"}]},
        Reason.KEY,
        "10000",
        "",
    ),
    # Text
    (None, "Request failed with status code 402", Reason.QUOTA, None, "402"),
    (500, "Error code: 401 - no such key", Reason.KEY, None, "401"),
    (None, "HTTP 503: try later", Reason.CAPACITY, None, "later"),
    (None, "404 page not found", Reason.UNKNOWN_MODEL, None, "404"),
    (None, "500 words are too few", Reason.STREAM, None, "500"),
    (400, "Error code: 401 - in what was asked", Reason.REQUEST, None, "401"),
]


@pytest.mark.parametrize(("status", "body", "reason", "code", "said"), SEEN)
def test_what_is_seen_in_the_wild_is_understood(status, body, reason: Reason, code, said: str):
    error = understood(body, status)
    assert (error.reason, error.code) == (reason, code)
    assert said in error.detail
    assert "\n" not in str(error)
    assert LITELLM_ADDS.strip() not in error.detail


def test_what_was_flagged_is_not_repeated():
    error = MistralError.from_response(403, openrouter(403, flagged_input="a secret"))
    assert "secret" not in str(error)


def test_a_status_of_the_answer_stays_where_the_body_tells_another():
    error = MistralError.from_response(502, openrouter(429))
    assert (error.status_code, error.reason) == (502, Reason.RATE_LIMIT)
    assert "(502, 429)" in str(error)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("<html><head><title>403 Forbidden</title></head></html>", ": 403 Forbidden"),
        ("<!DOCTYPE html>\n<HTML><TITLE lang=en>\n Just a\n moment… </TITLE>", ": Just a moment…"),
        ("<html><body>nginx</body></html>", ""),
        ("<h1>İİİ</h1>", ""),
        ('<?xml version="1.0"?><Error><Message>Access Denied</Message></Error>', ": Access Denied"),
    ],
)
def test_a_page_says_that_it_is_a_proxys(page: str, said: str):
    for body in (page, page.encode()):
        error = MistralError.from_response(403, body)
        assert error.detail == "an HTML page, probably from a proxy" + said
        assert error.reason is Reason.FORBIDDEN
    # A page that comes as a 200 says nothing about the key.
    assert MistralError.from_stream(page).reason is Reason.STREAM


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"error": {"message": "x", "code": 429, "retry_after": 7}}, 7.0),
        ({"error": {"code": 429, "metadata": {"headers": {"Retry-After": "2.5"}}}}, 2.5),
        ([{"error": {"code": 429, "details": [{"retryDelay": "34.25s"}]}}], 34.25),
        ({"error": {"code": 429, "retry_after_ms": 500}}, 0.5),
        ({"error": {"code": 429, "retry_after": "soon"}}, None),
        ({"error": {"code": 429, "retry_after": 10**12}}, None),
        ({"error": {"code": 429, "retry_after": -1}}, None),
    ],
)
def test_a_body_may_say_when_to_come_back(body, seconds: float | None):
    assert MistralError.from_stream(body).retry_after == seconds
    assert MistralError.from_response(429, body, {"retry-after": "1"}).retry_after == 1.0


def test_a_cloud_may_name_the_error_in_a_header():
    headers = {"x-amzn-errortype": "ThrottlingException:http://internal.amazon.com/coral/"}
    assert MistralError.from_response(400, {"message": "x"}, headers).reason is Reason.RATE_LIMIT


def test_a_body_that_is_cut_is_understood_as_far_as_it_goes():
    body = json.dumps({"detail": [{"loc": ["body", "messages"], "msg": "Extra", "input": "x" * 9}]})
    for length in range(len(body) - 12, len(body)):
        assert MistralError.from_response(422, body[:length]).detail == "messages: Extra"


@pytest.mark.parametrize(
    "text",
    [
        "{" * 9000,
        "[{" * 9000,
        '{"message":' * 300 + "1" + "}" * 300,
        "x {'a':" * 50,
        "x " + "{'a':" * 400 + "1" + "}" * 400,
        "x {" + "-" * 3000 + "1}",
        "x {[]: 1}",
        "x {'error': '\\d'}",
        "<title" * 9000,
        "(" * 9000 + "{",
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_body_made_to_break_a_reader_breaks_nothing(text: str):
    for body in (text, {"message": text}, {"error": {"metadata": {"raw": text}}}, [text]):
        assert MistralError.from_stream(body).reason in (Reason.STREAM, Reason.REQUEST)


# --- errors beside what is said -------------------------------------------------------------------

CAUSE = {"code": 502, "message": "Provider disconnected", "metadata": {"provider_name": "Mistral"}}


@pytest.mark.parametrize("finish", [None, "stop", "length", "tool_calls", "error", ""])
@pytest.mark.parametrize("within", [False, True])
def test_an_error_beside_choices_counts_whatever_the_end_is_said_to_be(finish, within: bool):
    choice: dict = {"index": 0, "delta": {"content": "One"}, "finish_reason": finish}
    data: dict = {"id": "gen-1", "object": "chat.completion.chunk", "choices": [choice]}
    (choice if within else data)["error"] = CAUSE
    chunk, error = read_payload(json.dumps(data))
    assert chunk is not None
    assert chunk.text == "One"
    assert error is not None
    assert (error.reason, error.status_code) == (Reason.SERVER, 502)
    assert error.detail == "Provider disconnected"
    with pytest.raises(MistralError, match="Provider disconnected"):
        chunk_from_mapping(data)


@pytest.mark.parametrize(
    "error", [None, "", {}, [], "None", "null", False, {"code": None, "message": ""}, {"code": 0}]
)
def test_an_empty_error_beside_choices_is_none(error):
    for data in (
        {"choices": [{"delta": {"content": "One"}}], "error": error},
        {"choices": [{"delta": {"content": "One"}, "error": error}]},
    ):
        assert chunk_from_mapping(data).text == "One"


def test_the_tokens_beside_an_error_are_counted():
    chunk, error = read_payload(json.dumps({"usage": {"prompt_tokens": 7}, "error": CAUSE}))
    assert chunk is not None
    assert chunk.usage is not None
    assert chunk.usage.prompt_tokens == 7
    assert error is not None
