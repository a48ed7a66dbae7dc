"""The API key and the base URL: where they come from, and whether they are valid.

`owner` is the class, and `name` the argument, that an error names.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from openai import Omit
from openai._types import NotGiven

DEFAULT_BASE_URL = "https://api.mistral.ai/v1"
"""The address of Mistral's API."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LONG = 16


def key_for(owner: str, api_key: str | None, name: str = "api_key") -> str:
    """The API key: the one given or, without one, the environment's `MISTRAL_API_KEY`.

    Raises:
        ValueError: If there is none, or it has invalid characters. It is not quoted.
    """
    key = _stripped(owner, name, api_key) or _stripped(
        owner, "api_key", os.environ.get("MISTRAL_API_KEY")
    )
    if not key:
        raise ValueError(
            f"{owner} needs a key: pass api_key=… or set the environment variable MISTRAL_API_KEY "
            "(keys are made at console.mistral.ai)."
        )
    return key


def _stripped(owner: str, name: str, key: object) -> str:
    if key is None:
        return ""
    text = key.strip() if isinstance(key, str) else "\0"
    if not text.isascii() or not text.isprintable() or set(text) & set(" \"'`"):
        raise ValueError(
            f"{owner}({name}=…): the key of {owner} has characters that no key has: allowed are "
            "ASCII letters, digits and symbols, without blanks, line breaks and quotes. Copy it "
            "again."
        )
    return text


def connections_for(
    owner: str,
    own: tuple[str | None, str | None],
    fallback: tuple[str | None, str | None],
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Validate the keys and addresses of a service.

    Args:
        owner: The class that needs them, for the error.
        own: The key and the address of the primary endpoint. If the address is None or the default,
            the environment variable `MISTRAL_BASE_URL`, if set, replaces it.
        fallback: Those of the fallback endpoint; its key defaults to the primary one.
        options: Further arguments of both clients, such as `default_headers`.

    Returns:
        The arguments of the primary client, and those of the fallback client; None without an
        address.

    Raises:
        ValueError: If there is no key, or a key, address or header is invalid.
    """
    key, base_url = key_for(owner, own[0]), own[1]
    if not base_url or base_url == DEFAULT_BASE_URL:
        base_url = os.environ.get("MISTRAL_BASE_URL") or DEFAULT_BASE_URL
    check_address(owner, "base_url", base_url)
    check_address(owner, "fallback_base_url", fallback[1])
    # The values of headers are not quoted, since they may contain a gateway's key.
    if (header := bad_header(options.get("default_headers") or {})) is not None:
        raise ValueError(
            f"{owner}(default_headers=…): the header {header!r} is not valid: a name has ASCII "
            "letters, digits and hyphens, a value ASCII characters without line breaks."
        )
    connection = {**options, "api_key": key, "base_url": base_url}
    theirs = _stripped(owner, "fallback_api_key", fallback[0]) or key
    there = {**connection, "api_key": theirs, "base_url": fallback[1]}
    return connection, there if fallback[1] else None


def check_address(owner: str, name: str, url: str | None) -> None:
    """Validate an address; None and "" mean no address, and are valid.

    Raises:
        ValueError: If it is no http(s) address.
    """
    if url and not _is_address(str(url)):
        raise ValueError(
            f"{owner}({name}={redacted_url(str(url))!r}) is not an address: it must begin with "
            f"http:// or https://, and name a host, like {DEFAULT_BASE_URL}."
        )


def redacted_url(url: str) -> str:
    """An address, or what was given as one, without its possible secrets: user, password, query."""
    scheme, mark, rest = url.partition("://")
    if not mark or not scheme.isalnum():  # a password may have any character
        scheme, mark, rest = "", "", url
    if "@" in rest:
        rest = "…@" + rest.rpartition("@")[2]
    bare, query, _ = rest.partition("?") if "?" in rest else rest.partition("#")
    if not mark and len(bare) >= _LONG and not set(bare) & set("./:"):
        return "…"  # probably a key, given as the address
    return f"{scheme}{mark}{bare}{query and query + '…'}"


def _is_address(url: str) -> bool:
    if not url.startswith(("http://", "https://")) or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port or IPv6 address
        return False


def bad_header(headers: Mapping[str, Any]) -> str | None:
    """The name of the first invalid header; the OpenAI client's "not given" is a valid value."""
    for name, value in headers.items():
        if not isinstance(cast("object", name), str) or not _HEADER_NAME.fullmatch(name):
            return str(name)
        if isinstance(value, Omit | NotGiven):
            continue
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            return name
    return None
