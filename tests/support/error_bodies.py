"""Every form that Mistral's errors take, and what each one says."""

from mistral_service.wire.errors import Reason

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
