"""Parses the body of an error, in any form of a server or a gateway.

There is no one shape: `message` is a string, an object, a list, or JSON as a string; `code` a
string, an int or null; the body is `{"object": "error"}`, `{"detail": …}`, `{"message": …}`,
`{"error": …}`, a list of these, plain text, or a proxy's page. A gateway embeds the upstream's
error in its own, as `metadata.raw` or within a sentence. The innermost error is nearest to the
cause: its message is shown.
"""

import ast
import html
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from string import ascii_lowercase, ascii_uppercase
from typing import Any, cast

from pydantic_core import from_json

from mistral_service.wire.encoding import decode
from mistral_service.wire.numbers import wait

PAGE = "an HTML page, probably from a proxy"
"""The message for a page in place of JSON."""

_MAX_CHARS = 64 * 1024
_MAX_DEPTH = 12
_MAX_PYTHON = 4_000
_MAX_INSIDE = 4
_A_NAME = 40
"""Characters of the longest message that is also looked up as a type: "Unauthorized"."""

# Keys, without their spelling.
_STATUS = {
    *("code", "errorcode", "status", "statuscode", "httpstatus", "httpstatuscode", "httpcode"),
    *("rawstatuscode", "upstreamstatus", "upstreamstatuscode", "originalstatuscode"),
}
_CODE = ("code", "errorcode")
_TYPE = ("type", "errortype", "errtype")
_MARKS = ("flaggedinput", "reasons")
_RETRY = {"retryafter": 1.0, "retryafterseconds": 1.0, "retrydelay": 1.0, "retryafterms": 0.001}
_MAYBE_UPSTREAM = ("responsebody", "body", "response", "data")
_UPSTREAM = (
    *("raw", "rawerror", "upstreamerror", "originalerror", "providererror", "originalmessage"),
    *_MAYBE_UPSTREAM,
)
_OBJECTS = ("error", "errors", "fault", "output")
_MESSAGE = (
    *("message", "detail", "msg", "errormessage", "errordescription", "description"),
    *("faultstring", "htmlmessage", "error", "errors", "title"),
)
_MORE = ("details", "innererror", "cause", "metadata", "providerspecificfields", "extra", "headers")
_OF_AN_ERROR = (
    *("error", "errors", "detail", "message", "msg", "errormessage", "fault", "htmlmessage"),
)
_NOTHING = ("", "none", "null", "error")

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
_A_STATUS = re.compile(r"\s*(?:(?:http(?:/[\d.]+)?|status|error|code)[\s_:-]*)?([45]\d\d)\b", re.I)
_STATUS_IN_WORDS = re.compile(
    r"(?:^\W?|(?i:\bhttp(?:/[\d.]+)?[\s:]*|\b(?:status|code|error)\W{1,4}(?:code|status)?\W{0,4}))"
    r"([45]\d\d)(?=\W*$|\s*[:,)\]–-]|\.?\s+[A-Z{\"']| page not found)"
)
_CLASS = re.compile(
    r"(?:^|\blitellm\.(?:exceptions\.)?|\()([A-Z]\w{2,60}(?:Error|Exception)|Timeout)\b"
)


