"""Which endpoint the commands speak to."""

import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mistral_service.client import MistralClient
from mistral_service.wire.access import DEFAULT_BASE_URL, redacted_url

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
                f"{redacted_url(url)} is no address of an endpoint: it begins with http:// or "
                "https://, "
                f"like {DEFAULT_BASE_URL}."
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

    def client(self) -> MistralClient:
        """A client of it, to be used in an `async with` block."""
        return MistralClient(api_key=self.key, base_url=self.base_url)
