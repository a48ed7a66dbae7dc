"""A minimal server that streams tokens at a given rate, each with the time at which it was sent.

`speed.py` runs it in a process of its own. The time is on the monotonic clock, which all processes
of a machine share, so that the receiver can compute the delay.
"""

import argparse
import asyncio
import json
import ssl
import time
from collections.abc import Callable

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    b"connection: keep-alive\r\n\r\n"
)
MODELS = json.dumps(
    {"data": [{"id": "mistral-small-latest", "capabilities": {"completion_chat": True}}]}
).encode()


def chunk(delta: dict, reason: str | None = None) -> bytes:
    body = {
        "id": "cmpl-e5cc70bb28c444948073e77776eb30ef",
        "object": "chat.completion.chunk",
        "created": 1702256327,
        "model": "mistral-small-latest",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
    }
    if reason:
        body["usage"] = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


SENTENCE = (
    *(" Train{at}", " goes", " to", " Lyon", " from", " platform", " seven", " in", " the"),
    *(" morning", ",", " and", " the", " next", " one", " follows", " an", " hour", " later", "."),
)
"""The tokens of a sentence: its first one says when it was sent, in microseconds."""


def spoken(number: int) -> str:
    """The token of a reply of many sentences."""
    return SENTENCE[number % len(SENTENCE)].format(at=f"{time.monotonic() * 1e6:.0f}")


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes] | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if b"content-length" in line
        ),
        0,
    )
    return head, await reader.readexactly(length)


def timed(_number: int) -> str:
    """A token that says when it was sent, in seconds."""
    return f"{time.monotonic():.6f} "


async def serve(
    tokens: int, rate: float, port: int, delay: float, cert: str | None, token: Callable[[int], str]
) -> None:
    written = 0  # tokens of all replies

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        try:
            while (request := await read_request(reader)) is not None:
                if request[0].startswith(b"GET /written"):
                    body = b"%d" % written
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
                    )
                    continue
                await asyncio.sleep(delay)
                if request[0].startswith(b"GET"):
                    size = b"content-length: %d\r\n\r\n" % len(MODELS)
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + size + MODELS
                    )
                    continue
                writer.write(HEAD + framed(chunk({"role": "assistant", "content": ""})))
                began = time.monotonic()
                sent = []
                for number in range(tokens):
                    if rate:
                        due = began + number / rate
                        await asyncio.sleep(max(0.0, due - time.monotonic()))
                        if writer.is_closing():
                            return
                        written += 1
                        writer.write(framed(chunk({"content": token(number)})))
                    else:
                        sent.append(framed(chunk({"content": "word "})))
                writer.write(b"".join(sent))
                writer.write(framed(chunk({"content": ""}, "stop")) + framed(b"data: [DONE]\n\n"))
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    tls = None
    if cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(cert)
    server = await asyncio.start_server(session, "127.0.0.1", port, backlog=1024, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await asyncio.wait_for(server.serve_forever(), 600)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=0.0, help="tokens a second; 0 for a burst")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--cert", help="a PEM file: speak TLS")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--text", choices=("times", "sentences"), default="times")
    given = parser.parse_args()
    token = spoken if given.text == "sentences" else timed
    asyncio.run(serve(given.tokens, given.rate, given.port, given.delay, given.cert, token))
