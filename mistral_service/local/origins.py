"""Which pages may talk to a server, by the headers `Host` and `Origin`.

A page that a user has open can attack a server that only this user reaches, in two ways. It sends
requests to the server's address: then its `Origin`, which a page cannot change, names another site.
Or it lets the name of its own site resolve to the server's address (DNS rebinding): then `Origin`
and `Host` agree, but both name a site that the server does not know. `allowed` refuses the first,
`host_allowed` the second. A server on a public address needs `allowed` alone.

A program other than a browser sends no `Origin` and is allowed. An `Origin` protects users from
pages; it does not authenticate the client.

The functions are pure: header values go in, a decision comes out.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""The names of one's own machine."""

_AUTHORITY = re.compile(
    r"(?P<name>\[[0-9a-f:.]{2,45}\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)
_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://", re.ASCII | re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}

_Site = tuple[str | None, str, int | None]
"""Scheme, host and port in one spelling; None for a part that is not given."""


def allowed(origins: Sequence[str], host: str, allow: Iterable[str] = ()) -> bool:
    """Whether a request may be answered, by the page that sent it.

    Args:
        origins: The values of all the request's headers `Origin`: `headers.getlist("origin")`.
        host: The request's header `Host`. A page of the same host and port is allowed. Schemes are
            not compared, because a proxy may have ended TLS.
        allow: Further pages: origins (`https://app.example.org`, with a port unless it is the
            scheme's own), or hosts (`app.example.org` for any port, `app.example.org:8443`).

    Returns:
        True where there is no `Origin`, as from a program other than a browser. False for more than
        one, for `null` (a file, a sandboxed frame), and for an invalid one.
    """
    if not origins:
        return True
    if len(origins) > 1 or (origin := _origin(origins[0])) is None:
        return False
    scheme, name, port = origin
    default = _PORTS.get(scheme or "")
    same = _host(host)
    if same and default and (name, port) == (same[1], same[2] or default):
        return True
    return any(
        all(part is None or part == its for part, its in zip(entry, origin, strict=True))
        for entry in map(_entry, allow)
        if entry is not None
    )


def host_allowed(
    hosts: Sequence[str], allow: Iterable[str] = LOOPBACK, *, any_address: bool = False
) -> bool:
    """Whether a request names this server, and not another name that resolves to it.

    Args:
        hosts: The values of all the request's headers `Host`: `headers.getlist("host")`.
        allow: Names and addresses of the server. Ports and schemes are ignored.
        any_address: Whether every IP address is allowed too, as for a server that listens on all
            interfaces. DNS rebinding needs a name, so addresses are safe.

    Returns:
        False for any other name, for no header or more than one, and for an invalid host.
    """
    if len(hosts) != 1 or (site := _host(hosts[0])) is None:
        return False
    if any_address and _address(site[1]) is not None:
        return True
    return any(entry is not None and entry[1] == site[1] for entry in map(_entry, allow))


def check(allow: Iterable[str], field: str) -> None:
    """Refuse entries that `allowed` and `host_allowed` cannot read.

    Args:
        allow: The entries.
        field: The name of the list, for the error.

    Raises:
        ValueError: If an entry is neither an origin nor a host; it names the field and the entry.
    """
    for entry in allow:
        if _entry(entry) is None:
            raise ValueError(
                f"{field} has {entry!r}: allowed are hosts (app.example.org) and origins "
                "(https://app.example.org), without a path and without *"
            )


def _entry(text: str) -> _Site | None:
    return _origin(text.rstrip("/")) or _host(text)


def _origin(text: str) -> _Site | None:
    scheme = _SCHEME.match(text)
    if scheme is None or (site := _host(text[scheme.end() :])) is None:
        return None
    name = scheme["scheme"].lower()
    return name, site[1], _PORTS.get(name) if site[2] is None else site[2]


def _host(text: str) -> _Site | None:
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    name = found["name"].lower()
    if (address := _address(name)) is not None:
        name = str(address)
    elif name.startswith("["):
        return None
    return None, name, None if found["port"] is None else int(found["port"])


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        if name.startswith("["):
            return ipaddress.IPv6Address(name[1:-1])
        return ipaddress.ip_address(name)
    except ValueError:
        return None
