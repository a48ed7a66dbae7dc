"""Who holds a client: several services may share one, and the last closes it."""

from typing import Any
from weakref import WeakKeyDictionary

from openai import AsyncOpenAI

_holders: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def hold(client: AsyncOpenAI) -> AsyncOpenAI:
    """Take note that one more holds a client.

    Args:
        client: The client. Two that share one HTTP client count as one.

    Returns:
        The client.

    Raises:
        ValueError: If it is closed already.
    """
    if client.is_closed():
        raise ValueError(
            "create_client returned a client that is closed: the last service of those that share "
            "a client closes it, so return a new one, or keep a service that holds it."
        )
    key = _key(client)
    _holders[key] = _holders.get(key, 0) + 1
    return client


async def release_client(client: AsyncOpenAI) -> None:
    """Take note that one holds a client no longer; close it where that was the last.

    Args:
        client: The client, as it was held.
    """
    key = _key(client)
    left = _holders.get(key, 1) - 1
    if left > 0:
        _holders[key] = left
        return
    _holders.pop(key, None)
    await client.close()


def _key(client: AsyncOpenAI) -> Any:
    return getattr(client, "_client", client)
