"""The key and the address: where they come from, and what is wrong with them if they are."""

import os
from collections.abc import Mapping

DEFAULT_BASE_URL = "https://api.mistral.ai/v1"
"""Where Mistral's API is."""


def key_for(owner: str, api_key: str | None) -> str:
    """The key that is used.

    Args:
        owner: Who needs it, for the error.
        api_key: The key that was given; without one, the environment variable `MISTRAL_API_KEY`.

    Raises:
        ValueError: If there is none, or it has characters that no key has. It is not quoted.
    """
    key = (api_key or os.environ.get("MISTRAL_API_KEY") or "").strip()
    if not key:
        raise ValueError(
            f"{owner} needs a key: pass api_key=… or set the environment variable MISTRAL_API_KEY "
            "(keys are made at console.mistral.ai)."
        )
    if not key.isascii() or not key.isprintable():
        raise ValueError(
            f"The key of {owner} has characters that no key has (a line break, or quotes that are "
            "not ASCII): copy it again."
        )
    return key


def address_for(owner: str, base_url: str | None) -> str:
    """The address that is asked.

    Args:
        owner: Who asks, for the error.
        base_url: The address that was given. Where it is None or the default, the environment
            variable `MISTRAL_BASE_URL`, if set, takes its place.

    Raises:
        ValueError: If it is no http(s) address.
    """
    if not base_url or base_url == DEFAULT_BASE_URL:
        base_url = os.environ.get("MISTRAL_BASE_URL") or DEFAULT_BASE_URL
    check_address(owner, "base_url", base_url)
    return base_url


def check_address(owner: str, name: str, url: str | None) -> None:
    """Refuse what is no http(s) address.

    Args:
        owner: Who asks, for the error.
        name: The name of the argument, for the error.
        url: The address; None and "" are none, and pass.

    Raises:
        ValueError: If it is something else.
    """
    if url and not url.startswith(("http://", "https://")):
        raise ValueError(
            f"{owner}({name}={url!r}) is not an address: it must begin with http:// or https://, "
            f"like {DEFAULT_BASE_URL}."
        )


def check_headers(owner: str, headers: Mapping[str, str] | None) -> None:
    """See whether headers can be sent.

    Args:
        owner: Who sends them, for the error.
        headers: The headers. Their values are not quoted: a gateway's key may be one.

    Raises:
        ValueError: If a name or a value has characters that no header may have.
    """
    for name, value in (headers or {}).items():
        if not f"{name}{value}".isascii() or not f"{name}{value}".isprintable():
            raise ValueError(
                f"{owner}(default_headers=…): the header {name!r} may have ASCII characters only, "
                "and no line breaks."
            )
