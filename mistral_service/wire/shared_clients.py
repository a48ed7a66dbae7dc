"""Reference counts of HTTP clients: several services may share one, and the last closes it."""

from typing import Any
from weakref import WeakKeyDictionary

from openai import AsyncOpenAI

_references: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def retain_client(client: AsyncOpenAI) -> AsyncOpenAI:
    """Add a reference to a client, and return it. Clients with the same HTTP client count as one.

    Raises:
        ValueError: If it is closed already.
    """
    if client.is_closed():
        raise ValueError(
            "create_client returned a client that is closed: the last service of those that share "
            "a client closes it, so return a new one, or keep a service that holds it."
        )
    key = _key(client)
    _references[key] = _references.get(key, 0) + 1
    return client


async def release_client(client: AsyncOpenAI) -> None:
    """Remove a reference to a client, and close the client if it was the last."""
    key = _key(client)
    left = _references.get(key, 1) - 1
    if left > 0:
        _references[key] = left
        return
    _references.pop(key, None)
    await client.close()


def _key(client: AsyncOpenAI) -> Any:
    return getattr(client, "_client", client)
