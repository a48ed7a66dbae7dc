"""What is kept by the URL of an image, without all of a long one being read."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Python reads 2 MB of a text in a millisecond to hash it; after that it knows the hash.
_LONG = 1_000_000
_SAMPLES = 64
_SAMPLE = 64


class _Long:
    """A long URL as a key: hashed by some of its characters, compared with an equal one only."""

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


def key_of(url: str) -> str | _Long:
    """What a URL is found by: itself, if it is short."""
    return url if len(url) <= _LONG else _Long(url)


class ByUrl(Mapping[str, V]):
    """A mapping from URLs, long ones as well."""

    def __init__(self) -> None:
        self._entries: dict[str | _Long, V] = {}

    def __setitem__(self, url: str, value: V) -> None:
        self._entries[key_of(url)] = value

    def __getitem__(self, url: str) -> V:
        return self._entries[key_of(url)]

    def __iter__(self) -> Iterator[str]:
        return (key if isinstance(key, str) else key.url for key in self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Latest(Generic[K, V]):
    """A mapping that keeps those entries that were used last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """The value of a key, which is then the last that was used; None if there is none."""
        value = self._entries.pop(key, None)
        if value is not None:
            # Under this key, not its equal: the text in the context is the one that is kept.
            self._entries[key] = value
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value, and let go of the one that was not used for the longest time."""
        self._entries.pop(key, None)
        self._entries[key] = value
        if len(self._entries) > self._most:
            del self._entries[next(iter(self._entries))]

    def drop(self, key: K) -> None:
        """Let go of a value."""
        self._entries.pop(key, None)