@dataclass(slots=True)
class ErrorBody:
    """A parsed body.

    Parameters:
        message: The message nearest to the cause.
        status: The HTTP status in the body; None if there is none.
        names: All codes and types, in the servers' spelling.
        words: All messages, which are searched for known words.
        request_id: The server's id of the request.
        retry_after: Seconds after which the body allows a retry.
    """

    message: str = ""
    status: int | None = None
    names: set[str] = field(default_factory=set[str])
    words: list[str] = field(default_factory=list[str])
    request_id: str | None = None
    retry_after: float | None = None
    _codes: list[str] = field(default_factory=list[str], init=False)
    _types: list[str] = field(default_factory=list[str], init=False)
    _status_depth: int = field(default=-1, init=False)

    @classmethod
    def read(cls, body: object, headers: Mapping[str, str] | None = None) -> "ErrorBody":
        """Parse a body: bytes, text, or decoded JSON."""
        found = cls()
        if isinstance(body, bytes):
            body = body[:_MAX_CHARS].decode("utf-8-sig", "replace")
        found._read(body, 0)
        for name in ("x-amzn-errortype", "x-ms-error-code"):  # where some clouds put the type
            if value := (headers or {}).get(name):
                found.names.add(value)
        return found

    @property
    def code(self) -> str | None:
        """The code nearest to the cause that is no status; otherwise the code of the status."""
        codes = [code for code in self._codes if _status(code) is None]
        codes += [code for code in self._codes if _status(code) == self.status]
        return codes[0] if codes else None

    @property
    def type(self) -> str | None:
        """The type nearest to the cause."""
        return self._types[0] if self._types else None

    def short_messages(self) -> set[str]:
        """Messages so short that they may be a type: "Unauthorized"."""
        return {text for text in self.words if len(text) <= _A_NAME}

    def status_in_words(self) -> int | None:
        """The HTTP status in the messages, as in "status code 429"."""
        for text in self.words:
            if (found := _STATUS_IN_WORDS.search(text[:500])) and PAGE not in text:
                return int(found[1])
        return None

    # --- by the type of the value ----------------------------------------------------------------

    def _read(self, value: object, depth: int) -> None:
        if depth > _MAX_DEPTH:
            return
        if isinstance(value, str):
            self._text(value, depth)
        elif isinstance(value, list):
            self._list(cast("list[object]", value), depth)
        elif isinstance(value, Mapping):
            self._object(cast("Mapping[str, Any]", value), depth)

    def _text(self, text: str, depth: int) -> None:
        text = text[:_MAX_CHARS].strip()
        if text.startswith(("{", "[", '"')):
            whole = _decoded(text)
            if isinstance(whole, dict | list):
                before = len(self.words)
                self._read(cast("object", whole), depth + 1)
                if len(self.words) > before:
                    return
            elif isinstance(whole, str):
                text = whole
        inside = None if text.startswith("<") else _inside(text)
        if inside is not None:
            place, value = inside
            inner = ErrorBody()
            inner._read(value, depth + 1)
            if inner.message:
                # Python's repr of bytes may be around it: b'{…}'.
                before = text[:place].rstrip("'\"( \n").removesuffix(" b")
                text = f"{before} {inner.message}"
            self._absorb(inner, with_message=False)
        else:
            text = _without_page(text)
        self._add_message(text)

    def _list(self, items: list[object], depth: int) -> None:
        """Issues, as a 422 lists them, or whole errors."""
        issues: list[str] = []
        for item in items[:3]:
            if isinstance(item, str):
                issues.append(item)
            elif isinstance(item, Mapping) and "loc" in item:
                self.names.add("validation_error")
                issues.append(_issue(cast("Mapping[str, Any]", item)))
            else:
                self._read(cast("object", item), depth + 1)
        self._add_message("; ".join(filter(None, issues)))

    def _object(self, data: Mapping[str, Any], depth: int) -> None:
        fields = _fields(data)
        for key, value in fields.items():
            self._field(key, value, depth)
        for key in _UPSTREAM:
            value = fields.get(key)
            # Under an ambiguous key, text is only an error if it is JSON.
            if value and not (
                key in _MAYBE_UPSTREAM and isinstance(value, str) and value[0] != "{"
            ):
                inner = ErrorBody()
                inner._read(value, depth + 1)
                self._absorb(inner)
        exceptions = [key for key in fields if key.endswith("exception")]
        self.names.update(key for key in exceptions if isinstance(fields[key], Mapping))
        nested = [*_OBJECTS, *exceptions]
        for key in nested:
            if not isinstance(fields.get(key), str):
                self._read(fields.get(key), depth + 1)
        for key in (*_MESSAGE, *_MORE):
            value = fields.get(key)
            if isinstance(value, str) or (value and key not in nested):
                self._read(value, depth + 1)

    def _field(self, key: str, value: object, depth: int) -> None:
        """A field with a meaning of its own."""
        status = _status(value) if key in _STATUS and depth > self._status_depth else None
        if status is not None:
            self.status, self._status_depth = status, depth
        if (key in _MARKS and value) or (key == "guardrails" and value is not None):
            self.names.add(key)
        if key in _RETRY and self.retry_after is None:
            seconds = _number(value)
            self.retry_after = wait(None if seconds is None else seconds * _RETRY[key])
        if isinstance(value, bool) or not isinstance(value, str | int):
            return
        text = str(value).strip()
        if text.lower() in _NOTHING:
            return
        if key == "requestid":
            self.request_id = text
        if key in _CODE:
            self._codes.append(text)
        if key in _TYPE:
            self._types.append(text)
        if key in (*_CODE, *_TYPE, *_STATUS, "reason", "name", "error"):
            self.names.add(text)

    def _absorb(self, inner: "ErrorBody", *, with_message: bool = True) -> None:
        """Take over the upstream's error: it is nearer to the cause."""
        self.names |= inner.names
        self.words += inner.words
        if with_message:
            self.message = inner.message or self.message
        self._codes = inner._codes + self._codes
        self._types = inner._types + self._types
        if inner.status is not None:
            self.status, self._status_depth = inner.status, _MAX_DEPTH
        self.request_id = self.request_id or inner.request_id
        self.retry_after = inner.retry_after if self.retry_after is None else self.retry_after

    def _add_message(self, text: str) -> None:
        text = text.strip()
        if not text or text.lower() in _NOTHING:
            return
        self.message = self.message or text
        self.words.append(text)
        self.names.update(_CLASS.findall(text[:500]))


