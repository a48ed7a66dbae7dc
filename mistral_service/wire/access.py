"""The key and the address: where they come from, and what is wrong with them if they are."""

import os
import re
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from openai import Omit
from openai._types import NotGiven

DEFAULT_BASE_URL = "https://api.mistral.ai/v1"
"""Where Mistral's API is."""


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LONG = 16


def key_for(owner: str, api_key: str | None, name: str = "api_key") -> str:
    """The key that is used.

    Args:
        owner: Who needs it, for the error.
        api_key: The key that was given; without one, the environment variable `MISTRAL_API_KEY`.
        name: The name of the argument, for the error.

    Raises:
        ValueError: If there is none, or it has characters that no key has. It is not quoted.
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
    """Refuse what cannot be a key.

    Args:
        owner: Who needs it, for the error.
        name: The name of the argument, for the error.
        key: The key; None and "" are none, and pass.

    Returns:
        The key without blanks around it; None if there is none.

    Raises:
        ValueError: If it has characters that no key has. It is not quoted.
    """
    return _stripped(owner, name, key) or None


def _stripped(owner: str, name: str, key: object) -> str:
    if key is None:
        return ""
    text = key.strip() if isinstance(key, str) else "\0"
    if not text.isascii() or not text.isprintable() or set(text) & set(" \"'`"):
        raise ValueError(
            f"{owner}({name}=…): the key of {owner} has characters that no key has: allowed are "
            "letters, digits and signs of ASCII, without blanks, line breaks and quotes. So copy "
            "it again."
        )
    return text


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


def connections_for(
    owner: str,
    own: tuple[str | None, str | None],
    fallback: tuple[str | None, str | None],
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Check the keys and addresses of a service.

    Args:
        owner: Whose they are, for the error.
        own: The key and the address.
        fallback: Those of the fallbacks; their key defaults to the own one.
        options: Further arguments of both clients, `default_headers` among them.

    Returns:
        The arguments of the own client, and those of the fallbacks'; None without an address.

    Raises:
        ValueError: If there is no key, or one of them cannot be one.
    """
    key = key_for(owner, own[0])
    connection = {**options, "api_key": key, "base_url": address_for(owner, own[1])}
    check_address(owner, "fallback_base_url", fallback[1])
    check_headers(owner, options.get("default_headers"))
    theirs = check_key(owner, "fallback_api_key", fallback[0]) or key
    there = {**connection, "api_key": theirs, "base_url": fallback[1]}
    return connection, there if fallback[1] else None


def check_address(owner: str, name: str, url: str | None) -> None:
    """Refuse what is no http(s) address.

    Args:
        owner: Who asks, for the error.
        name: The name of the argument, for the error.
        url: The address; None and "" are none, and pass.

    Raises:
        ValueError: If it is something else.
    """
    if url and not _is_address(str(url)):
        raise ValueError(
            f"{owner}({name}={shown(str(url))!r}) is not an address: it must begin with http:// or "
            f"https://, and name a host, like {DEFAULT_BASE_URL}."
        )


def shown(url: str) -> str:
    """An address without what may be secret in it: user and password, and the query.

    Args:
        url: The address, or what was given for one.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or not scheme.isalnum():  # a password may have any character
        scheme, mark, rest = "", "", url
    if "@" in rest:
        rest = "…@" + rest.rpartition("@")[2]
    bare, query, _ = rest.partition("?") if "?" in rest else rest.partition("#")
    if not mark and len(bare) >= _LONG and not set(bare) & set("./:"):
        return "…"  # a key in the wrong place
    return f"{scheme}{mark}{bare}{query and query + '…'}"


def _is_address(url: str) -> bool:
    if not url.startswith(("http://", "https://")) or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port, or an address of IPv6, that is none
        return False


def check_headers(
    owner: str, headers: Mapping[str, Any] | None, name: str = "default_headers"
) -> None:
    """See whether headers can be sent.

    Args:
        owner: Who sends them, for the error.
        headers: The headers. Their values are not quoted: a gateway's key may be one.
        name: The name of the argument, for the error.

    Raises:
        ValueError: If a name or a value has characters that no header may have.
    """
    if (header := bad_header(headers or {})) is not None:
        raise ValueError(
            f"{owner}({name}=…): the header {header!r} may have ASCII characters only, and no line "
            "breaks; its name letters, digits and hyphens, its value any text."
        )


def bad_header(headers: Mapping[str, Any]) -> str | None:
    """The name of the first header that cannot be sent; None if all can.

    Args:
        headers: The headers; a value of the OpenAI client's that means "not given" passes.
    """
    for name, value in headers.items():
        if not isinstance(cast("object", name), str) or not _HEADER_NAME.fullmatch(name):
            return str(name)
        if isinstance(value, Omit | NotGiven):
            continue
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            return name
    return None
