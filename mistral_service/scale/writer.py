"""The writing of one call: what has changed goes to Redis, one write at a time, until it is in."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

from loguru import logger

from mistral_service.scale.store import Store, StoreGone, Written

WORDS_SECONDS = 0.25
"""How often the words of a reply are written at most."""

AGAIN_SECONDS = 1.0
"""How long after a write that failed the next one is tried."""

NOTED_WITHIN_S = 3.0
"""Seconds in which the note of a function has to be written before it starts; making a large one
takes the most of it, for Redis has to answer within `Store`'s `timeout`."""

BEATS = 3
"""Signs of life in the time that a call is kept. Another machine that has the call gives one in
half of that time."""

_BEAT = "beat"
_ALL = {"snapshot", "journal", "calls"}


class Writer:
    """Writes the fields of one call: `snapshot`, `journal`, `calls`.

    What changes while a write is on its way goes out with the next one, all of it at once.
    """

    def __init__(
        self,
        store: Store,
        call_id: str,
        fence: int,
        keep_seconds: float,
        pack: Callable[[str], Awaitable[bytes]],
        lost: asyncio.Event,
    ) -> None:
        """Begin to give signs of life.

        Args:
            store: Where the call is kept.
            call_id: The call.
            fence: The number that its writes carry.
            keep_seconds: How long it is kept after a write.
            pack: Makes the bytes of a field as it is now.
            lost: Set when the call turns out to be another machine's; nothing is written then.
        """
        self._store = store
        self._call_id = call_id
        self._fence = fence
        self._keep_seconds = keep_seconds
        self._pack = pack
        self._lost = lost
        self._due: set[str] = set()
        self._writing = asyncio.Lock()
        self._waits = False
        self._over = False
        self._doubtful_until = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._later(self._beat())

    @property
    def idle(self) -> bool:
        """Whether all that has changed is written."""
        return not self._due and not self._writing.locked()

    def soon(self, *names: str) -> None:
        """Write some fields; nobody waits for it."""
        self._due |= set(names)
        self._later(self._write())

    def in_a_while(self, name: str) -> None:
        """Write a field that changes often."""
        self._due.add(name)
        self._write_after(WORDS_SECONDS)

    async def now(self, *names: str) -> None:
        """Write and wait for it, unless Redis is known to be away: who waits is in a call."""
        if self._store.gone:
            self.soon(*names)
        else:
            self._due |= set(names)
            await self._write()

    async def noted(self, *names: str) -> bool:
        """Write, and tell whether it stands in Redis.

        It is tried also while Redis is known to be away, for `NOTED_WITHIN_S` at most. After Redis
        has lost what it had, it may have lost that another machine took the call: what stands there
        counts once that machine has had the time to write.

        Returns:
            True if it is written. False if it is not, or if that is not known.
        """
        self._due |= set(names)
        try:
            async with asyncio.timeout(NOTED_WITHIN_S):
                await self._write()
        except TimeoutError:
            return False
        except Exception as e:
            logger.error(f"A call's functions cannot be noted: {type(e).__name__}")
            return False
        if asyncio.get_running_loop().time() < self._doubtful_until:
            return False
        return not (self._over or self._lost.is_set() or self._due & set(names))

    async def close(self, *, finish: bool) -> None:
        """Stop; with `finish` what is due is written before."""
        if finish:
            await self._write()
        self._over = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def delete(self) -> None:
        """Delete what was kept, if it is ours."""
        if self._lost.is_set():
            return
        try:
            await self._store.end(self._call_id, self._fence, self._keep_seconds)
        except StoreGone:
            logger.warning("A call that is over stays kept until it expires")

    def _later(self, work: Coroutine[None, None, None]) -> None:
        if self._over or self._lost.is_set():
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _write_after(self, seconds: float) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            self._waits = False
            await self._write()

        if not self._waits:
            self._waits = True
            self._later(wait())

    async def _beat(self) -> None:
        """Keep a call in which nobody speaks from expiring, and hear whether it is still ours."""
        while True:
            await asyncio.sleep(self._keep_seconds / BEATS)
            self._due.add(_BEAT)
            await self._write()

    async def _write(self) -> None:
        async with self._writing:
            while self._due and not self._over and not self._lost.is_set():
                names, self._due = self._due, set()
                try:
                    packed = {name: await self._pack(name) for name in sorted(names - {_BEAT})}
                    written = await self._store.write(
                        self._call_id, self._fence, packed, self._keep_seconds
                    )
                except BaseException as e:
                    self._due |= names
                    if not isinstance(e, StoreGone):
                        raise
                    self._due |= _ALL
                    self._write_after(AGAIN_SECONDS)
                    return
                if written is Written.FENCED:
                    self._lost.set()
                elif written is Written.NOT_COPIED:
                    self._due.add("calls")
                    self._write_after(AGAIN_SECONDS)
                    return
                elif written is Written.ANEW:
                    now = asyncio.get_running_loop().time()
                    self._doubtful_until = now + self._keep_seconds / 2
                    if not names >= _ALL:
                        self._due = set(_ALL)
