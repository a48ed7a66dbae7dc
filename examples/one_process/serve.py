"""One process that serves calls of a bot, for a container (docs/deployment.md).

In a terminal, from a checkout::

    export MISTRAL_API_KEY=...        # or MISTRAL_API_KEY_FILE=/run/secrets/mistral
    python examples/one_process/serve.py examples/many_calls_bot.py

It serves the page at `/`, calls from browsers at `/call`, calls from Twilio at `POST /twilio`, and
two probes for the orchestrator: `/healthz` (liveness) and `/readyz` (readiness for calls).

SIGTERM drains it: it takes no new call, and the process ends with the last one. After
`DRAIN_SECONDS` the remaining calls are closed. A second signal stops it at once.
"""

import asyncio
import os
import sys
from types import FrameType

import uvicorn
from loguru import logger
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from mistral_service.scale.args import load_bot, read_secrets
from mistral_service.scale.calls import Calls
from mistral_service.scale.ingress import create_app
from mistral_service.scale.limits import WS_MAX_SIZE
from mistral_service.scale.replica import check_mistral

CLOSE_SECONDS = 1.0
"""Seconds over which the remaining calls are closed."""


class Server(uvicorn.Server):
    """A server that drains its calls after a signal; uvicorn would close them at once."""

    def __init__(self, config: uvicorn.Config, calls: Calls, drain_seconds: float) -> None:
        super().__init__(config)
        self._calls, self._drain_seconds = calls, drain_seconds
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at the second."""
        if self._calls.limit:
            self._calls.limit = 0
            self._loop.call_soon_threadsafe(self._begin_to_drain)
        else:
            super().handle_exit(sig, frame)

    def _begin_to_drain(self) -> None:
        logger.info(f"Draining: {len(self._calls)} calls may go on for {self._drain_seconds:g} s")
        self._draining = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        deadline = self._loop.time() + self._drain_seconds
        while self._calls and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        await self._calls.move(CLOSE_SECONDS)
        self.should_exit = True


async def serve(bot: str) -> None:
    """Serve calls until a signal comes.

    Args:
        bot: The path of a bot's file.
    """
    read_secrets(os.environ)  # from the files that MISTRAL_API_KEY_FILE and the like name
    module = load_bot(bot)
    await check_mistral()
    calls = Calls(module.bot, limit=int(os.getenv("CALLS", "8")))

    def ready(request: Request) -> PlainTextResponse:
        text = f"{len(calls)} of {calls.limit} calls" if calls.limit else "draining"
        return PlainTextResponse(text, status_code=200 if len(calls) < calls.limit else 503)

    model = os.getenv("MISTRAL_MODEL", "mistral-small-latest")
    app = create_app(
        calls,
        {
            "engine": f"Mistral, model {model}",
            "model": model,
            "local": False,
            "camera": bool(getattr(module, "CAMERA", False)),
            "text": bool(getattr(module, "TEXT", False)),
        },
        may_call=getattr(module, "may_call", None),
        allowed_origins=os.getenv("ALLOWED_ORIGINS", "").split(),
        twilio_auth_token=os.getenv("TWILIO_AUTH_TOKEN"),
    )
    config = uvicorn.Config(
        Starlette(routes=[Route("/readyz", ready), Mount("/", app)]),
        host=os.getenv("HOST", "127.0.0.1"),
        port=int(os.getenv("PORT", "8000")),
        ws_max_size=WS_MAX_SIZE,
        log_level="warning",
    )
    server = Server(config, calls, float(os.getenv("DRAIN_SECONDS", "600")))
    logger.info(f"{bot} takes {calls.limit} calls at http://{config.host}:{config.port}")
    await server.serve()


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("Name the file of the bot: serve.py FILE.")
    try:
        asyncio.run(serve(sys.argv[1]))
    except ValueError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
