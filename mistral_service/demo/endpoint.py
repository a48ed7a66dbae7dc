"""`python -m mistral_service.demo.endpoint`: the strict local endpoint, with faults on request.

It is the endpoint of `mistral_service.local` with the layers of the demo over its model, and one
route more, which `python -m mistral_service.local` does not have::

    POST /faults {"kind": "cut", "call": "…"}

The answer is a stream of JSON lines: what the fault did, as it happens. The fault belongs to the
request: it is dropped where the client leaves. The route wants the endpoint's key, and no page of
another site reaches it (`mistral_service.local.guard`).
"""

import argparse
import asyncio
import contextlib
import hmac
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mistral_service.demo.faults import DOWN_S, FaultLayer, Injection, NotInjected
from mistral_service.demo.small_model import SmallModel
from mistral_service.local.__main__ import API_KEY_VARIABLE, end, end_with_stdin
from mistral_service.local.app import create_app
from mistral_service.local.checks import Checks
from mistral_service.local.engine import ModelEngine, ModelNotLoaded
from mistral_service.local.pieces import Engine
from mistral_service.local.server import KEEP_ALIVE_S, bind
from mistral_service.wire.trees import object_of

LONGEST_S = 120.0
"""Seconds that a fault waits for a reply, and is reported about."""
MOST_CONNECTIONS = 1_000


class FaultyEndpoint:
    """The strict endpoint over an engine, which breaks when it is asked to."""

    def __init__(self, engine: Engine, api_key: str, *, down_s: float = DOWN_S) -> None:
        self.layer = FaultLayer(engine)
        self._api_key = api_key
        self._down_s = down_s
        self._goes_down = asyncio.Event()
        # The rules of Mistral's own API: those of chat templates would end calls on Pipecat's own
        # service for other reasons than the fault.
        self.app: Starlette = create_app(self.layer, Checks(templates=False), api_key=api_key)
        self.app.router.routes.insert(0, Route("/faults", self._inject, methods=["POST"]))

    async def serve(self, listener: socket.socket) -> None:
        """Serve until the process is asked to end, with breaks where the endpoint goes down."""
        config = uvicorn.Config(
            self.app,
            log_level="critical",
            lifespan="off",
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
        try:
            while True:
                server = uvicorn.Server(config)
                serving = asyncio.create_task(server.serve(sockets=[listener]))
                down = asyncio.create_task(self._goes_down.wait())
                try:
                    await asyncio.wait({serving, down}, return_when=asyncio.FIRST_COMPLETED)
                    if not self._goes_down.is_set():
                        return await serving
                    listener = await self._break(server, serving, listener)
                finally:
                    down.cancel()
                    server.should_exit = True
                    await serving
        finally:
            await self.layer.close()

    async def _break(
        self, server: uvicorn.Server, serving: asyncio.Task[None], listener: socket.socket
    ) -> socket.socket:
        """Break every connection and refuse new ones for a while; the port stays ours."""
        address = listener.getsockname()[:2]
        family = listener.family
        for asyncio_server in server.servers:
            asyncio_server.close()
        for connection in list(server.server_state.connections):
            transport: Any = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        server.should_exit = server.force_exit = True
        await serving
        listener.close()
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)  # bound and not listening: connections are refused
        await asyncio.sleep(self._down_s)
        self._goes_down.clear()
        listener.listen(128)
        return listener

    async def _inject(self, request: Request) -> Response:
        _, _, given = request.headers.get("authorization", "").partition(" ")
        if not hmac.compare_digest(given.strip().encode(), self._api_key.encode()):
            return JSONResponse({"detail": "Unauthorized"}, 401)
        try:
            asked = object_of(json.loads(await request.body()))
        except ValueError:
            asked = {}
        kind, call = asked.get("kind"), asked.get("call")
        if not (isinstance(kind, str) and isinstance(call, str) and call):
            return JSONResponse({"detail": 'A fault is {"kind": …, "call": …}.'}, 422)
        stack = contextlib.ExitStack()
        try:
            injection = stack.enter_context(self.layer.inject(kind, call))
        except NotInjected as e:
            return JSONResponse({"detail": str(e)}, 409)
        lines = self._report(injection, stack)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def _report(
        self, injection: Injection, stack: contextlib.ExitStack
    ) -> AsyncIterator[bytes]:
        with stack, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_S):
                while True:
                    event = await injection.events.get()
                    yield json.dumps(event).encode() + b"\n"
                    if injection.kind == "down":
                        await asyncio.sleep(0.05)  # the line is sent, and then the port closes
                        self._goes_down.set()


def main(arguments: list[str] | None = None) -> int:
    """Run the endpoint with a model; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mistral_service.demo.endpoint")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument(
        "--scripted-calls",
        action="store_true",
        help="call the demo's functions for a model that cannot",
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    try:
        with bind("127.0.0.1", options.port) as listener:
            print(f"Mistral endpoint: http://127.0.0.1:{listener.getsockname()[1]}/v1", flush=True)
            model = SmallModel(ModelEngine(options.model), calls=options.scripted_calls)
            endpoint = FaultyEndpoint(model, os.environ[API_KEY_VARIABLE])
            asyncio.run(endpoint.serve(listener))
    except (ModelNotLoaded, OSError) as e:
        print(e, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
