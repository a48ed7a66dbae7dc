"""`examples/one_process`: a process that holds calls, as what runs a container meets it."""

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pipecat.frames.protobufs import frames_pb2
from ports import free_port
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from mistral_service.local import LocalMistral, Reply, Script

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "one_process"
CALL = {"type": "call", "id": None, "heard": None, "ended": False, "asked": None}


@contextlib.asynccontextmanager
async def serving(
    address: str, secret: Path, **environment: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The process; its key comes from a file."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(FOLDER / "serve.py"),
        str(ROOT / "examples" / "many_calls_bot.py"),
        env={
            **{k: v for k, v in os.environ.items() if k not in ("MISTRAL_API_KEY", "SPEECH")},
            "MISTRAL_API_KEY_FILE": str(secret),
            "MISTRAL_BASE_URL": address,
            "PORT": str(port),
            **environment,
        },
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def status_of(port: int, path: str) -> int | None:
    async with httpx.AsyncClient(trust_env=False) as web:
        with contextlib.suppress(httpx.TransportError):
            return (await web.get(f"http://127.0.0.1:{port}{path}", timeout=60)).status_code
    return None


async def becomes(port: int, path: str, status: int) -> None:
    """Wait until the process answers so; the test's own time limit ends it."""
    while await status_of(port, path) != status:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def begin(port: int) -> ClientConnection:
    socket = await connect(f"ws://127.0.0.1:{port}/call", subprotocols=["mistral-call.v1"])
    await socket.send(json.dumps(CALL))
    return socket


async def tell(socket: ClientConnection, kind: str, **data: str) -> None:
    message = {"label": "rtvi-ai", "type": kind, "id": "1", "data": data}
    frame = frames_pb2.Frame(message=frames_pb2.MessageFrame(data=json.dumps(message)))
    await socket.send(frame.SerializeToString())


async def answer_on(socket: ClientConnection) -> str:
    """The words of the next reply."""
    words = ""
    async for data in socket:
        if isinstance(data, bytes):
            message = json.loads(frames_pb2.Frame.FromString(data).message.data or "{}")
            if message.get("type") == "bot-llm-text":
                words += message["data"]["text"]
            elif message.get("type") == "bot-llm-stopped" and words:
                return words
    raise AssertionError(f"the line was closed after {words!r}")


async def closed(socket: ClientConnection) -> int | None:
    """The code with which the server closes a line."""
    with contextlib.suppress(ConnectionClosed):
        async for _ in socket:
            pass
    return socket.close_code


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "mistral"
    path.write_text("the-right-key\n")
    return path


async def test_a_call_goes_on_after_the_signal_and_the_process_ends_with_it(secret: Path):
    # However often a slow process asks: its first request may be hedged.
    script = Script(
        Reply("We are open.", when="Are you open", times=None),
        Reply("Until nine.", when="Until when", times=None),
    )
    with LocalMistral(script, api_key="the-right-key") as mistral:
        async with serving(mistral.base_url, secret) as (process, port):
            await becomes(port, "/readyz", 200)
            assert await status_of(port, "/healthz") == 200
            async with await begin(port) as socket:
                assert json.loads(await socket.recv())["resumed"] is False
                await tell(socket, "client-ready", version="2.2.0")
                await tell(socket, "send-text", content="Are you open?")
                assert await answer_on(socket) == "We are open."

                process.send_signal(signal.SIGTERM)
                await becomes(port, "/readyz", 503)
                assert await status_of(port, "/healthz") == 200
                assert await closed(await begin(port)) == 1013
                await tell(socket, "send-text", content="Until when?")
                assert await answer_on(socket) == "Until nine."
            assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_the_lines_that_are_left_are_closed_when_the_time_is_over(secret: Path):
    with LocalMistral(Script(), api_key="the-right-key") as mistral:
        async with serving(mistral.base_url, secret, DRAIN_SECONDS="0.5") as (process, port):
            await becomes(port, "/readyz", 200)
            socket = await begin(port)
            await socket.recv()
            process.send_signal(signal.SIGTERM)
            assert await closed(socket) == 1012
            assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_a_wrong_key_keeps_it_from_starting_and_is_not_shown(secret: Path):
    with LocalMistral(Script(), api_key="another-key") as mistral:
        async with serving(mistral.base_url, secret) as (process, _):
            _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert "Mistral did not accept the API key" in said.decode()
    assert "the-right-key" not in said.decode()


def test_the_container_file_names_what_is_there():
    text = (FOLDER / "Containerfile").read_text().replace("\\\n", " ")
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert [source for source in sources if not (ROOT / source).exists()] == []
    [command] = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert [word for word in json.loads(command)[1:] if not (ROOT / word).exists()] == []
    [check] = re.findall(r"^HEALTHCHECK .*?CMD\s+(\[.*\])$", text, re.MULTILINE)
    compile(json.loads(check)[2], "healthcheck", "exec")
    [variables] = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
    named = {pair.partition("=")[0] for pair in shlex.split(variables)}
    assert "MISTRAL_API_KEY" not in named  # it would stand in the image
    read = set(re.findall(r'getenv\("(\w+)"', (FOLDER / "serve.py").read_text()))
    assert {"HOST", "PORT", "CALLS", "DRAIN_SECONDS"} <= named & read
