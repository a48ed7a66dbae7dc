"""The clients of a service: its own endpoint's, and that of its fallbacks."""

from collections.abc import Callable, Mapping
from typing import Any

from openai import AsyncOpenAI

from mistral_service.wire.endpoint import set_server
from mistral_service.wire.http import http_client
from mistral_service.wire.servers import Server
from mistral_service.wire.shared_clients import release_client, retain_client

OWN, FALLBACK = 0, 1
"""The numbers of the two endpoints."""


def openai_client(
    api_key: str | None,
    base_url: str | None,
    organization: str | None = None,
    project: str | None = None,
    default_headers: Mapping[str, str] | None = None,
) -> AsyncOpenAI:
    """Make an OpenAI client whose connections are those of the process."""
    return AsyncOpenAI(
        api_key=api_key,
        base_url=base_url,
        organization=organization,
        project=project,
        default_headers=default_headers,
        http_client=http_client(),
        max_retries=0,
    )


class Clients:
    """Holds one client for each endpoint, and closes them.

    A client that several services share is closed by the last of them.
    """

    def __init__(
        self,
        make: Callable[..., AsyncOpenAI],
        own: Callable[[], AsyncOpenAI],
        connection: Mapping[str, Any],
        fallback: Mapping[str, Any] | None,
        servers: tuple[Server | None, Server | None] = (None, None),
    ) -> None:
        """Take the own client, and make that of the fallbacks.

        Args:
            make: Makes a client of a connection.
            own: The own client as it is now: a user may have put another in its place.
            connection: The arguments of which the own client was made.
            fallback: Those for the fallbacks; None where they are at the same endpoint.
            servers: What kinds of servers they are, where that is set.
        """
        self._make = make
        self._own = own
        self._connections = [connection, connection if fallback is None else fallback]
        self._fallback = None if fallback is None else make(**fallback)
        for client, server in zip((own(), self._fallback), servers, strict=True):
            if client is not None:
                set_server(client, server)
        self._held = [
            retain_client(client) for client in (own(), self._fallback) if client is not None
        ]

    @property
    def has_fallback(self) -> bool:
        """Whether the fallbacks have an endpoint of their own."""
        return self._fallback is not None

    def of(self, endpoint: int) -> AsyncOpenAI:
        """The client of an endpoint."""
        if endpoint == FALLBACK and self._fallback is not None:
            return self._fallback
        return self._own()

    def open(self, endpoint: int) -> AsyncOpenAI:
        """The same; a new one where a request comes after `close`, as a summary may."""
        client = self.of(endpoint)
        return self._make(**self._connections[endpoint]) if client.is_closed() else client

    async def close(self) -> None:
        """Close the clients."""
        held, self._held = self._held, []
        for client in held:
            await release_client(client)
