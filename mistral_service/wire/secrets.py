"""Redacts the secrets of a request from the answers of a server.

A server, or a gateway in front of it, may repeat a request in its answer: whole or in part, encoded
for a URL, for JSON, for HTML, or as base64. The value of every header counts as a secret, except
for those of a short list.
"""

import base64
import html
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from string import ascii_lowercase, ascii_uppercase
from typing import Any, cast
from urllib.parse import quote, quote_plus, unquote
from urllib.request import getproxies
from weakref import WeakKeyDictionary

from openai import AsyncOpenAI
from yarl import URL

from mistral_service.wire.encoding import decode
from mistral_service.wire.trees import objects_of

REDACTED = "[key]"
"""Replaces a secret."""

_HARMLESS = frozenset(
    {
        *("accept", "accept-encoding", "accept-language", "cache-control", "connection"),
        *("content-length", "content-type", "host", "openai-beta", "traceparent", "user-agent"),
        *("transfer-encoding", "x-portkey-provider", "x-title"),
        *("api-version", "version"),  # of a query
    }
)
_HARMLESS_BEGINNINGS = ("x-stainless-",)

_SECRET_NAME = re.compile(
    r"(key|auth|authorization|token|cookies?|secrets?|credentials?|password|passwd|pwd"
    r"|token[-_]?id|config|signature|private)$",
    re.IGNORECASE,
)
_PARTS = re.compile(r"[^\s;,=\"'{}\[\]()<>&?|:]+")

_SHORTEST = 8
"""Characters of the shortest secret, and of the shortest part of one: a shorter value is a
placeholder, such as "any" for the key of a local server."""

_SHORTEST_PASSWORD = 4

