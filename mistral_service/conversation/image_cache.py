"""The images of a conversation, each made ready once, in a thread."""

import asyncio
import base64
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future

from mistral_service.conversation.data_urls import MOST_CHARACTERS, read_data_url
from mistral_service.conversation.encoding import Encoded, Form
from mistral_service.conversation.fair import FairThreads
from mistral_service.conversation.isolation import NoProcess, encode
from mistral_service.conversation.parts import ImageError
from mistral_service.conversation.url_cache import ByUrl, Latest, key_of

# For the whole process: a hundred calls share two threads, so that voices keep the processor.
_THREADS = FairThreads(2, "images")

# Twice what one request may have: a summary may be asked for beside a turn.
_KEPT = 16
_FRAMES_KEPT = 4
_FAULTS_KEPT = 256
_MOST_BROKEN = 24  # of one request

# What is sent in place of a URL: another one, nothing else (None), or nothing at all.
_Made = str | ImageError | None


def _done(made: _Made) -> Future[_Made]:
    future: Future[_Made] = Future()
    future.set_result(made)
    return future


_AS_IT_IS = _done(None)


class ImageCache:
    """Makes images ready to be sent, and remembers those of late.

    What was made is found by the image's URL. That text stands in the context and is the same
    object turn after turn: Python keeps its hash, so that finding it again costs no look at its
    megabyte, and it is in memory once.

    Attributes:
        bytes_in_context: Bytes of the images in the context, as base64: those of the last
            request, and what has come since.
        oversized: Why an image is left out whose URL has more than `MOST_CHARACTERS`.
    """

    def __init__(self) -> None:
        self.bytes_in_context = 0
        self.oversized = ImageError(f"its URL has more than {MOST_CHARACTERS:,} characters")
        self._untried = ImageError(f"{_MOST_BROKEN:,} others of this request are broken")
        # Of what is broken its URL need not be kept: Python's keyed hash of 64 bits tells it.
        self._faults: Latest[int, ImageError] = Latest(_FAULTS_KEPT)
        self._made: Latest[tuple[Hashable, Form], Future[_Made]] = Latest(_KEPT)
        self._frames: Latest[bytes, Encoded | ImageError] = Latest(_FRAMES_KEPT)

    async def frame(
        self, data: bytes, size: tuple[int, int], name: str | None, form: Form
    ) -> Encoded | ImageError:
        """Make a frame ready; one that is identical to a frame of late is not encoded again.

        Args:
            data: Raw pixels, or an encoded file.
            size: Width and height of raw pixels.
            name: The pixel format, or the MIME type of an encoded file.
            form: How it is to be sent.

        Returns:
            The image, or why there is none.
        """

        def work() -> tuple[Encoded | ImageError, str]:
            digest = hashlib.blake2b(f"{size} {name} {form}".encode())
            digest.update(data)
            key = digest.digest()
            made = self._frames.get(key)
            if made is None:
                made = encode(data, size, name, form)
                self._frames.put(key, made)
            return made, "" if isinstance(made, ImageError) else _url_of(made)

        made, url = await asyncio.wrap_future(_THREADS.submit(self, work))
        if url:
            # So it will stand in the context, and need no second look.
            self._made.put((key_of(url), form), _AS_IT_IS)
        return made

    async def make_ready(
        self, urls: Sequence[str], most: int, form: Form
    ) -> Mapping[str, str | ImageError]:
        """Make the images of a request ready.

        Args:
            urls: Those that it may have, the most important first.
            most: How many it may have; those that are broken do not count.
            form: How they are to be sent.

        Returns:
            For each URL what is sent in its place (the same object, if nothing needed to be made),
            or why it cannot be sent. Those that are not needed any more are absent.
        """
        sent = ByUrl[str | ImageError]()
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
                if isinstance(made, ImageError):
                    broken += 1
                    self._remember(url, form, made)
                else:
                    good += 1
        if broken >= _MOST_BROKEN:
            for url in rest:
                if url not in sent:
                    sent[url] = self._untried
        return sent

    def close(self) -> None:
        """Leave out what is still waiting: the call has ended."""
        _THREADS.drop(self)

    def _begun(self, url: str, form: Form) -> Future[_Made]:
        if url.startswith(("http://", "https://")):
            return _AS_IT_IS  # Mistral fetches it
        key = (key_of(url), form)
        if fault := self._faults.get(hash(key)):
            return _done(fault)
        future = self._made.get(key)
        if future is None or future.cancelled() or _THREADS.lost(future):
            future = _THREADS.submit(self, _make, url, form)
            self._made.put(key, future)
        return future

    def _remember(self, url: str, form: Form, fault: ImageError) -> None:
        key = (key_of(url), form)
        self._made.drop(key)
        if not isinstance(fault, NoProcess):
            self._faults.put(hash(key), fault)


def _make(url: str, form: Form) -> _Made:
    if not url.startswith("data:"):
        return ImageError(f"{url[:40]!r} is neither data nor an address on the web")
    try:
        mime_type, data, in_base64 = read_data_url(url)
    except ValueError:
        return ImageError("its base64 text is broken")
    made = encode(data, (0, 0), mime_type if mime_type.startswith("image/") else "image/*", form)
    if isinstance(made, ImageError):
        return made
    as_it_is = made.unchanged and made.mime_type == mime_type and in_base64
    return None if as_it_is else _url_of(made)


def _url_of(image: Encoded) -> str:
    """The URL, letter by letter as Pipecat writes it."""
    return f"data:{image.mime_type};base64,{base64.b64encode(image.data).decode()}"
