"""The checks of `mistral-service doctor`, one finding at a time; `doctor.py` shows them."""

import asyncio
import contextlib
import difflib
import json
import platform
import socket
import ssl
import statistics
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.request import getproxies, proxy_bypass

from openai import AsyncOpenAI, Timeout

from mistral_service import __version__
from mistral_service.cli.endpoint import Endpoint
from mistral_service.reply.events import Event, Text, Thought
from mistral_service.reply.reader import ReplyReader
from mistral_service.wire.client import error_of, open_reply, read_chunks
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.http import http_client, tls_context
from mistral_service.wire.models import Catalogue, ModelCard, fastest_effort

TESTED_PIPECAT = "1.14"
"""The version of Pipecat that the tests of this release ran with."""

_CONNECT_SECONDS = 5.0
_TRY_SECONDS = 15.0
_SLOW_SECONDS = 1.0  # Mistral's models begin within one second
_CLOCK_SECONDS = 5.0  # the header has whole seconds, and the request takes a part of one
_CERTIFICATE_DAYS = 14


class State(Enum):
    """The severity of a finding."""

    GOOD = "good"
    NOTE = "note"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """The result of one check; `seconds` are the measured times."""

    name: str
    state: State
    said: str
    advice: str = ""
    seconds: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The finding as JSON."""
        seconds = [round(each, 4) for each in self.seconds]
        return {**asdict(self), "state": self.state.value, "seconds": seconds}


async def run_checks(endpoint: Endpoint, model: str, tries: int = 5) -> AsyncGenerator[Finding]:
    """Check everything that a bot needs to speak; `tries` replies are timed.

    Yields:
        The findings, as they come. Checks that depend on a failed one are skipped.
    """
    yield _versions()
    reached = True
    async for finding in _connection(endpoint):
        yield finding
        reached = reached and finding.state is not State.FAULT
    if not reached:
        return
    async with AsyncOpenAI(
        api_key=endpoint.key,
        base_url=endpoint.base_url,
        http_client=http_client(),
        max_retries=0,
    ) as client:
        known = True
        async for finding in _catalogue(client, model):
            yield finding
            known = known and finding.state is not State.FAULT
        if known and tries:
            yield await _first_words(client, model, tries)


def _versions() -> Finding:
    installed = {"mistral_service": __version__, "Python": platform.python_version()}
    for name in ("pipecat-ai", "openai", "aiohttp"):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            return Finding("versions", State.FAULT, f"{name} is missing", f"pip install {name}")
    said = ", ".join(f"{name} {number}" for name, number in installed.items())
    if not installed["pipecat-ai"].startswith(f"{TESTED_PIPECAT}."):
        advice = f"this release was tested with Pipecat {TESTED_PIPECAT}: others may work"
        return Finding("versions", State.NOTE, said, advice)
    return Finding("versions", State.GOOD, said)


async def _connection(endpoint: Endpoint) -> AsyncGenerator[Finding]:
    """Check the connection to the endpoint, and its TLS."""
    where = f"{endpoint.host} port {endpoint.port}"
    scheme = "https" if endpoint.is_encrypted else "http"
    proxy = getproxies().get(scheme)
    if proxy and not proxy_bypass(endpoint.host):
        # Its address may hold a password.
        yield Finding("connection", State.NOTE, f"{where}, through the proxy of the environment")
        return
    began = time.perf_counter()
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            context = tls_context() if endpoint.is_encrypted else None
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context)
    except OSError as e:
        yield _no_connection(e, endpoint.host, where)
        return
    took = time.perf_counter() - began
    try:
        what = "connected with TLS" if endpoint.is_encrypted else "connected"
        yield Finding("connection", State.GOOD, f"{where}, {what} in {took * 1000:.0f} ms")
        yield _tls(endpoint, writer.get_extra_info("ssl_object"))
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _no_connection(error: OSError, host: str, where: str) -> Finding:
    name, said = "connection", f"{where}: {error.strerror or error}"
    match error:
        case ssl.SSLCertVerificationError():
            name, said = "TLS", f"{where}: {error.verify_message}"
            advice = "if a proxy opens TLS on the way, name its certificates in SSL_CERT_FILE"
        case ssl.SSLError():
            name, said = "TLS", f"{where}: {error.reason or error}"
            advice = "the port may not speak TLS: check the scheme and the port of the address"
        case socket.gaierror():
            said = f"there is no host {host}"
            advice = "check the name's spelling, and the network"
        case TimeoutError():
            said = f"{where}: no connection within {_CONNECT_SECONDS:g} s"
            advice = "check the network, a firewall, or a proxy that HTTPS_PROXY does not name"
        case _:
            advice = "check the address: does anything listen there?"
    return Finding(name, State.FAULT, said, advice)


def _tls(endpoint: Endpoint, tls: ssl.SSLObject | None) -> Finding:
    if tls is None:
        if endpoint.is_on_this_machine:
            return Finding("TLS", State.NOTE, "none, and none is needed on this machine")
        advice = "use https://: anyone on the network path can read the key and what callers say"
        return Finding("TLS", State.WARNING, "none", advice)
    certificate: dict[str, Any] = tls.getpeercert() or {}
    ends = ssl.cert_time_to_seconds(certificate["notAfter"])
    days = int((ends - time.time()) / 86400)
    said = f"{tls.version()}, certificate good for {days} days"
    if days < _CERTIFICATE_DAYS:
        return Finding("TLS", State.WARNING, said, "the operator of the endpoint must renew it")
    return Finding("TLS", State.GOOD, said)


async def _catalogue(client: AsyncOpenAI, model: str) -> AsyncGenerator[Finding]:
    """Check the key, the clock and the model, by `GET /v1/models`."""
    began = time.time()
    try:
        answer: Any = await client.models.with_raw_response.list(timeout=_CONNECT_SECONDS * 2)
    except Exception as e:
        error = _error(e, client)
        if error.reason is Reason.KEY or error.reason is Reason.FORBIDDEN:
            advice = "make a new key at console.mistral.ai, and set MISTRAL_API_KEY"
            yield Finding("key", State.FAULT, str(error), advice)
        elif error.status_code in (404, 405, 501):
            yield Finding("models", State.NOTE, "the endpoint has no list of models")
        else:
            yield Finding("models", State.FAULT, str(error))
        return
    yield Finding("key", State.GOOD, "accepted")
    yield _clock(answer.headers.get("date"), began)
    try:
        catalogue = Catalogue.from_reply(json.loads(answer.content))
    except ValueError:
        catalogue = Catalogue()
    for finding in _model(catalogue, model):
        yield finding


def _clock(date: str | None, began: float) -> Finding:
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return Finding("clock", State.NOTE, "the server sends no date")
    ours = (began + time.time()) / 2
    # The header is rounded down to seconds, by half a second on average.
    apart = ours - (theirs.replace(tzinfo=theirs.tzinfo or UTC).timestamp() + 0.5)
    if abs(apart) <= _CLOCK_SECONDS:
        return Finding("clock", State.GOOD, "agrees with the server's")
    which = "ahead of" if apart > 0 else "behind"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Finding(
        "clock",
        State.WARNING,
        f"{abs(apart):,.0f} s {which} the server's (here it is {now})",
        "set this machine's clock (timedatectl set-ntp true): certificates and traces go by it",
    )


def _model(catalogue: Catalogue, name: str) -> Iterator[Finding]:
    card = catalogue.find(name)
    if not catalogue.is_mistrals:
        # llama.cpp and vLLM list names without capabilities.
        listed = ", ".join(card.id for card in catalogue.cards[:5]) or "nothing"
        yield Finding("model", State.NOTE, f"{name}; the endpoint lists {listed}")
    elif card is None:
        close = difflib.get_close_matches(name, [card.id for card in catalogue.cards], 1, 0.5)
        advice = f"did you mean {close[0]}? " if close else ""
        said = f"{name} is not among the key's {len(catalogue.cards)} models"
        yield Finding("model", State.FAULT, said, f"{advice}See mistral-service models")
    else:
        yield _abilities(name, card)
        if card.deprecation:
            instead = f"use {card.replacement}" if card.replacement else "choose another model"
            said = f"{name} is gone from {card.deprecation[:10]} on"
            yield Finding("model's future", State.WARNING, said, instead)


def _abilities(name: str, card: ModelCard) -> Finding:
    can = {
        "chats": card.chat,
        "calls functions": card.function_calling,
        "sees": card.vision,
        "thinks": card.reasoning,
    }
    said = f"{name}: {', '.join(word for word, able in can.items() if able) or 'no chat'}"
    if card.max_context_length:
        said += f"; {card.max_context_length:,} tokens of context"
    if card.chat is False:
        return Finding("model", State.FAULT, said, "choose a model that answers chats")
    if card.function_calling is False:
        return Finding("model", State.WARNING, said, "a bot with functions needs another model")
    return Finding("model", State.GOOD, said)


async def _first_words(client: AsyncOpenAI, model: str, tries: int) -> Finding:
    """Measure the time to the first word, over the open connection."""
    params = {
        "model": model,
        "messages": [{"role": "user", "content": "Say hello in three words."}],
        "max_tokens": 16,
        "reasoning_effort": fastest_effort(model),
        "timeout": Timeout(_TRY_SECONDS, connect=_CONNECT_SECONDS),
    }
    seconds: list[float] = []
    for _ in range(tries):
        try:
            async with asyncio.timeout(_TRY_SECONDS):
                seconds.append(await _first_word(client, params))
        except Exception as e:
            said = f"try {len(seconds) + 1} of {tries}: {_error(e, client)}"
            return Finding("first word", State.FAULT, said, seconds=tuple(seconds))
    median = statistics.median(seconds)
    said = f"after {median:.2f} s (median of {tries}, worst {max(seconds):.2f} s)"
    if median > _SLOW_SECONDS:
        advice = "callers notice more than a second: try a smaller model, or a nearer endpoint"
        return Finding("first word", State.WARNING, said, advice, tuple(seconds))
    return Finding("first word", State.GOOD, said, seconds=tuple(seconds))


async def _first_word(client: AsyncOpenAI, params: Mapping[str, Any]) -> float:
    """Seconds to the first word of a reply, without retries, which would hide what is measured."""
    began, first = time.perf_counter(), None
    reader = ReplyReader()
    stream = await open_reply(client, params)
    try:
        # Reading to the end keeps the connection for the next try.
        async with aclosing(read_chunks(stream)) as reads:
            async for chunks in reads:
                if _has_words(reader.feed_all(chunks)) and first is None:
                    first = time.perf_counter() - began
    finally:
        await stream.close()
    if first is None and _has_words(reader.finish()):
        first = time.perf_counter() - began
    if first is None:
        raise MistralError(Reason.EMPTY)
    return first


def _has_words(events: Iterable[Event]) -> bool:
    return any(isinstance(event, Text | Thought) for event in events)


def _error(exception: Exception, client: AsyncOpenAI) -> MistralError:
    error = error_of(exception, client)
    if error is None:
        raise exception
    return error
