"""Writes the record of one call to Redis: what has changed, one write at a time, with retries."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

from loguru import logger

from mistral_service.scale.connect import cancel
from mistral_service.scale.store import Store, StoreUnavailable, Written

WORDS_INTERVAL_S = 0.25
"""Seconds between two writes of the words of a reply."""

RETRY_S = 1.0
"""Seconds after a failed write until the next one."""

NOTED_WITHIN_S = 3.0
"""Seconds in which the note of a function has to be written before it starts. Most of it is for
packing a large one: Redis has to answer within the `timeout` of `Store`."""

HEARTBEATS = 3
"""Heartbeats in the time that a record lasts. Another machine that has claimed the call sends one
in half of that time."""

_HEARTBEAT = "heartbeat"
_FIELDS = {"snapshot", "journal", "calls"}


class Writer:
    """Writes the fields of one call: `snapshot`, `journal`, `calls`.

    The changes during a write go out together with the next one.
    """

    def __init__(
        self,
        store: Store,
        call_id: str,
        fence: int,
        keep_seconds: float,
        pack: Callable[[str], Awaitable[bytes]],
        ownership_lost: asyncio.Event,
    ) -> None:
        """Start the heartbeats.

        After a write the record lasts `keep_seconds`. `ownership_lost` is set when a write shows
        that the call belongs to another machine; nothing is written after that.
        """
        self._store = store
        self._call_id = call_id
        self._fence = fence
        self._keep_seconds = keep_seconds
        self._pack = pack
        self._ownership_lost = ownership_lost
        self._dirty: set[str] = set()
        self._lock = asyncio.Lock()
        self._is_scheduled = False
        self._is_closed = False
        self._unconfirmed_until = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._start(self._send_heartbeats())

    @property
    def idle(self) -> bool:
        """Whether all changes are written."""
        return not self._dirty and not self._lock.locked()

    def write_soon(self, *names: str) -> None:
        """Write some fields in the background."""
        self._dirty |= set(names)
        self._start(self._write())

    def write_throttled(self, name: str) -> None:
        """Write a field that changes often, every `WORDS_INTERVAL_S` at most."""
        self._dirty.add(name)
        self._write_after(WORDS_INTERVAL_S)

    async def write_now(self, *names: str) -> None:
        """Write and wait for it, but not for a Redis that is down: a caller waits."""
        if self._store.is_down:
            self.write_soon(*names)
        else:
            self._dirty |= set(names)
            await self._write()

    async def write_confirmed(self, *names: str) -> bool:
        """Write, and say whether Redis has it.

        A Redis that is down is tried too, for `NOTED_WITHIN_S` at most. A Redis that has lost data
        may have lost the claim of another machine: a write counts once that machine has had the
        time to write. Where it is not known, the answer is no.
        """
        self._dirty |= set(names)
        try:
            async with asyncio.timeout(NOTED_WITHIN_S):
                await self._write()
        except TimeoutError:
            return False
        except Exception as e:
            logger.error(f"A call's functions cannot be noted: {type(e).__name__}")
            return False
        if asyncio.get_running_loop().time() < self._unconfirmed_until:
            return False
        return not (self._is_closed or self._ownership_lost.is_set() or self._dirty & set(names))

    async def close(self, *, finish: bool) -> None:
        """Stop; with `finish`, write the changes before."""
        if finish:
            await self._write()
        self._is_closed = True
        await cancel(list(self._tasks))

    async def delete(self) -> None:
        """Delete the record, if the call is ours."""
        if self._ownership_lost.is_set():
            return
        try:
            await self._store.delete(self._call_id, self._fence, self._keep_seconds)
        except StoreUnavailable:
            logger.warning("The record of a call that is over stays until it expires")

    def _start(self, work: Coroutine[None, None, None]) -> None:
        if self._is_closed or self._ownership_lost.is_set():
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _write_after(self, seconds: float) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            self._is_scheduled = False
            await self._write()

        if not self._is_scheduled:
            self._is_scheduled = True
            self._start(wait())

    async def _send_heartbeats(self) -> None:
        """Keep the record of a silent call from expiring, and learn whether it is still ours."""
        while True:
            await asyncio.sleep(self._keep_seconds / HEARTBEATS)
            self._dirty.add(_HEARTBEAT)
            await self._write()

    async def _write(self) -> None:
        async with self._lock:
            while self._dirty and not self._is_closed and not self._ownership_lost.is_set():
                names, self._dirty = self._dirty, set()
                try:
                    packed = {name: await self._pack(name) for name in sorted(names - {_HEARTBEAT})}
                    written = await self._store.write(
                        self._call_id, self._fence, packed, self._keep_seconds
                    )
                except BaseException as e:
                    self._dirty |= names
                    if not isinstance(e, StoreUnavailable):
                        raise
                    self._dirty |= _FIELDS
                    self._write_after(RETRY_S)
                    return
                if written is Written.FENCED:
                    self._ownership_lost.set()
                elif written is Written.NOT_REPLICATED:
                    self._dirty.add("calls")
                    self._write_after(RETRY_S)
                    return
                elif written is Written.CREATED:
                    now = asyncio.get_running_loop().time()
                    self._unconfirmed_until = now + self._keep_seconds / 2
                    if not names >= _FIELDS:
                        self._dirty = set(_FIELDS)
