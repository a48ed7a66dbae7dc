"""The API key and the base URL: where they come from, and whether they are valid."""

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
    """The API key.

    Args:
        owner: The class that needs it, for the error.
        api_key: The key that was given; without one, the environment variable `MISTRAL_API_KEY`.
        name: The name of the argument, for the error.

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


def check_key(owner: str, name: str, key: str | None) -> str | None:
    """Validate an API key.

    Args:
        owner: The class that needs it, for the error.
        name: The name of the argument, for the error.
        key: The key; None and "" mean no key, and are valid.

    Returns:
        The stripped key; None if there is none.

    Raises:
        ValueError: If it has invalid characters. It is not quoted.
    """
    return _stripped(owner, name, key) or None


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


def address_for(owner: str, base_url: str | None) -> str:
    """The base URL of the endpoint.

    Args:
        owner: The class that needs it, for the error.
        base_url: The address that was given. If it is None or the default, the environment variable
            `MISTRAL_BASE_URL`, if set, replaces it.

    Raises:
        ValueError: If it is no http(s) address.
    """
    if not base_url or base_url == DEFAULT_BASE_URL:
        base_url = os.environ.get("MISTRAL_BASE_URL") or DEFAULT_BASE_URL
    check_address(owner, "base_url", base_url)
    return base_url


def connections_for(
    owner: str,
    own: tuple[str | None, str | None],
    fallback: tuple[str | None, str | None],
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Validate the keys and addresses of a service.

    Args:
        owner: The class that needs them, for the error.
        own: The key and the address of the primary endpoint.
        fallback: Those of the fallback endpoint; its key defaults to the primary one.
        options: Further arguments of both clients, such as `default_headers`.

    Returns:
        The arguments of the primary client, and those of the fallback client; None without an
        address.

    Raises:
        ValueError: If there is no key, or a key, address or header is invalid.
    """
    key = key_for(owner, own[0])
    connection = {**options, "api_key": key, "base_url": address_for(owner, own[1])}
    check_address(owner, "fallback_base_url", fallback[1])
    check_headers(owner, options.get("default_headers"))
    theirs = check_key(owner, "fallback_api_key", fallback[0]) or key
    there = {**connection, "api_key": theirs, "base_url": fallback[1]}
    return connection, there if fallback[1] else None


def check_address(owner: str, name: str, url: str | None) -> None:
    """Validate an address.

    Args:
        owner: The class that needs it, for the error.
        name: The name of the argument, for the error.
        url: The address; None and "" mean no address, and are valid.

    Raises:
        ValueError: If it is no http(s) address.
    """
    if url and not _is_address(str(url)):
        raise ValueError(
            f"{owner}({name}={redacted_url(str(url))!r}) is not an address: it must begin with "
            f"http:// or https://, and name a host, like {DEFAULT_BASE_URL}."
        )


def redacted_url(url: str) -> str:
    """An address without its possible secrets: user, password and query.

    Args:
        url: The address, or what was given as one.
    """
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


def check_headers(
    owner: str, headers: Mapping[str, Any] | None, name: str = "default_headers"
) -> None:
    """Validate headers.

    Args:
        owner: The class that sends them, for the error.
        headers: The headers. Their values are not quoted, since they may contain a gateway's key.
        name: The name of the argument, for the error.

    Raises:
        ValueError: If a name or a value has characters that are not allowed in headers.
    """
    if (header := bad_header(headers or {})) is not None:
        raise ValueError(
            f"{owner}({name}=…): the header {header!r} is not valid: a name has ASCII letters, "
            "digits and hyphens, a value ASCII characters without line breaks."
        )


def bad_header(headers: Mapping[str, Any]) -> str | None:
    """The name of the first invalid header; None if all are valid.

    Args:
        headers: The headers; the OpenAI client's values for "not given" are valid.
    """
    for name, value in headers.items():
        if not isinstance(cast("object", name), str) or not _HEADER_NAME.fullmatch(name):
            return str(name)
        if isinstance(value, Omit | NotGiven):
            continue
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            return name
    return None
