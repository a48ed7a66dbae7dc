"""Servers on loopback that answer with whatever a test has thought of."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(answer: bytes | Answer) -> AsyncIterator[str]:
    """A server that gives one answer to every request; yields its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].split(b"\r\n")[0].strip()
                await reader.readexactly(int(length or 0))
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has heard enough
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


def answer(status: int, body: bytes, kind: str = "application/json", **headers: str) -> bytes:
    """The bytes of a whole answer."""
    fields = {"content-type": kind, "content-length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def packed(data: bytes, *how: str) -> bytes:
    """Data in one encoding, or in several, one around the other."""
    for each in how:
        if each == "raw deflate":
            packer = zlib.compressobj(wbits=-15)
            data = packer.compress(data) + packer.flush()
        else:
            data = zlib.compress(data) if each == "deflate" else gzip.compress(data)
    return data
