"""Which endpoint the commands speak to, and one reply of it."""

import ipaddress
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from openai import AsyncOpenAI, Timeout

from mistral_service.reply.events import Event
from mistral_service.reply.reader import ReplyReader
from mistral_service.wire.access import DEFAULT_BASE_URL
from mistral_service.wire.client import open_reply, read_chunks
from mistral_service.wire.http import http_client

_LIMITS = Timeout(30.0, connect=5.0)
_STAND_IN = "none"


class Problem(Exception):
    """What a person is told in a sentence, and can do something about."""


@dataclass(frozen=True)
class Endpoint:
    """Where Mistral is, and the key to it.

    Parameters:
        base_url: The address: `https://api.mistral.ai/v1`.
        key: The key; never shown.
    """

    base_url: str
    key: str = field(repr=False)

    @classmethod
    def given(cls, base_url: str | None = None) -> "Endpoint":
        """The endpoint of the command line and the environment.

        Args:
            base_url: The address; by default `MISTRAL_BASE_URL`, or Mistral's own.

        Returns:
            The endpoint, with the key of `MISTRAL_API_KEY`. One on this machine needs no key.

        Raises:
            Problem: If the address or the key cannot be one.
        """
        url = base_url or os.environ.get("MISTRAL_BASE_URL") or DEFAULT_BASE_URL
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Problem(
                f"{url} is no address of an endpoint: it begins with http:// or https://, like "
                f"{DEFAULT_BASE_URL}."
            )
        endpoint = cls(url.rstrip("/"), os.environ.get("MISTRAL_API_KEY", "").strip())
        if not endpoint.key and endpoint.is_on_this_machine:
            return cls(endpoint.base_url, _STAND_IN)
        if not endpoint.key:
            raise Problem(
                "There is no key: set MISTRAL_API_KEY (keys are made at console.mistral.ai). An "
                "endpoint on this machine needs none: --base-url http://127.0.0.1:8080/v1."
            )
        if not endpoint.key.isascii() or not endpoint.key.isprintable():
            raise Problem("MISTRAL_API_KEY has characters that no key has: copy it again.")
        return endpoint

    @property
    def host(self) -> str:
        """The host's name, or its address."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def port(self) -> int:
        """The port; that of the scheme where the address names none."""
        return urlsplit(self.base_url).port or (443 if self.is_encrypted else 80)

    @property
    def is_encrypted(self) -> bool:
        """Whether what is said to it is encrypted on the way."""
        return self.base_url.startswith("https:")

    @property
    def is_on_this_machine(self) -> bool:
        """Whether it is this machine that answers."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def client(self) -> AsyncOpenAI:
        """A client of it, to be used in an `async with` block."""
        return AsyncOpenAI(
            api_key=self.key,
            base_url=self.base_url,
            http_client=http_client(),
            max_retries=0,
            timeout=_LIMITS,
        )


async def events_of(client: AsyncOpenAI, params: Mapping[str, Any]) -> AsyncGenerator[Event]:
    """Ask for one streamed reply.

    Args:
        client: Who to ask.
        params: Parameters of the chat completion, under Mistral's names.

    Yields:
        What happens in the reply, as it happens; at the end the calls and the `Finish`.

    Raises:
        openai.APIError: If the request is refused or nobody answers.
        MistralError: If something in the stream is no chunk.
    """
    reader = ReplyReader()
    stream = await open_reply(client, params)
    try:
        async with aclosing(read_chunks(stream)) as reads:
            async for chunks in reads:
                for event in reader.feed_all(chunks):
                    yield event
    finally:
        await stream.close()
    for event in reader.finish():
        yield event
