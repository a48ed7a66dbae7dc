"""The HTTP layer: opens a streamed reply and reads it, or fetches a whole one.

The connection, the key and the headers are the OpenAI client's, so that what a user sets there
(proxies, certificates, default headers) applies. The body, in Mistral's closed schema, and the
decoding of the stream are ours.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from typing import Any, cast

from loguru import logger
from openai import DEFAULT_TIMEOUT, NOT_GIVEN, AsyncOpenAI, AsyncStream, Omit, Timeout
from openai._types import NotGiven
from openai.types.chat import ChatCompletionChunk

from mistral_service.wire import portkey
from mistral_service.wire.chunks import (
    Chunk,
    chunk_from_mapping,
    end_of,
    read_mapping,
    read_payloads,
)
from mistral_service.wire.decompression import ACCEPTED
from mistral_service.wire.encoding import MAX_VALUES, MAX_VECTOR_VALUES, decode, encode
from mistral_service.wire.endpoint import endpoint_of
from mistral_service.wire.error_body import is_there
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.faults import error_of as error_of
from mistral_service.wire.faults import place_of as place_of
from mistral_service.wire.http import MAX_REFUSAL_BYTES, bound_replies, httpx
from mistral_service.wire.models import Catalogue
from mistral_service.wire.request import request_body
from mistral_service.wire.secrets import remember
from mistral_service.wire.sse import EventTooLong, SSEDecoder

CHAT = "/chat/completions"
"""The path of chat completions."""

WHOLE_REPLY_S = 120.0
"""Seconds to wait for a reply that is not streamed: Pipecat's limit for a summary."""

_VECTORS = "/embeddings"

_UNSET = (NotGiven, Omit)
_DRAIN_SECONDS = 0.1
_MAX_DRAIN_SECONDS = 0.5

# Settings that a gateway drops, of which the log has a warning already.
_warned: set[str] = set()


async def open_reply(
    client: AsyncOpenAI,
    params: Mapping[str, Any],
    *,
    connect: float | None = None,
    path: str = CHAT,
) -> AsyncStream[ChatCompletionChunk]:
    """Send a request and wait for the headers of its streamed reply.

    Args:
        client: The client whose connections and key are used.
        params: Parameters of the chat completion, under OpenAI's or Mistral's names, and the
            client's own options (`extra_headers`, `timeout`, …).
        connect: Seconds to establish a connection; by default the client's own limit.
        path: The endpoint, one that streams chunks.

    Returns:
        The stream, not yet read. Read it with `read_chunks`, and close it.

    Raises:
        openai.APIError: If the request is refused, or no answer comes.
    """

    async def post(body: dict[str, Any]) -> AsyncStream[ChatCompletionChunk]:
        options = _options(client, params, connect, stream=True)
        if not endpoint.server.keeps_connections:
            options["headers"]["Connection"] = "close"
        return await client.post(
            path,
            content=_encoded(client, path, body),
            options=options,
            cast_to=ChatCompletionChunk,
            stream=True,
            stream_cls=AsyncStream[ChatCompletionChunk],
        )

    endpoint = endpoint_of(client)
    body = request_body({**params, "stream": True}, unset=_UNSET)
    stream = await endpoint.send(body, post)
    endpoint.recognise(headers=stream.response.headers)
    return stream


async def read_chunks(
    stream: AsyncStream[ChatCompletionChunk] | AsyncIterator[ChatCompletionChunk],
) -> AsyncGenerator[list[Chunk]]:
    """Read a streamed reply.

    Args:
        stream: What `open_reply` returned; or, from a service that overrides
            `get_chat_completions`, an iterator of the OpenAI client's chunks.

    Yields:
        The chunks of each read, at least one, until `[DONE]` or the end of the stream.

    Raises:
        MistralError: If something in the stream is no chunk.
        httpx.HTTPError: If the connection breaks (of the family of httpx that `openai` uses).
    """
    if not isinstance(stream, AsyncStream):
        async for chunk in stream:
            one, fault = read_mapping(chunk.model_dump())
            if one is not None:
                yield [one]
            if fault is not None:
                raise fault
        return

    decoder, body, began = SSEDecoder(), bytearray(), False
    end: str | None = None
    # Decompressed already (`bound_replies`), so it need not pass through the client's layers.
    reads = aiter(cast("AsyncIterable[bytes]", stream.response.stream))
    try:
        async for data in reads:
            if not began and len(body) < MAX_REFUSAL_BYTES:
                body += data
            chunks, done, fault = read_payloads(decoder.feed(data))
            if chunks:
                began, end = True, end_of(chunks)
                yield chunks
            if fault is not None:
                raise fault if began else await _error_in_body(fault, body, reads)
            if not done and not end:
                continue
            async for data in _rest(reads):
                # After the end may come the tokens, and the error object of a reply that ended with
                # `error`; any other error is too late to matter.
                chunks, done, fault = read_payloads([] if done else decoder.feed(data))
                if chunks:
                    yield chunks
                if fault is not None and end == "error":
                    raise fault
            return
    except EventTooLong as e:
        raise MistralError(Reason.STREAM, str(e)) from e
    chunks, done, fault = read_payloads(decoder.finish())
    if chunks:
        began, end = True, end_of(chunks)
        yield chunks
    if fault is None and not end and not done:
        fault = MistralError(Reason.STREAM, "it stopped before its end")
    if fault is not None:
        raise fault if began else await _error_in_body(fault, body, reads)


