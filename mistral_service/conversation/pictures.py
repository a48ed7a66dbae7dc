"""The pictures of a conversation, each made ready once, in a thread."""

import asyncio
import base64
import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from mistral_service.conversation.data_urls import MOST_CHARACTERS, read_data_url
from mistral_service.conversation.encoding import Encoded, Form
from mistral_service.conversation.fair import FairThreads
from mistral_service.conversation.isolation import NoProcess, encode
from mistral_service.conversation.parts import PictureError

# For the whole process: a hundred calls share two threads, so that voices keep the processor.
_THREADS = FairThreads(2, "pictures")

# Twice what one request may have: a summary may be asked for beside a turn.
_KEPT = 16
_FRAMES_KEPT = 4
_FAULTS_KEPT = 256
_MOST_BROKEN = 24  # of one request

K = TypeVar("K")
V = TypeVar("V")

# What is sent in place of a URL: another one, nothing else (None), or nothing at all.
_Made = str | PictureError | None


def _done(made: _Made) -> Future[_Made]:
    future: Future[_Made] = Future()
    future.set_result(made)
    return future


_AS_IT_IS = _done(None)


class Pictures:
    """Makes pictures ready to be sent, and remembers those of late.

    What was made is found by the picture's URL. That text stands in the context and is the same
    object turn after turn: Python keeps its hash, so that finding it again costs no look at its
    megabyte, and it is in memory once.

    Attributes:
        oversized: Why a picture is left out whose URL has more than `MOST_CHARACTERS`.
    """

    def __init__(self) -> None:
        self.oversized = PictureError(f"its URL has more than {MOST_CHARACTERS:,} characters")
        self._untried = PictureError(f"{_MOST_BROKEN:,} others of this request are broken")
        # Of what is broken its URL need not be kept: Python's keyed hash of 64 bits tells it.
        self._faults: _Latest[int, PictureError] = _Latest(_FAULTS_KEPT)
        self._made: _Latest[tuple[str, Form], Future[_Made]] = _Latest(_KEPT)
        self._frames: _Latest[bytes, Encoded | PictureError] = _Latest(_FRAMES_KEPT)

    async def frame(
        self, data: bytes, size: tuple[int, int], name: str | None, form: Form
    ) -> Encoded | PictureError:
        """Make a frame ready; one that is identical to a frame of late is not encoded again.

        Args:
            data: Raw pixels, or an encoded file.
            size: Width and height of raw pixels.
            name: The pixel format, or the MIME type of an encoded file.
            form: How it is to be sent.

        Returns:
            The picture, or why there is none.
        """

        def work() -> tuple[Encoded | PictureError, str]:
            digest = hashlib.blake2b(f"{size} {name} {form}".encode())
            digest.update(data)
            key = digest.digest()
            made = self._frames.get(key)
            if made is None:
                made = encode(data, size, name, form)
                self._frames.put(key, made)
            return made, "" if isinstance(made, PictureError) else _url_of(made)

        made, url = await asyncio.wrap_future(_THREADS.submit(self, work))
        if url:
            # So it will stand in the context, and need no second look.
            self._made.put((url, form), _AS_IT_IS)
        return made

    async def make_ready(
        self, urls: Sequence[str], most: int, form: Form
    ) -> dict[str, str | PictureError]:
        """Make the pictures of a request ready.

        Args:
            urls: Those that it may have, the most important first.
            most: How many it may have; those that are broken do not count.
            form: How they are to be sent.

        Returns:
            For each URL what is sent in its place (the same object, if nothing needed to be made),
            or why it cannot be sent. Those that are not needed any more are absent.
        """
        sent: dict[str, str | PictureError] = {}
        good, broken, rest = 0, 0, urls
        while rest and good < most and broken < _MOST_BROKEN:
            wanted = min(most - good, _MOST_BROKEN - broken)
            batch, rest = rest[:wanted], rest[wanted:]
            for url, future in [(url, self._begun(url, form)) for url in batch]:
                # Shielded: after an interruption, the next turn finds the work done.
                if not future.done():
                    await asyncio.shield(asyncio.wrap_future(future))
                made = future.result()
                sent[url] = url if made is None else made
                if isinstance(made, PictureError):
                    broken += 1
                    self._remember(url, form, made)
                else:
                    good += 1
        if broken >= _MOST_BROKEN:
            sent.update((url, self._untried) for url in rest if url not in sent)
        return sent

    def close(self) -> None:
        """Leave out what is still waiting: the call has ended."""
        _THREADS.drop(self)

    def _begun(self, url: str, form: Form) -> Future[_Made]:
        if url.startswith(("http://", "https://")):
            return _AS_IT_IS  # Mistral fetches it
        if fault := self._faults.get(hash((url, form))):
            return _done(fault)
        future = self._made.get((url, form))
        if future is None or future.cancelled() or _THREADS.lost(future):
            future = _THREADS.submit(self, _make, url, form)
            self._made.put((url, form), future)
        return future

    def _remember(self, url: str, form: Form, fault: PictureError) -> None:
        self._made.drop((url, form))
        if not isinstance(fault, NoProcess):
            self._faults.put(hash((url, form)), fault)


class _Latest(Generic[K, V]):
    """A mapping that keeps those entries that were used last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        value = self._entries.pop(key, None)
        if value is not None:
            # Under this key, not its equal: the text in the context is the one that is kept.
            self._entries[key] = value
        return value

    def put(self, key: K, value: V) -> None:
        self._entries.pop(key, None)
        self._entries[key] = value
        if len(self._entries) > self._most:
            del self._entries[next(iter(self._entries))]

    def drop(self, key: K) -> None:
        self._entries.pop(key, None)


def _make(url: str, form: Form) -> _Made:
    if not url.startswith("data:"):
        return PictureError(f"{url[:40]!r} is neither data nor an address on the web")
    try:
        mime_type, data, in_base64 = read_data_url(url)
    except ValueError:
        return PictureError("its base64 text is broken")
    made = encode(data, (0, 0), mime_type if mime_type.startswith("image/") else "image/*", form)
    if isinstance(made, PictureError):
        return made
    as_it_is = made.data is data and made.mime_type == mime_type and in_base64
    return None if as_it_is else _url_of(made)


def _url_of(picture: Encoded) -> str:
    """The URL, letter by letter as Pipecat writes it."""
    return f"data:{picture.mime_type};base64,{base64.b64encode(picture.data).decode()}"
