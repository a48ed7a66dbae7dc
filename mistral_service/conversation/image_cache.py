"""The images of a conversation, each prepared once, in a thread."""

import asyncio
import base64
import hashlib
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from mistral_service.conversation.data_urls import MAX_URL_LENGTH, read_data_url, url_key
from mistral_service.conversation.encoding import Encoded, Form
from mistral_service.conversation.fair import FairThreads
from mistral_service.conversation.isolation import DecoderUnavailable, encode
from mistral_service.conversation.parts import ImageError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# For the whole process: a hundred calls share two threads, which leaves the CPU to their audio.
_THREADS = FairThreads(2, "images")

# Twice what one request may have: a summary may be requested in parallel with a turn.
_IMAGES_CACHED = 16
_FRAMES_CACHED = 4
_ERRORS_CACHED = 256
_MAX_BROKEN = 24  # of one request

# What is sent in place of a URL: another URL, the same one (None), or nothing, because of an error.
_Prepared = str | ImageError | None


def _done(prepared: _Prepared) -> Future[_Prepared]:
    future: Future[_Prepared] = Future()
    future.set_result(prepared)
    return future


_UNCHANGED = _done(None)


class LRUCache(Generic[K, V]):
    """A mapping that evicts the least recently used entry when it is full."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """The value of a key, which becomes the most recently used; None if there is none."""
        value = self.pop(key)
        if value is not None:
            # Under this key object, not an equal one: the context has it too.
            self._entries[key] = value
        return value

    def put(self, key: K, value: V) -> None:
        """Store a value, and evict the least recently used one if the cache is full."""
        self.pop(key)
        self._entries[key] = value
        if len(self._entries) > self._most:
            del self._entries[next(iter(self._entries))]

    def pop(self, key: K) -> V | None:
        """Remove a value, if there is one."""
        return self._entries.pop(key, None)


class ImageCache:
    """Prepares images for requests, and caches the latest.

    The key is the image's URL. That string is in the context and is the same object turn after
    turn: Python caches its hash, so that a lookup does not read its megabyte, and it is in memory
    once.

    Attributes:
        bytes_in_context: Bytes of the images in the context, as base64: those of the last
            request, and those added since.
        oversized: The error for an image whose URL is longer than `MAX_URL_LENGTH`.
    """

    def __init__(self) -> None:
        self.bytes_in_context = 0
        self.oversized = ImageError(f"its URL has more than {MAX_URL_LENGTH:,} characters")
        self._untried = ImageError(f"{_MAX_BROKEN:,} other images of this request are broken")
        # For a broken image the URL is not stored: Python's keyed 64-bit hash identifies it.
        self._errors = LRUCache[int, ImageError](_ERRORS_CACHED)
        self._prepared = LRUCache[tuple[Hashable, Form], Future[_Prepared]](_IMAGES_CACHED)
        self._frames = LRUCache[bytes, Encoded | ImageError](_FRAMES_CACHED)

    async def encode_frame(
        self, data: bytes, size: tuple[int, int], name: str | None, form: Form
    ) -> Encoded | ImageError:
        """As `encode` does; a frame that is identical to a recent one is not encoded again."""

        def work() -> tuple[Encoded | ImageError, str]:
            digest = hashlib.blake2b(f"{size} {name} {form}".encode())
            digest.update(data)
            key = digest.digest()
            if (made := self._frames.get(key)) is None:
                made = encode(data, size, name, form)
                self._frames.put(key, made)
            return made, "" if isinstance(made, ImageError) else _url_of(made)

        made, url = await asyncio.wrap_future(_THREADS.submit(self, work))
        if url:
            # The context will have this URL, which needs no further preparation.
            self._prepared.put((url_key(url), form), _UNCHANGED)
        return made

    async def prepare(
        self, urls: Sequence[str], most: int, form: Form
    ) -> dict[Hashable, str | ImageError]:
        """Prepare the images of a request.

        Args:
            urls: The candidates, the most important first.
            most: How many the request may have; broken ones do not count.
            form: The form in which they are sent.

        Returns:
            By the `url_key` of each URL what is sent in its place (the same object, if nothing
            changes), or why it cannot be sent. Those beyond the limit are absent.
        """
        sent: dict[Hashable, str | ImageError] = {}
        good, broken, rest = 0, 0, urls
        while rest and good < most and broken < _MAX_BROKEN:
            wanted = min(most - good, _MAX_BROKEN - broken)
            batch, rest = rest[:wanted], rest[wanted:]
            for url, future in [(url, self._prepare(url, form)) for url in batch]:
                key = url_key(url)
                # Shielded: after an interruption, the next turn uses the result.
                if not future.done():
                    await asyncio.shield(asyncio.wrap_future(future))
                prepared = future.result()
                sent[key] = url if prepared is None else prepared
                if isinstance(prepared, ImageError):
                    broken += 1
                    self._prepared.pop((key, form))
                    if not isinstance(prepared, DecoderUnavailable):
                        self._errors.put(hash((key, form)), prepared)
                else:
                    good += 1
        if broken >= _MAX_BROKEN:
            for url in rest:
                sent.setdefault(url_key(url), self._untried)
        return sent

    def close(self) -> None:
        """Cancel the work that waits: the call has ended."""
        _THREADS.drop(self)

    def _prepare(self, url: str, form: Form) -> Future[_Prepared]:
        if url.startswith(("http://", "https://")):
            return _UNCHANGED  # Mistral fetches it
        key = (url_key(url), form)
        if error := self._errors.get(hash(key)):
            return _done(error)
        future = self._prepared.get(key)
        if future is None or future.cancelled() or _THREADS.lost(future):
            future = _THREADS.submit(self, _prepare, url, form)
            self._prepared.put(key, future)
        return future


def _prepare(url: str, form: Form) -> _Prepared:
    if not url.startswith("data:"):
        return ImageError(f"{url[:40]!r} is neither a data URL nor an http(s) URL")
    try:
        mime_type, data, in_base64 = read_data_url(url)
    except ValueError:
        return ImageError("its base64 text is broken")
    made = encode(data, (0, 0), mime_type if mime_type.startswith("image/") else "image/*", form)
    if isinstance(made, ImageError):
        return made
    unchanged = made.unchanged and made.mime_type == mime_type and in_base64
    return None if unchanged else _url_of(made)


def _url_of(image: Encoded) -> str:
    """The data URL, exactly as Pipecat writes it."""
    return f"data:{image.mime_type};base64,{base64.b64encode(image.data).decode()}"
