"""A wire between two programs: TCP on loopback that loses a direction in silence, or is slow."""

import asyncio
import contextlib


class Wire:
    """Forwards connections to a port.

    Attributes:
        port: Where it listens.
        target: The port that connections from now on are forwarded to.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.target = target
        self._delay = 0.0
        self._flows = {"there": asyncio.Event(), "back": asyncio.Event()}
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.heal()

    def cut(self, *directions: str) -> None:
        """Let nothing through in the named directions, and close nothing."""
        for direction in directions or ("there", "back"):
            self._flows[direction].clear()

    def slow(self, seconds: float) -> None:
        """Have everything take so much longer."""
        self._delay = seconds

    def heal(self) -> None:
        """Let everything through again; what was held follows, as TCP sends it again."""
        self._delay = 0.0
        for flow in self._flows.values():
            flow.set()

    async def __aenter__(self) -> "Wire":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A wire that is cut connects no one: who calls waits, as for a host without power.
        try:
            await self._flows["there"].wait()
            await self._flows["back"].wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except (OSError, asyncio.CancelledError):
            writer.close()
            return
        both = (("there", reader, far_writer), ("back", far_reader, writer))
        for direction, source, drain in both:
            task = asyncio.create_task(self._pump(direction, source, drain))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self, direction: str, source: asyncio.StreamReader, drain: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._flows[direction].wait()
                drain.write(data)
                await drain.drain()
        await self._flows[direction].wait()
        with contextlib.suppress(OSError, RuntimeError):
            drain.close()