_FOLD = str.maketrans(ascii_uppercase, ascii_lowercase)


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that was sent.

    If `in_part`, parts of eight characters or more are secret too: of a key, but not of any header.
    """

    value: str
    in_part: bool = True


_EXTRAS = ("extra_headers", "extra_query", "extra_body")
_extras: WeakKeyDictionary[AsyncOpenAI, deque[Mapping[str, Any]]] = WeakKeyDictionary()


def remember(client: AsyncOpenAI, params: Mapping[str, Any]) -> None:
    """Remember what a request sends in addition to its client's headers and query.

    These are the parameters in `_EXTRAS`, and the credentials of connectors in `tools`. They are
    examined when an error occurs.
    """
    extras = {name: params[name] for name in _EXTRAS if params.get(name)}
    if credentials := _connector_credentials(params.get("tools")):
        extras["tools"] = credentials
    if extras:
        # An error of an earlier turn may come late, so the last few are stored.
        latest = _extras.setdefault(client, deque(maxlen=4))
        if extras not in latest:
            latest.append(extras)


def secrets_of(client: AsyncOpenAI) -> list[Secret]:
    """The possible secrets in the requests of a client."""
    found = [*secrets_in(client.api_key), *_of_headers(client.default_headers)]
    found += _of_headers(client.default_query)
    found += _of_userinfo(str(client.base_url))
    for proxy in getproxies().values():
        found += _of_userinfo(proxy)
    for extras in _extras.get(client, ()):
        found += _of_headers(extras.get("extra_headers"))
        found += _of_headers(extras.get("extra_query"))
        found += _named(extras.get("extra_body"))
        found += _named(extras.get("tools"))
    return found


def secrets_in(key: str) -> list[Secret]:
    """A key as a secret; none if it is too short to be one."""
    return [Secret(key)] if len(key) >= _SHORTEST else []


def _connector_credentials(tools: Any) -> dict[str, Any]:
    """The credentials of the connectors in some tools, under a name that marks them as secret."""
    found = [tool["authorization"] for tool in objects_of(tools) if "authorization" in tool]
    values = [each.get("value") for each in objects_of(found)]
    return {"token": values} if values else {}


class Redactor:
    """Redacts secrets from texts, in any encoding."""

    def __init__(self, secrets: Iterable[Secret]) -> None:
        self._whole: set[str] = set()
        self._parts: set[str] = set()
        self._beginnings: set[str] = set()
        for secret in secrets:
            forms = {form.translate(_FOLD) for form in _forms(secret.value)}
            self._whole |= forms
            for form in forms if secret.in_part else ():
                last = len(form) - _SHORTEST
                self._parts.update(form[at : at + _SHORTEST] for at in range(last + 1))
                self._beginnings.update(form[:length] for length in range(4, _SHORTEST))

    def __call__(self, text: str) -> str:
        """A text of some hundred characters, with `[key]` in place of each secret."""
        folded = text.translate(_FOLD)
        marked = bytearray(len(text))
        for form in self._whole:
            at = folded.find(form)
            while at >= 0:
                _mark(marked, at, len(form))
                at = folded.find(form, at + 1)
        for at in range(len(text) - _SHORTEST + 1):
            if folded[at : at + _SHORTEST] in self._parts:
                _mark(marked, at, _SHORTEST)
        words = folded.removesuffix("…")
        if words != folded:
            # A text that was cut may end with the beginning of a secret.
            for length in range(4, min(_SHORTEST, len(words) + 1)):
                if words[-length:] in self._beginnings:
                    _mark(marked, len(words) - length, length)
        pieces: list[str] = []
        for is_marked, group in groupby(zip(marked, text, strict=True), key=itemgetter(0)):
            pieces += [REDACTED] if is_marked else [character for _, character in group]
        return "".join(pieces)


def _mark(marked: bytearray, at: int, length: int) -> None:
    marked[at : at + length] = b"\1" * length


def _forms(value: str) -> set[str]:
    """The encodings in which a value may occur in a text."""
    value = value.strip()
    raw = value.encode("utf-8", "replace")
    forms = {
        value,
        " ".join(value.split()),  # as an error shows it
        quote(value, safe=""),
        quote(value),
        quote_plus(value),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        value.replace("/", "\\/"),
        html.escape(value),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    }
    return forms - {""}


def _of_headers(headers: Any) -> Iterator[Secret]:
    """The values of headers, or of a query."""
    for name, value in (cast("Mapping[Any, Any]", headers) or {}).items():
        plain = str(name).lower().replace("_", "-")
        if plain in _HARMLESS or plain.startswith(_HARMLESS_BEGINNINGS):
            continue
        values = cast("list[Any]", value) if isinstance(value, list | tuple) else [value]
        for each in values:
            if isinstance(each, bytes):
                each = each.decode("latin-1")
            if isinstance(each, str):
                yield from _of_value(each, secret=_SECRET_NAME.search(plain) is not None)


def _of_value(value: str, *, secret: bool) -> Iterator[Secret]:
    if len(value) >= (_SHORTEST_PASSWORD if secret else _SHORTEST):
        yield Secret(value, in_part=False)
    inner = _json(value)
    if inner is not None:
        yield from _named(inner)
    elif "://" in value:
        yield from _of_userinfo(value)
    elif not secret:
        return
    # The part after `Bearer`, and after a cookie's name.
    for piece in (value, *value.split(";")):
        for part in (piece.strip().partition(" ")[2], piece.partition("=")[2].strip()):
            if secret and inner is None and len(part) >= _SHORTEST:
                yield Secret(part)
    for part in _PARTS.findall(value):
        # `Bearer`, the name of a cookie or a provider are words, and not secret.
        if len(part) >= 16 or (len(part) >= _SHORTEST and not (inner or part.isalpha())):
            yield Secret(part)


def _named(data: Any, *, secret: bool = False, depth: int = 8) -> Iterator[Secret]:
    """The strings in JSON under a name that marks them as secret."""
    if isinstance(data, Mapping):
        for name, value in cast("Mapping[Any, Any]", data).items():
            is_secret = secret or _SECRET_NAME.search(str(name)) is not None
            if depth:
                yield from _named(value, secret=is_secret, depth=depth - 1)
    elif isinstance(data, list | tuple) and depth:
        for value in cast("Iterable[Any]", data):
            yield from _named(value, secret=secret, depth=depth - 1)
    elif isinstance(data, str) and secret and len(data) >= _SHORTEST_PASSWORD:
        yield Secret(data)


def _of_userinfo(url: str) -> Iterator[Secret]:
    """User and password of an address, also as in `Authorization: Basic`."""
    try:
        user, password = URL(url).raw_user or "", URL(url).raw_password or ""
    except ValueError:
        return
    pair = f"{user}:{password}"
    if pair == ":":
        return
    for each in (pair, f"{unquote(user)}:{unquote(password)}"):
        yield Secret(each, in_part=False)
        yield Secret(base64.b64encode(each.encode()).decode().rstrip("="))
    for each in {password, unquote(password), *({user} if not password else ())}:
        if len(each) >= _SHORTEST_PASSWORD:
            yield Secret(each)


def _json(value: str) -> Any:
    if not value.lstrip().startswith(("{", "[")):
        return None
    try:
        return decode(value)
    except ValueError:
        return None
