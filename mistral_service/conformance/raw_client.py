"""Sends raw requests, each with a time limit, and reads the answers."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from mistral_service.conformance.answer import Answer, Json, Request
from mistral_service.wire.http import http_client
from mistral_service.wire.rate import retry_after
from mistral_service.wire.sse import SSEDecoder
from mistral_service.wire.trees import objects_of

_REQUEST_SECONDS = 60.0  # to the end of the reply
_WAIT_SECONDS = 5.0  # after a 429 without `Retry-After`
_MOST_WAIT_SECONDS = 65.0  # Mistral's limits are for a minute


class RawClient:
    """Sends requests to one endpoint.

    Attributes:
        requests: Requests sent so far.
        most_requests: Requests that may be sent, retries included.
    """

    def __init__(self, base_url: str, key: str, model: str, *, most_requests: int) -> None:
        self.requests = 0
        self.most_requests = most_requests
        self._base_url = base_url.rstrip("/")
        self._key = key
        self._model = model
        self._client = http_client()

    async def __aenter__(self) -> "RawClient":
        """Open."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send(self, request: Request) -> Answer:
        """Send a request; retry once after a 429 or a closed connection.

        Network errors are answers with a `fault`, not exceptions.
        """
        answer = await self._attempt(request)
        if self.requests >= self.most_requests:
            return answer
        if answer.status == 429:
            seconds = retry_after(answer.headers)
            seconds = _WAIT_SECONDS if seconds is None else seconds
            if seconds <= _MOST_WAIT_SECONDS:
                await asyncio.sleep(seconds)
                answer = await self._attempt(request)
        elif answer.fault == _BROKEN:
            # Some servers close a connection after a stream without `Connection: close`.
            answer = await self._attempt(request)
        return answer

    async def _attempt(self, request: Request) -> Answer:
        self.requests += 1
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                return await self._answer(request)
        except Exception as e:
            name = type(e).__name__
            if "Timeout" in name:
                return Answer(fault=f"no answer within {_REQUEST_SECONDS:g} s")
            if "Connect" in name:
                return Answer(fault="no connection")
            if type(e).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "aiohttp"):
                return Answer(fault=_BROKEN)
            raise

    async def _answer(self, request: Request) -> Answer:
        url = f"{self._base_url}/{request.path}"
        headers = {"Authorization": f"Bearer {request.key or self._key}"}
        content: bytes | None = None
        if request.body is not None:
            # Not escaped, so that line separators are sent verbatim.
            content = json.dumps(request.sent(self._model), ensure_ascii=False).encode()
            headers["Content-Type"] = "application/json"
        method = "GET" if content is None else "POST"
        raw = self._client.build_request(method, url, content=content, headers=headers)
        raw.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), None)
        response: Any = await self._client.send(raw, stream=True)
        try:
            reported = {name.lower(): value for name, value in response.headers.items()}
            if "text/event-stream" in reported.get("content-type", ""):
                return await _read_stream(response, reported, request.leave_after)
            data: bytes = await response.aread()
            return Answer(response.status_code, reported, _decoded(data))
        finally:
            await response.aclose()


_BROKEN = "the connection broke"


async def _read_stream(
    response: Any, headers: Mapping[str, str], leave_after: int | None
) -> Answer:
    decoder, raw, payloads = SSEDecoder(), bytearray(), list[bytes]()
    async for data in response.aiter_bytes():
        raw += data
        payloads += decoder.feed(data)
        if leave_after is not None and len(_chunks(payloads)) >= leave_after:
            break
    else:
        payloads += decoder.finish()
    chunks, done = _chunks(payloads), sum(each.strip() == b"[DONE]" for each in payloads)
    garbled = len(payloads) - len(chunks) - done
    return Answer(response.status_code, headers, None, chunks, done > 0, garbled, bytes(raw))


def _chunks(payloads: list[bytes]) -> tuple[Json, ...]:
    return tuple(objects_of([_decoded(payload) for payload in payloads]))


def _decoded(data: bytes) -> Any:
    text = data.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
