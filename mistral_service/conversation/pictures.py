"""The pictures of a conversation, each made ready once, in a thread."""

import asyncio
import base64
import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

from mistral_service.conversation.encoding import Encoded, Form, encode
from mistral_service.conversation.parts import PictureError

# For the whole process: a hundred calls share two threads, so that voices keep the processor.
_THREADS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="pictures")

# Twice what one request may have: a summary may be asked for beside a turn.
_KEPT = 16
_FRAMES_KEPT = 4

K = TypeVar("K")
V = TypeVar("V")

# What is sent in place of a URL: another one, nothing else (None), or nothing at all.
_Made = str | PictureError | None
_AS_IT_IS: Future[_Made] = Future()
_AS_IT_IS.set_result(None)


class Pictures:
    """Makes pictures ready to be sent, and remembers those of late.

    What was made is found by the picture's URL. That text stands in the context and is the same
    object turn after turn: Python keeps its hash, so that finding it again costs no look at its
    megabyte, and it is in memory once.
    """

    def __init__(self) -> None:
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

        made, url = await asyncio.wrap_future(_THREADS.submit(work))
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
        good, rest = 0, urls
        while rest and good < most:
            batch, rest = rest[: most - good], rest[most - good :]
            for url, future in [(url, self._begun(url, form)) for url in batch]:
                # Shielded: after an interruption, the next turn finds the work done.
                if not future.done():
                    await asyncio.shield(asyncio.wrap_future(future))
                made = future.result()
                sent[url] = url if made is None else made
                good += not isinstance(made, PictureError)
        return sent

    def _begun(self, url: str, form: Form) -> Future[_Made]:
        if url.startswith(("http://", "https://")):
            return _AS_IT_IS  # Mistral fetches it
        future = self._made.get((url, form))
        if future is None:
            future = _THREADS.submit(_make, url, form)
            self._made.put((url, form), future)
        return future


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


def _make(url: str, form: Form) -> _Made:
    if not url.startswith("data:"):
        return PictureError(f"{url[:40]!r} is neither data nor an address on the web")
    head, _, body = url[5:].partition(",")
    mime_type, *parameters = head.split(";")
    in_base64 = "base64" in parameters
    try:
        data = base64.b64decode(body) if in_base64 else unquote_to_bytes(body)
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
