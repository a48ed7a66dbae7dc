"""Twilio's webhook and media streams: signatures, TwiML, and the tokens of calls.

A `callSid` is no secret: Twilio sends it to webhooks, logs and consoles. So every call has a token,
a `<Parameter>` of the stream in the TwiML, and the name of its record contains both. Pure, apart
from reading the body of a request.
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

MAX_FORM = 65_536
"""Bytes of a webhook's form; Twilio's has some 2,000."""

BROKEN_WITHIN_S = 5
"""A stream that ends within so many seconds was refused, or broke at once: the next one begins with
a pause of a second, so that Twilio does not come back hundreds of times a second."""

_AT = re.compile(r"[0-9]{1,12}")
_CALL = re.compile(r"CA[0-9a-f]{32}")
_STREAM = re.compile(r"MZ[0-9a-f]{32}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)(:[0-9]{1,5})?")
_PORTS = {"https": 443, "http": 80}


class NotTwilio(ValueError):
    """A request or stream that cannot be Twilio's; the message says why."""


class TwimlWebhook:
    """Answers Twilio's webhook, and verifies the media streams that follow from its answers."""

    def __init__(self, auth_token: str | None = None) -> None:
        """Make it.

        With the account's auth token only requests that Twilio has signed get TwiML, and a call's
        token is derived from its `callSid`. Without it anyone gets TwiML, each time with a new
        token, which the redirect's URL contains then.
        """
        self._key = auth_token

    async def respond(self, request: Request) -> str:
        """TwiML that connects the call's audio here, and asks again when the stream ends.

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
        redirect = f"https://{address}?{urlencode(query)}"
        before = request.query_params.get("at", "")
        broke_at_once = _AT.fullmatch(before) and 0 <= now - int(before) < BROKEN_WITHIN_S
        pause = '<Pause length="1"/>' if broke_at_once else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            f"<Response>{pause}<Connect><Stream url={quoteattr(f'wss://{address}/media')}>"
            f'<Parameter name="token" value={quoteattr(token)}/></Stream></Connect>'
            f'<Redirect method="POST">{escape(redirect)}</Redirect></Response>'
        )

    def verify(self, start: Mapping[str, Any], token: str) -> tuple[str, str]:
        """Verify a stream; returns its `callSid`, and the name of the call's record.

        Raises:
            NotTwilio: If an id is malformed, or the token is not the call's.
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
        """The call of a signed request, and the host that Twilio called."""
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
    """Whether Twilio has signed a request with a form, as its documentation describes it.

    It may have called any of the addresses: a proxy hides which one it was.
    """
    fields = "".join(name + value for name, value in sorted(set(form)))
    valid = False
    for address in addresses:
        digest = hmac.new(auth_token.encode(), (address + fields).encode(), hashlib.sha1).digest()
        expected = base64.b64encode(digest)
        valid = hmac.compare_digest(expected, signature.encode(errors="replace")) or valid
    return valid


def parse_start(text: str) -> tuple[dict[str, Any], str, str] | None:
    """Parse a message of a stream that may be Twilio's `start`.

    Returns:
        Its fields, its parameter `token`, and the message without the token, for the bot and its
        log; None for any other message.

    Raises:
        NotTwilio: If it is not a message of Twilio's.
    """
    try:
        message: Any = json.loads(text)
        if message["event"] != "start":
            return None
        start = message["start"]
        token = start.get("customParameters", {}).pop("token", "")
        return cast("dict[str, Any]", start), str(token), json.dumps(message)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NotTwilio("The message is not one of a media stream of Twilio's.") from None


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM:
            raise NotTwilio(f"The form has more than {MAX_FORM} bytes.")
    return bytes(body)


def _hosts(request: Request) -> list[str]:
    """The hosts that Twilio may have called: `X-Forwarded-Host` of a proxy, and `Host`."""
    forwarded = request.headers.get("x-forwarded-host", "").split(",")[0].strip()
    given = [name for name in (forwarded, request.headers.get("host", "")) if name]
    if not given or not all(_HOST.fullmatch(name) for name in given):
        raise NotTwilio("The request names no host: a proxy has to pass it on.")
    return given


def _addresses(request: Request, host: str) -> Iterator[str]:
    """The URLs that Twilio may have called: proxies end TLS and add ports."""
    url = urlsplit(str(request.url))
    rest = url.path + ("?" + url.query if url.query else "")
    name = re.sub(r":[0-9]+$", "", host)
    for scheme, port in _PORTS.items():
        for authority in dict.fromkeys((host, name, f"{name}:{port}")):
            yield f"{scheme}://{authority}{rest}"
