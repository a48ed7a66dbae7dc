"""Mappings with image URLs as keys, which hash only a part of a long URL."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Python hashes 2 MB of a string in a millisecond, and then caches the hash in the string.
_LONG = 1_000_000
_SAMPLES = 64
_SAMPLE = 64


class _Long:
    """A long URL as a key: hashed by a sample of its characters, compared in full."""

    __slots__ = ("_hash", "url")

    def __init__(self, url: str) -> None:
        step = len(url) // _SAMPLES
        samples = (url[place : place + _SAMPLE] for place in range(0, len(url), step))
        self.url = url
        self._hash = hash((len(url), url[-4 * _SAMPLE :], *samples))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Long) and (self.url is other.url or self.url == other.url)


def url_key(url: str) -> str | _Long:
    """The key of a URL: the URL itself, if it is short."""
    return url if len(url) <= _LONG else _Long(url)


class UrlMapping(Mapping[str, V]):
    """A mapping from URLs of any length."""

    def __init__(self) -> None:
        self._entries: dict[str | _Long, V] = {}

    def __setitem__(self, url: str, value: V) -> None:
        self._entries[url_key(url)] = value

    def __getitem__(self, url: str) -> V:
        return self._entries[url_key(url)]

    def __iter__(self) -> Iterator[str]:
        return (key if isinstance(key, str) else key.url for key in self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class LRUCache(Generic[K, V]):
    """A mapping that evicts the least recently used entry when it is full."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """The value of a key, which becomes the most recently used; None if there is none."""
        value = self._entries.pop(key, None)
        if value is not None:
            # Under this key object, not an equal one: the context has it too.
            self._entries[key] = value
        return value

    def put(self, key: K, value: V) -> None:
        """Store a value, and evict the least recently used one if the cache is full."""
        self._entries.pop(key, None)
        self._entries[key] = value
        if len(self._entries) > self._most:
            del self._entries[next(iter(self._entries))]

    def discard(self, key: K) -> None:
        """Remove a value, if there is one."""
        self._entries.pop(key, None)