async def _error_in_body(
    fault: MistralError, body: bytearray, reads: AsyncIterator[bytes]
) -> MistralError:
    """The error in a body that is no stream: a proxy's page, or JSON in several lines."""
    if fault.reason is not Reason.STREAM or not body.lstrip().startswith((b"{", b"[", b"<")):
        return fault
    async for data in _rest(reads):
        body += data
        if len(body) > MAX_REFUSAL_BYTES:
            break
    error = MistralError.from_stream(bytes(body))
    return fault if error.reason is Reason.STREAM and error.detail[:1] in "{[" else error


async def _rest(reads: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Drain a body after the end of the reply, so that the connection can be reused.

    The end of the body comes with the last event or right after it. A server that keeps the body
    open, sends more, or aborts it, costs one connection rather than the caller's time.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + _MAX_DRAIN_SECONDS
    with contextlib.suppress(Exception):
        while loop.time() < until:
            async with asyncio.timeout_at(min(until, loop.time() + _DRAIN_SECONDS)):
                data = await anext(reads)
            yield data


async def fetch_reply(
    client: AsyncOpenAI, params: Mapping[str, Any], *, connect: float | None = None
) -> Chunk:
    """Send a request as `open_reply`, and wait for its whole reply, as one chunk.

    Raises:
        openai.APIError: If the request is refused, or no answer comes within `WHOLE_REPLY_S`.
        MistralError: If the answer is no chat completion.
    """
    reply = await fetch_object(
        client, CHAT, {**params, "stream": False}, connect=connect, read=WHOLE_REPLY_S
    )
    chunk = chunk_from_mapping(reply)
    if not reply.get("choices"):
        raise MistralError(Reason.SERVER, "its answer is no chat completion")
    return chunk


async def fetch_object(
    client: AsyncOpenAI,
    path: str,
    params: Mapping[str, Any],
    *,
    connect: float | None = None,
    read: float | None = None,
) -> dict[str, Any]:
    """Send a request as `open_reply`, to an endpoint that answers with one JSON object.

    The answer may take `read` seconds, unless the client's own limit was set.

    Raises:
        openai.APIError: If the request is refused, or no answer comes.
        MistralError: If the answer is no JSON object.
    """

    async def post(body: dict[str, Any]) -> httpx.Response:
        return await client.post(
            path,
            content=_encoded(client, path, body),
            options=_options(client, params, connect, read=read),
            cast_to=httpx.Response,
        )

    response = await endpoint_of(client).send(request_body(params, unset=_UNSET), post)
    try:
        vectors = path.endswith(_VECTORS)
        body = decode(response.content, MAX_VECTOR_VALUES if vectors else MAX_VALUES)
    except ValueError:  # invalid JSON
        body = None
    if not isinstance(body, dict):
        raise MistralError(Reason.SERVER, "its answer is no JSON object")
    answer = cast("dict[str, Any]", body)
    if answer.get("object") == "error" or is_there(answer.get("error")):
        raise MistralError.from_stream(answer)
    return answer


async def fetch_models(client: AsyncOpenAI, seconds: float) -> Catalogue:
    """Fetch the models with their capabilities; none if the answer is no list of models.

    Raises:
        openai.APIError: If the request is refused, or no answer comes.
        TimeoutError: If the answer takes longer.
    """
    options = _common_options(client)
    async with asyncio.timeout(seconds):
        response = await client.get("/models", options=options, cast_to=httpx.Response)
    try:
        catalogue = Catalogue.from_reply(decode(response.content))
    except ValueError:  # invalid JSON
        catalogue = Catalogue()
    endpoint_of(client).recognise(catalogue, response.headers)
    return catalogue


def _encoded(client: AsyncOpenAI, path: str, body: dict[str, Any]) -> bytes:
    """The body as JSON, in the form that the server, or a gateway in front of it, takes."""
    if portkey.is_between(client.default_headers, str(client.base_url)):
        body, lost = portkey.as_it_passes(body, path)
        new = [name for name in lost if name not in _warned]
        if new:
            _warned.update(new)
            logger.warning(
                f"Portkey's gateway does not pass on {', '.join(new)}: if Mistral should receive "
                "it, set base_url to the gateway's …/v1/proxy, which passes on everything."
            )
    return encode(body)


def _options(
    client: AsyncOpenAI,
    params: Mapping[str, Any],
    connect: float | None,
    *,
    stream: bool = False,
    read: float | None = None,
) -> Any:
    """The client's own options, in the form that its `post` takes."""
    options = _common_options(client)
    remember(client, params)
    options["headers"] |= {
        "Content-Type": "application/json",
        **(params.get("extra_headers") or {}),
    }
    if params.get("extra_query"):
        options["params"] = params["extra_query"]
    if params.get("timeout", NOT_GIVEN) is not NOT_GIVEN:
        options["timeout"] = params["timeout"]
    elif connect is not None:
        limits = Timeout(client.timeout)
        options["timeout"] = Timeout(
            connect=connect if limits.connect is None else min(connect, limits.connect),
            # The reader of a stream has its own deadlines; the default of ten minutes is no choice.
            read=read if client.timeout == DEFAULT_TIMEOUT and (stream or read) else limits.read,
            write=limits.write,
            pool=limits.pool,
        )
    return options


def _common_options(client: AsyncOpenAI) -> Any:
    """The options of every request."""
    # Also for a client that a subclass has created.
    bound_replies(getattr(client, "_client", None))
    return {
        # Retries are decided in one place (`turn/retries.py`).
        "max_retries": 0,
        # No other host gets the conversation: a redirect is an error.
        "follow_redirects": False,
        "headers": {"Accept-Encoding": ACCEPTED},
    }