def is_error(data: Mapping[str, Any]) -> bool:
    """Whether an object that is no chunk of a reply is an error."""
    fields = _fields(data)
    return (
        "error" in (data.get("object"), data.get("type"))
        or any(fields.get(key) for key in _OF_AN_ERROR)
        or any(key.endswith("exception") for key in fields)
        or any(_status(fields[key]) is not None for key in _STATUS & fields.keys())
    )


def is_there(error: object) -> bool:
    """Whether the value of `error` is an error: some servers send an empty one with every chunk."""
    if isinstance(error, str):
        return error.strip().lower() not in ("", "none", "null")
    if isinstance(error, Mapping):
        return any(cast("Mapping[str, object]", error).values())
    return bool(error)


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by normalised key: `statuscode` for `status_code`, `statusCode`."""
    return {
        re.sub(r"[^a-z0-9]", "", str(key).lower()): value
        for key, value in data.items()
        if not str(key).startswith("@")  # type annotations, as Google writes them
    }


def _status(value: object) -> int | None:
    """An HTTP status from 400 to 599, as a number or in a string: "429", "HTTP 429", "429 Slow"."""
    if isinstance(value, int | float):
        return int(value) if 400 <= value < 600 else None
    found = _A_STATUS.match(value) if isinstance(value, str) else None
    return int(found[1]) if found else None


def _number(value: object) -> float | None:
    """Seconds, as a number or as "2.5s"."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,20})?)\s*s?\s*", str(value), re.ASCII)
    return float(found[1]) if found else None


def _issue(data: Mapping[str, Any]) -> str:
    """One entry of a 422's list, as `messages.0.user.name: Extra inputs are not permitted`."""
    where = [str(part) for part in cast("list[object]", data.get("loc") or []) if part != "body"]
    message = str(data.get("msg") or data.get("message") or "")
    return ": ".join(filter(None, (".".join(where), message)))


def _decoded(text: str) -> object:
    """Decode JSON, also if it is truncated; None for anything else."""
    try:
        return decode(text)
    except ValueError:
        pass
    try:
        return from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return None


def _inside(text: str) -> tuple[int, object] | None:
    """An error within a sentence, as JSON or as a Python literal, and its index in the text."""
    for opening in islice(re.finditer(r"\[\s*\{|\{", text), _MAX_INSIDE):
        place = opening.start()
        value: object = None
        try:
            value, _ = json.JSONDecoder(strict=False).raw_decode(text, place)
        except (ValueError, RecursionError):
            value = _of_python(text[place : max(text.rfind("}"), text.rfind("]")) + 1])
        items = cast("list[object]", value if isinstance(value, list) else [value])
        first = items[0] if items else None
        if place and isinstance(first, dict) and is_error(cast("dict[str, Any]", first)):
            return place, cast("object", value)
    return None


def _of_python(text: str) -> object:
    """Parse a Python literal, which a gateway wrote as `str(body)`; None for anything else."""
    if len(text) > _MAX_PYTHON:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _without_page(text: str) -> str:
    """A text, with an HTML page at its end replaced by the page's title."""
    lower = text.translate(_LOWER)  # `lower()` would change the length of an İ
    begins = [lower.find(mark) for mark in ("<!doctype", "<html", "<head", "<?xml")]
    begin = min((place for place in begins if place >= 0), default=-1)
    if begin < 0 and lower.startswith("<") and "</" in lower:
        begin = 0
    if begin < 0:
        return text
    title = _element(text, lower, "title") or _element(text, lower, "message")
    return text[:begin] + (f"{PAGE}: {title}" if title else PAGE)


def _element(text: str, lower: str, name: str) -> str:
    opening = lower.find(f"<{name}")
    begin = lower.find(">", opening) + 1 if opening >= 0 else 0
    end = lower.find(f"</{name}", begin)
    return " ".join(html.unescape(text[begin:end]).split())[:200] if 0 < begin < end else ""
