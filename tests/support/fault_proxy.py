"""A rough road to an endpoint: a proxy on loopback that does to bytes what networks do to them.

It forwards requests and answers byte by byte, and where a test has put a `Trouble` on the road, an
answer goes so far and no further. It knows of HTTP just enough to see requests and the chunks of
an answer.

Usage::

    async with Road(mistral.base_url) as road:
        road.ahead(Trouble(Chunks(3), how=Ending.RST))
        ...                                      # one request to road.base_url meets it
        assert len(road.arrivals) == 2
"""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Place(Enum):
    """Where trouble lies, before the answer.

    Parameters:
        DOOR: On accepting the connection.
        REQUEST: After the request has been read; nobody else is asked.
    """

    DOOR = auto()
    REQUEST = auto()


@dataclass(frozen=True, slots=True)
class Chunks:
    """After the headers and so many HTTP chunks of the answer; the endpoint sends one an event."""

    count: int


@dataclass(frozen=True, slots=True)
class Bytes:
    """After the headers and so many bytes of the answer's body."""

    count: int


@dataclass(frozen=True, slots=True)
class Marker:
    """Right after these bytes of the answer's body, where they first stand in one chunk."""

    data: bytes


class Ending(Enum):
    """What becomes of the connection.

    Parameters:
        FIN: It is closed.
        RST: It is reset.
        SILENCE: It stays open, and nothing more comes until the client leaves.
        END: The body ends as if it were whole; the connection stays.
        GOES_ON: The rest of the answer follows, and no more trouble.
    """

    FIN = auto()
    RST = auto()
    SILENCE = auto()
    END = auto()
    GOES_ON = auto()


@dataclass(frozen=True, slots=True)
class Trouble:
    """What happens to one request, or to one connection at the door.

    Parameters:
        after: How far all goes well.
        how: How it ends.
        saying: Bytes sent before that; within an answer's body they are a chunk of their own.
        bare: Whether `saying` goes out as it stands, without a chunk around it.
        pause: Seconds between the bytes sent from then on, one by one; None sends them together.
        headers: Headers of the answer that are other than they were.
    """

    after: Place | Chunks | Bytes | Marker
    how: Ending
    saying: bytes = b""
    bare: bool = False
    pause: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass
class Arrival:
    """A request that came, or a connection that had no chance to bring one.

    Parameters:
        line: The request line; empty at the door.
        headers: The request's headers, names in lower case, the key among them.
        body: The request's body.
        passed: What the client was sent of a streamed answer's body, without chunks around it.
        over: Whether it was answered to the end, or its connection is closed.
    """

    line: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    passed: bytearray = field(default_factory=bytearray)
    over: bool = False


class Road:
    """The proxy, for the time of an `async with` block; at its end every connection is closed.

    Attributes:
        arrivals: Every chat request that came, and every connection that met trouble at the door.
        met: Set when trouble is met.
        port: Where it listens, on loopback.
    """

    def __init__(
        self, base_url: str, *, listening: bool = True, tls: ssl.SSLContext | None = None
    ) -> None:
        """Prepare the road.

        Args:
            base_url: The endpoint at its end.
            listening: Whether the port is open from the beginning, or from `open()` on.
            tls: What the road speaks TLS with; None speaks none.
        """
        self._upstream = urlsplit(base_url)
        self._listening = listening
        self._tls = tls
        self._troubles: list[Trouble] = []
        self._always = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.arrivals: list[Arrival] = []
        self.met = asyncio.Event()
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    @property
    def base_url(self) -> str:
        """The address for a client's `base_url`."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self.port}{self._upstream.path}"

    def ahead(self, *troubles: Trouble, always: bool = False) -> None:
        """Put trouble on the road: one for each request to come, in order.

        Args:
            *troubles: What is met; none clears the road.
            always: Whether the last one stays for all that come after.
        """
        self._troubles = list(troubles)
        self._always = always
        self.met.clear()

    async def open(self) -> None:
        """Open the port."""
        await self._server.start_serving()

    @property
    def quiet(self) -> bool:
        """Whether nobody waits for an answer."""
        return all(arrival.over for arrival in self.arrivals)

    async def __aenter__(self) -> "Road":
        self._server = await asyncio.start_server(
            self._connected, sock=self._socket, start_serving=self._listening
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError):
            pass  # the client has left, or is to see the connection closed
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._troubles and self._troubles[0].after is Place.DOOR:
            async with self._arrival() as (trouble, _):
                assert trouble is not None
                if trouble.saying:
                    await reader.read(65536)  # nobody but the client speaks first
                await self._suffer(trouble, reader, writer)
            return
        if self._tls is not None:
            async with self._arrival():
                await writer.start_tls(self._tls)
        while (message := await _message(reader)) is not None:
            if not message.line.startswith("POST"):
                await self._forward(message, None, Arrival(), reader, writer)
                continue
            async with self._arrival(message) as (trouble, arrival):
                if trouble is not None and trouble.after is Place.REQUEST:
                    await self._suffer(trouble, reader, writer)
                    if trouble.how is Ending.END:
                        continue
                    trouble = None
                await self._forward(message, trouble, arrival, reader, writer)

    @contextlib.asynccontextmanager
    async def _arrival(
        self, message: "_Message | None" = None
    ) -> AsyncIterator[tuple[Trouble | None, Arrival]]:
        """Note an arrival, and take the trouble that lies ahead of it."""
        arrival = Arrival(message.line, message.headers, message.body) if message else Arrival()
        self.arrivals.append(arrival)
        trouble = self._troubles[0] if self._troubles else None
        if trouble is not None and not (self._always and len(self._troubles) == 1):
            del self._troubles[0]
        try:
            yield trouble, arrival
        finally:
            arrival.over = True

    async def _forward(
        self,
        message: "_Message",
        trouble: Trouble | None,
        arrival: Arrival,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Fetch the answer, and pass it on as far as trouble lets it go."""
        upstream, asking = await asyncio.open_connection(
            self._upstream.hostname, self._upstream.port
        )
        try:
            asking.write(message.raw)
            answer = await _message(upstream, with_body=False)
            if answer is None:
                raise EOFError
            writer.write(answer.with_headers(trouble.headers if trouble else {}))
            if "chunked" not in answer.headers.get("transfer-encoding", ""):
                length = int(answer.headers.get("content-length", 0))
                writer.write(await upstream.readexactly(length))
                return
            count, passed, pause = 0, 0, None
            ended = False
            while not ended:
                payload = await _chunk(upstream)
                ended = not payload
                here = None if trouble is None else _here(trouble.after, count, passed, payload)
                count, passed = count + 1, passed + len(payload)
                if trouble is not None and here is not None:
                    writer.write(_framed(payload[:here]))
                    arrival.passed += payload[:here]
                    await self._suffer(trouble, reader, writer, framed=not trouble.bare)
                    ended = ended or trouble.how is Ending.END
                    if ended:
                        break
                    payload, pause, trouble = payload[here:], trouble.pause, None
                await _send(payload, reader, writer, _framed, pause)
                arrival.passed += payload
            writer.write(_LAST_CHUNK)
        finally:
            asking.close()

    async def _suffer(
        self,
        trouble: Trouble,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        framed: bool = False,
    ) -> None:
        """Do what the trouble does; returns where the connection survives it."""
        self.met.set()
        frame = _framed if framed else bytes
        await _send(trouble.saying, reader, writer, frame, trouble.pause)
        match trouble.how:
            case Ending.SILENCE:
                await reader.read()
                raise EOFError
            case Ending.FIN:
                raise EOFError
            case Ending.RST:
                no_farewell = struct.pack("ii", 1, 0)
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_farewell)
                writer.transport.abort()
                raise ConnectionResetError
            case Ending.END | Ending.GOES_ON:
                pass


