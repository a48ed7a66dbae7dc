"""What can go wrong between a service and Mistral, as a table: each fault, and what comes of it.

`tests/turn/test_fault_matrix.py` lets each of them happen. `docs/faults.md` is this table in print.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fault_proxy import Bytes, Chunks, Ending, Marker, Place, Trouble, response

from mistral_service import Reason

TEXT = "Ça va très bien, merci."
"""What the model says to everything."""
AFTERWARDS = "Voilà."
"""What it says after its function, where one is offered."""
FUNCTION = "make_tea"
ARGUMENTS = {"wish": "thé à la menthe"}

FIN, RST, SILENCE, END, GOES_ON = Ending

LIMITS = {
    "connect_timeout": 0.5,
    "first_token_timeout": 0.6,
    "stall_timeout": 0.4,
    "turn_timeout": 3.0,
}
"""The settings of the matrix, in seconds; beside functions a stall may take three times as long."""


@dataclass(frozen=True)
class Fault:
    """One row: what goes wrong, and what the caller meets.

    Parameters:
        name: What goes wrong, in words.
        troubles: It, as data; of several, each meets a turn of its own.
        told: The reason of the error that is told; None where the turn is saved.
        attempts: What reaches the far side: requests for the first reply of the turn, or
            connections that come no further.
        usable: Whether the service counts as usable afterwards.
        heard: The words that are heard, where that is not all of them, or none before an error.
        always: Whether it happens to every attempt of the turn.
        port_closed: Whether the port is closed, for the first attempt or always.
        tls: Whether the client speaks TLS, and the road does with a certificate that nobody
            trusts ("untrusted"), or not at all ("none").
        only_with_tools: Whether it can only happen where functions are offered.
        limits: Settings that are other than `LIMITS`.
    """

    name: str
    troubles: Sequence[Trouble] = ()
    told: Reason | None = None
    attempts: int = 2
    usable: bool = True
    heard: str | None = None
    always: bool = False
    port_closed: bool = False
    tls: str | None = None
    only_with_tools: bool = False
    limits: Mapping[str, float] = field(default_factory=dict[str, float])

    def words(self, *, tools: bool) -> str:
        """The words that a caller hears in a turn."""
        if self.heard is not None or self.told:
            return self.heard or ""
        return TEXT + (AFTERWARDS if tools else "")

    def outcome(self, *, tools: bool) -> str:
        """What comes of it, in a few words."""
        if self.only_with_tools and not tools:
            return "—"
        if self.told:
            heard = "the words, then " if self.heard else ""
            return f"{heard}`{self.told.value}`" + ("" if self.usable else ", unusable")
        return "all words" + (", one run" if tools else "")


def event(content: str | None = None, **choice: object) -> bytes:
    """One event of a stream, in its shortest form."""
    delta = {} if content is None else {"content": content}
    data = {"choices": [{"delta": delta, **choice}]}
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def refusal(status: int, body: object = b"", **headers: str) -> Trouble:
    """An answer in place of a reply; the connection stays."""
    return Trouble(Place.REQUEST, END, response(status, body, **headers))


def stream(*data: bytes, how: Ending = END, pause: float | None = None) -> Trouble:
    """A stream of its own in place of the reply."""
    return Trouble(Chunks(0), how, b"".join(data), pause=pause)


def retry_after(value: str) -> Trouble:
    """A rate limit that says when to come back."""
    date = "Sat, 21 Nov 2026 08:00:00 GMT"
    return refusal(429, {"message": "slow down"}, retry_after=value, date=date)


def bodies(status: int) -> list[Trouble]:
    """A refusal in each form that bodies of errors have."""
    issue = {"type": "odd", "loc": ["body", "messages", 0], "msg": "It will not do"}
    forms = [
        {"object": "error", "message": "No.", "type": "odd", "param": None, "code": None},
        {"detail": "No."},
        {"detail": [issue]},
        {"message": "No.", "request_id": "r1"},
        {"object": "error", "message": {"detail": [issue]}, "type": "odd"},
        "<html><body><h1>No.</h1></body></html>",
        b"",
        b"\xff\xfe No.",
    ]
    return [refusal(status, form) for form in forms]


GUARDRAIL = {
    "error": {"message": "Content blocked by guardrail", "status": 403},
    "guardrails": {"moderation": {"triggered": True}},
}
ORDER = {
    "object": "error",
    "message": "Unexpected role 'user' after role 'tool'",
    "type": "invalid_request_message_order",
    "code": "3230",
}
NO_MODEL = {
    "object": "error",
    "message": "Invalid model: x",
    "type": "invalid_model",
    "code": "1500",
}
DISGUISED = {"object": "error", "message": "Service unavailable.", "code": "3600"}
OVERLOADED = b'data: {"object": "error", "message": "overloaded", "code": null}\n\n'
OUT_OF_ORDER = b"data: " + json.dumps(ORDER).encode() + b"\n\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
MEGABYTE = 2**20

# Where nothing ever comes, nobody needs to wait for it for long.
NEVER = {"turn_timeout": 1.5}
# A busy machine is slow with single bytes.
PATIENT = {"first_token_timeout": 5.0, "stall_timeout": 5.0}

AT_THE_DOOR: list[Fault] = [
    Fault("the port is closed for a moment", attempts=1, port_closed=True),
    Fault("the port is closed", told=Reason.UNREACHABLE, attempts=0, port_closed=True, always=True),
    Fault("the connection is reset as soon as it is open", [Trouble(Place.DOOR, RST)]),
    Fault("the connection is closed as soon as it is open", [Trouble(Place.DOOR, FIN)]),
    Fault("the connection is open, and no answer comes", [Trouble(Place.DOOR, SILENCE)]),
    Fault(
        "the server has no TLS",
        [Trouble(Place.DOOR, FIN, b"HTTP/1.1 400 Bad Request\r\n\r\n")],
        told=Reason.UNREACHABLE,
        attempts=3,
        tls="none",
        always=True,
    ),
    Fault(
        "the certificate is not trusted",
        told=Reason.UNREACHABLE,
        attempts=3,
        tls="untrusted",
        always=True,
    ),
    Fault(
        "the TLS handshake gets no answer",
        [Trouble(Place.DOOR, SILENCE)],
        told=Reason.TIMEOUT,
        tls="none",
        always=True,
        limits=NEVER,
    ),
]

BEFORE_THE_STREAM = [
    Fault("the connection is closed after the request", [Trouble(Place.REQUEST, FIN)]),
    Fault("the connection is reset after the request", [Trouble(Place.REQUEST, RST)]),
    Fault("no headers come", [Trouble(Place.REQUEST, SILENCE)]),
    Fault(
        "no headers ever come",
        [Trouble(Place.REQUEST, SILENCE)],
        told=Reason.TIMEOUT,
        always=True,
        limits=NEVER,
    ),
    Fault(
        "every connection is reset after the request",
        [Trouble(Place.REQUEST, RST)],
        told=Reason.UNREACHABLE,
        attempts=3,
        always=True,
    ),
    Fault("half of the headers", [Trouble(Place.REQUEST, FIN, STREAM_HEAD)]),
    Fault("half of the headers, then nothing", [Trouble(Place.REQUEST, SILENCE, STREAM_HEAD)]),
    Fault("invalid headers", [Trouble(Place.REQUEST, FIN, b"\x00\xff\x13 what\r\n\r\n")]),
    Fault(
        "a 103 before the answer",
        [Trouble(Place.REQUEST, GOES_ON, b"HTTP/1.1 103 \r\n\r\n")],
        attempts=1,
    ),
    Fault("200 with an HTML page", [refusal(200, "<html>Log in</html>", content_type="text/html")]),
    Fault("200 with an empty body", [refusal(200)]),
    Fault("204", [Trouble(Place.REQUEST, END, b"HTTP/1.1 204 No Content\r\n\r\n")]),
    Fault(
        "a stream with the content type of a page",
        [Trouble(Chunks(0), GOES_ON, headers={"content-type": "text/html"})],
        attempts=1,
    ),
    Fault(
        "a redirect to another host",
        [refusal(307, location="{elsewhere}/chat/completions")],
        told=Reason.REQUEST,
        attempts=1,
    ),
    Fault(
        "a body that is not in its content encoding",
        [Trouble(Chunks(0), GOES_ON, headers={"content-encoding": "gzip"})],
    ),
]

IN_THE_STREAM = [
    Fault("headers, then nothing", [stream(how=SILENCE)]),
    Fault("headers, then the connection is closed", [stream(how=FIN)]),
    Fault("headers, then the connection is reset", [stream(how=RST)]),
    Fault("an empty stream", [stream()]),
    Fault("`[DONE]` alone", [stream(DONE)]),
    Fault("`[DONE]` alone, always", [stream(DONE)], told=Reason.EMPTY, always=True),
    Fault(
        "nothing but comments that keep the connection alive",
        [stream(b": ping\n\n" * 99, pause=0.02)],
    ),
    Fault("the first chunk without words, then nothing", [Trouble(Chunks(1), SILENCE)]),
    Fault("after two words the connection is closed", [Trouble(Chunks(3), FIN)]),
    Fault("after two words the connection is reset", [Trouble(Chunks(3), RST)]),
    Fault("after two words the stream ends", [Trouble(Chunks(3), END)]),
    Fault("after two words nothing more comes", [Trouble(Chunks(3), SILENCE)]),
    Fault("closed inside the JSON of a chunk", [Trouble(Marker(b'"bien, '), FIN)]),
    Fault("reset inside the JSON of a chunk", [Trouble(Marker(b'"bien, '), RST)]),
    Fault("the end inside the JSON of a chunk", [Trouble(Marker(b'"bien, '), END)]),
    Fault("silence inside the JSON of a chunk", [Trouble(Marker(b'"bien, '), SILENCE)]),
    Fault("closed inside a character of two bytes", [Trouble(Marker(b"tr\xc3"), FIN)]),
    Fault("the end inside a character of two bytes", [Trouble(Marker(b"tr\xc3"), END)]),
    Fault("silence inside a character of two bytes", [Trouble(Marker(b"tr\xc3"), SILENCE)]),
    Fault("closed within the first bytes of the body", [Trouble(Bytes(7), FIN)]),
    Fault(
        "closed inside the arguments of a call",
        [Trouble(Marker(b"th\xc3"), FIN)],
        only_with_tools=True,
    ),
    Fault(
        "the end inside the arguments of a call",
        [Trouble(Marker(b"th\xc3"), END)],
        only_with_tools=True,
    ),
    Fault(
        "silence inside the arguments of a call",
        [Trouble(Marker(b"th\xc3"), SILENCE)],
        only_with_tools=True,
    ),
    Fault("closed after the last word", [Trouble(Chunks(6), FIN)]),
    Fault("closed after the `finish_reason`", [Trouble(Chunks(7), FIN)], attempts=1),
    Fault("reset after the `finish_reason`", [Trouble(Chunks(7), RST)], attempts=1),
    Fault("silence after the `finish_reason`", [Trouble(Chunks(7), SILENCE)], attempts=1),
    Fault("the end without `[DONE]`", [Trouble(Chunks(7), END)], attempts=1),
    Fault("an open connection after `[DONE]`", [Trouble(Chunks(8), SILENCE)], attempts=1),
    Fault(
        "a reply that comes byte by byte",
        [Trouble(Chunks(0), GOES_ON, pause=0)],
        attempts=1,
        limits=PATIENT,
    ),
    Fault(
        "a chunk with a megabyte of padding",
        [Trouble(Chunks(1), GOES_ON, event("", p="x" * MEGABYTE))],
        attempts=1,
    ),
    Fault("an event of 17 megabytes", [stream(b"data: " + b"x" * 17 * MEGABYTE)]),
    Fault("some bytes twice", [Trouble(Marker(b'"bien'), GOES_ON, b'"bien')]),
    Fault(
        "the size of a chunk is not a number",
        [Trouble(Chunks(3), FIN, b"wide\r\n\r\n", bare=True)],
    ),
    Fault(
        "bytes that are not UTF-8",
        [Trouble(Chunks(3), GOES_ON, event("\x00").replace(b"\\u0000", b"\xff"))],
    ),
    Fault("broken JSON before the first word", [Trouble(Chunks(1), GOES_ON, b"data: {broken\n\n")]),
    Fault("broken JSON after two words", [Trouble(Chunks(3), GOES_ON, b"data: {broken\n\n")]),
    Fault("an error before the first word", [Trouble(Chunks(1), END, OVERLOADED)]),
    Fault("an error after two words", [Trouble(Chunks(3), END, OVERLOADED)]),
    Fault("a bare error object after two words", [Trouble(Chunks(3), END, OVERLOADED[6:])]),
    Fault(
        "a permanent error in the stream",
        [stream(OUT_OF_ORDER)],
        told=Reason.HISTORY,
        attempts=1,
    ),
    Fault(
        "`finish_reason` `error` before the first word",
        [stream(event("", finish_reason="error"), DONE)],
    ),
    Fault(
        "`finish_reason` `error` after two words",
        [Trouble(Chunks(3), END, event("", finish_reason="error") + DONE)],
    ),
    Fault(
        "`finish_reason` `length` before the first word",
        [stream(event("", finish_reason="length"), DONE)],
        told=Reason.EMPTY,
        attempts=1,
    ),
]

STATUSES = [
    Fault("401", bodies(401), told=Reason.KEY, attempts=1, usable=False),
    Fault("403", bodies(403), told=Reason.FORBIDDEN, attempts=1, usable=False),
    Fault("422", bodies(422), told=Reason.REQUEST, attempts=1),
    Fault("429", bodies(429)),
    Fault("500", bodies(500)),
    Fault("502", bodies(502)),
    Fault("503", bodies(503)),
    Fault("504", bodies(504)),
    Fault(
        "any status with a message of a guardrail",
        [refusal(status, GUARDRAIL) for status in (400, 401, 403, 422, 429, 500, 502, 503, 504)],
        told=Reason.BLOCKED,
        attempts=1,
    ),
    Fault(
        "403, code 3201",
        [refusal(403, {"message": "No.", "code": 3201})],
        told=Reason.BLOCKED,
        attempts=1,
    ),
    Fault("400, code 3230", [refusal(400, ORDER)], told=Reason.HISTORY, attempts=1),
    Fault(
        "400, code 1500",
        [refusal(400, NO_MODEL)],
        told=Reason.UNKNOWN_MODEL,
        attempts=1,
        usable=False,
    ),
    Fault(
        "404",
        [refusal(404, {"detail": "Not Found"})],
        told=Reason.UNKNOWN_MODEL,
        attempts=1,
        usable=False,
    ),
    Fault("402", [refusal(402, {"detail": "Pay"})], told=Reason.QUOTA, attempts=1),
    Fault("413", [refusal(413, "too large")], told=Reason.TOO_LARGE, attempts=1),
    Fault(
        "500, 503 with code 3600",
        [refusal(s, DISGUISED) for s in (500, 503)],
        told=Reason.HISTORY,
        attempts=1,
    ),
    Fault("408, 529", [refusal(s, {"detail": "Later."}) for s in (408, 529)]),
    Fault(
        "503, always",
        [refusal(503, {"message": "full"})],
        told=Reason.CAPACITY,
        attempts=3,
        always=True,
    ),
    Fault(
        "500 with half of its body",
        [Trouble(Place.REQUEST, FIN, response(500, "No.", content_length="99"))],
    ),
    Fault(
        "500 with a body that does not end",
        [Trouble(Place.REQUEST, SILENCE, response(500, "No.", content_length="99"))],
    ),
]

RATE_LIMITS = [
    Fault("429, `Retry-After: 0.2`", [retry_after("0.2")]),
    Fault(
        "429, `Retry-After`: a date in one second", [retry_after("Sat, 21 Nov 2026 08:00:01 GMT")]
    ),
    Fault("429, `Retry-After: 60`", [retry_after("60")], told=Reason.RATE_LIMIT, attempts=1),
    Fault(
        "429, `Retry-After`: a date in the year 9999",
        [retry_after("Fri, 31 Dec 9999 23:59:59 GMT")],
        told=Reason.RATE_LIMIT,
        attempts=1,
    ),
    Fault(
        "429, `Retry-After`: -5, 1e308, NaN, a date that is past, no date at all",
        [retry_after(v) for v in ("-5", "1e308", "NaN", "Thu, 01 Jan 1970 00:00:00 GMT", "soon")],
    ),
]

GROUPS = {
    "Connecting": AT_THE_DOOR,
    "Before the stream": BEFORE_THE_STREAM,
    "In the stream": IN_THE_STREAM,
    "Statuses, each with every form of body": STATUSES,
    "Retry after": RATE_LIMITS,
}
FAULTS = [fault for group in GROUPS.values() for fault in group]
