"""Twilio's door: whose requests get orders, and which stream may take up which call.

A `callSid` is no secret: Twilio tells it to webhooks, logs and consoles. So every call has a token,
which the orders carry as a `<Parameter>` of the stream, and what is kept of the call stands under
both. Pure, but for the body of a request.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit
from xml.sax.saxutils import escape, quoteattr

from starlette.requests import Request

FORM_LONGEST = 65_536
"""Bytes of a webhook's form; Twilio's has some 2,000."""

BROKEN_WITHIN_S = 5
"""Seconds within which a stream that has ended was refused, or broke at once: the next one waits
a second, so that Twilio does not come back hundreds of times a second."""

_AT = re.compile(r"[0-9]{1,12}")
_CALL = re.compile(r"CA[0-9a-f]{32}")
_STREAM = re.compile(r"MZ[0-9a-f]{32}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)(:[0-9]{1,5})?")
_PORTS = {"https": 443, "http": 80}


class NotTwilio(ValueError):
    """A request, or a stream, that cannot be Twilio's; the message says why."""


class Orders:
    """Answers Twilio's webhook, and knows the streams that follow from its answers."""

    def __init__(self, auth_token: str | None = None) -> None:
        """Prepare.

        Args:
            auth_token: The account's auth token. With it only requests that Twilio has signed get
                orders, and a call's token follows from its `callSid`. Without it anybody gets
                orders, each time with a new token, which the redirect's address then carries.
        """
        self._key = auth_token

    async def write(self, request: Request) -> str:
        """Connect the call's sound here, and come back when that breaks, as TwiML.

        Raises:
            NotTwilio: If the request is not signed as it must be, or names no host.
        """
        hosts, now = _hosts(request), int(time.time())
        query = {"at": str(now)}
        if self._key:
            call, host = await self._signed_call(request, hosts, self._key)
            token = self._token(call)
        else:
            host = hosts[0]
            given = request.query_params.get("token", "")
            token = given if _TOKEN.fullmatch(given) else secrets.token_urlsafe(24)
            query = {"token": token, **query}
        address = f"{host}{request.scope.get('root_path', '')}/twilio"
        again = f"https://{address}?{urlencode(query)}"
        before = request.query_params.get("at", "")
        broke_at_once = _AT.fullmatch(before) and 0 <= now - int(before) < BROKEN_WITHIN_S
        pause = '<Pause length="1"/>' if broke_at_once else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            f"<Response>{pause}<Connect><Stream url={quoteattr(f'wss://{address}/media')}>"
            f'<Parameter name="token" value={quoteattr(token)}/></Stream></Connect>'
            f'<Redirect method="POST">{escape(again)}</Redirect></Response>'
        )

    def call_of(self, start: Mapping[str, Any], token: str) -> tuple[str, str]:
        """The call of a stream.

        Args:
            start: What Twilio's `start` tells.
            token: The stream's parameter `token`.

        Returns:
            The `callSid`, and the name under which the call is kept.

        Raises:
            NotTwilio: If an id has no form that Twilio's have, or the token is not the call's.
        """
        call, stream = str(start.get("callSid")), str(start.get("streamSid"))
        if not (_CALL.fullmatch(call) and _STREAM.fullmatch(stream) and _TOKEN.fullmatch(token)):
            raise NotTwilio("The stream has no callSid, streamSid or token of the right form.")
        if self._key and not hmac.compare_digest(token, self._token(call)):
            raise NotTwilio("The token is not that of the call.")
        return call, f"twilio:{call}-{token}"

    def _token(self, call: str) -> str:
        key = hashlib.sha256(b"mistral-service twilio\n" + str(self._key).encode()).digest()
        digest = hmac.new(key, call.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:24]).decode()

    async def _signed_call(
        self, request: Request, hosts: Sequence[str], key: str
    ) -> tuple[str, str]:
        """The call that Twilio asks about, and the host that it asked."""
        form = parse_qsl((await _body(request)).decode(errors="replace"), keep_blank_values=True)
        signature = request.headers.get("x-twilio-signature", "")
        signed = [h for h in hosts if is_signed(key, _addresses(request, h), form, signature)]
        if not signed:
            raise NotTwilio("The request has no signature of Twilio's.")
        call = dict(form).get("CallSid", "")
        if not _CALL.fullmatch(call):
            raise NotTwilio("The request names no call: CallSid is CA and 32 hexadecimal digits.")
        return call, signed[0]


def is_signed(
    auth_token: str, addresses: Iterator[str], form: Sequence[tuple[str, str]], signature: str
) -> bool:
    """Whether Twilio has signed a request, as its documentation describes it.

    Args:
        auth_token: The account's auth token.
        addresses: The addresses that Twilio may have called: which one a proxy hides.
        form: The fields of the body.
        signature: The header `X-Twilio-Signature`.
    """
    fields = "".join(name + value for name, value in sorted(set(form)))
    valid = False
    for address in addresses:
        digest = hmac.new(auth_token.encode(), (address + fields).encode(), hashlib.sha1).digest()
        made = base64.b64encode(digest)
        valid = hmac.compare_digest(made, signature.encode(errors="replace")) or valid
    return valid


def stream_of(text: str) -> tuple[dict[str, Any], str, str] | None:
    """Twilio's `start`, if a message is one.

    Args:
        text: The message.

    Returns:
        What it tells, its parameter `token`, and the message without that, for the bot and its log;
        None for any other message.

    Raises:
        NotTwilio: If it is no message of Twilio's.
    """
    try:
        message: Any = json.loads(text)
        if message["event"] != "start":
            return None
        start = message["start"]
        token = start.get("customParameters", {}).pop("token", "")
        return cast("dict[str, Any]", start), str(token), json.dumps(message)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NotTwilio("The message is none of Twilio's media streams.") from None


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > FORM_LONGEST:
            raise NotTwilio(f"The form has more than {FORM_LONGEST} bytes.")
    return bytes(body)


def _hosts(request: Request) -> list[str]:
    """The hosts that Twilio may have called: what a proxy passes on, and what it calls itself."""
    forwarded = request.headers.get("x-forwarded-host", "").split(",")[0].strip()
    given = [name for name in (forwarded, request.headers.get("host", "")) if name]
    if not given or not all(_HOST.fullmatch(name) for name in given):
        raise NotTwilio("The request's host is none: a proxy has to pass it on.")
    return given


def _addresses(request: Request, host: str) -> Iterator[str]:
    """The request's address as Twilio may have written it: proxies end TLS and add ports."""
    url = urlsplit(str(request.url))
    rest = url.path + ("?" + url.query if url.query else "")
    name = re.sub(r":[0-9]+$", "", host)
    for scheme, port in _PORTS.items():
        for authority in dict.fromkeys((host, name, f"{name}:{port}")):
            yield f"{scheme}://{authority}{rest}"