# --- as much of HTTP as there must be -------------------------------------------------------------

_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class _Message:
    """A request or an answer: its first line, its headers, and all its bytes as they came."""

    line: str
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> bytes:
        """What comes behind the headers."""
        return self.raw.partition(b"\r\n\r\n")[2]

    def with_headers(self, others: Mapping[str, str]) -> bytes:
        """Its bytes, with other headers."""
        if not others:
            return self.raw
        fields = [f"{name}: {value}" for name, value in {**self.headers, **others}.items()]
        return "\r\n".join([self.line, *fields, "", ""]).encode()


async def _message(reader: asyncio.StreamReader, *, with_body: bool = True) -> _Message | None:
    """Read a message; None where the connection is closed before its end."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
        line, *fields = raw.decode("latin-1").split("\r\n")
        split = (field.partition(":") for field in fields if field)
        headers = {name.strip().lower(): value.strip() for name, _, value in split}
        if with_body:
            raw += await reader.readexactly(int(headers.get("content-length", 0)))
    except asyncio.IncompleteReadError:
        return None
    return _Message(line, headers, raw)


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """Read one chunk of a chunked body; empty at its end."""
    size = int(await reader.readline(), 16)
    payload = await reader.readexactly(size + 2)
    return payload[:-2]


async def _send(
    data: bytes,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    frame: Callable[[bytes], bytes],
    pause: float | None,
) -> None:
    """Send bytes, all at once or one by one, to a client that is still there."""
    pieces = [data] if pause is None else [data[i : i + 1] for i in range(len(data))]
    for piece in pieces:
        if reader.at_eof() or writer.is_closing():
            raise EOFError
        writer.write(frame(piece))
        await writer.drain()
        if pause is not None:
            await asyncio.sleep(pause)


def _framed(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def _here(after: object, count: int, passed: int, payload: bytes) -> int | None:
    """Where in a chunk trouble lies; None where it does not."""
    match after:
        case Chunks(chunks):
            return 0 if chunks == count else None
        case Bytes(size):
            return size - passed if size - passed <= len(payload) else None
        case Marker(data):
            found = payload.find(data)
            return found + len(data) if found >= 0 else None
    return None


def response(status: int, body: bytes | str | object = b"", **headers: str) -> bytes:
    """The bytes of a whole HTTP answer.

    Args:
        status: The status.
        body: The body: bytes, text, or what becomes JSON.
        **headers: Further headers, with `_` for `-`.
    """
    if not isinstance(body, bytes | str):
        body = json.dumps(body)
    data = body.encode() if isinstance(body, str) else body
    fields = {"content-length": str(len(data))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase if status in _KNOWN else 'Odd'}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


_KNOWN = {status.value for status in HTTPStatus}


# --- TLS ------------------------------------------------------------------------------------------


def untrusted() -> ssl.SSLContext:
    """TLS with a certificate that is its own witness."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "both.pem"
        file.write_bytes(pem)
        context.load_cert_chain(file)
    return context
