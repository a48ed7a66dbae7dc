"""The endpoint of the commands."""

import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mistral_service.client import MistralClient
from mistral_service.wire.access import DEFAULT_BASE_URL, redacted_url

_NO_KEY = "none"


class CommandError(Exception):
    """An error that the user can fix; its message is a sentence for them."""


@dataclass(frozen=True)
class Endpoint:
    """Mistral's address, such as `https://api.mistral.ai/v1`, and the key, which is never shown."""

    base_url: str
    key: str = field(repr=False)

    @classmethod
    def given(cls, url: str) -> "Endpoint":
        """The endpoint at an address, with the key of `MISTRAL_API_KEY`.

        One on this machine needs no key. An empty address is Mistral's own.

        Raises:
            CommandError: If the address or the key is invalid.
        """
        url = url or DEFAULT_BASE_URL
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(
                f"{redacted_url(url)} is not the address of an endpoint: it must begin with "
                f"http:// or https://, like {DEFAULT_BASE_URL}."
            )
        endpoint = cls(url.rstrip("/"), os.environ.get("MISTRAL_API_KEY", "").strip())
        if not endpoint.key and endpoint.is_on_this_machine:
            return cls(endpoint.base_url, _NO_KEY)
        if not endpoint.key:
            raise CommandError(
                "There is no key: set MISTRAL_API_KEY (keys are made at console.mistral.ai). An "
                "endpoint on this machine needs none: --base-url http://127.0.0.1:8080/v1."
            )
        if not endpoint.key.isascii() or not endpoint.key.isprintable():
            raise CommandError("MISTRAL_API_KEY has characters that no key has: copy it again.")
        return endpoint

    @property
    def host(self) -> str:
        """The host's name, or its address."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def port(self) -> int:
        """The port; by default that of the scheme."""
        return urlsplit(self.base_url).port or (443 if self.is_encrypted else 80)

    @property
    def is_encrypted(self) -> bool:
        """Whether connections use TLS."""
        return self.base_url.startswith("https:")

    @property
    def is_on_this_machine(self) -> bool:
        """Whether the endpoint is on this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def client(self) -> MistralClient:
        """A client, for an `async with` block."""
        return MistralClient(api_key=self.key, base_url=self.base_url)
