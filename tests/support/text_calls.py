"""A written bot behind the real door, and callers of its protocol who say what they like."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import websockets
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.protobufs import frames_pb2
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.runner.types import WebSocketRunnerArguments
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.services.llm_service import FunctionCallParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
from pipecat.workers.runner import WorkerRunner
from websockets.asyncio.client import ClientConnection

from mistral_service import MistralLLMService

PROTOCOL = "mistral-call.v1"
LOOK = FunctionSchema(name="look", description="Looks it up.", properties={}, required=[])


class WrittenBot:
    """Answers what is written to it, and looks things up until `found` is set.

    Attributes:
        contexts: One for each call, in their order.
    """

    def __init__(self, mistral: Any) -> None:
        self.contexts: list[LLMContext] = []
        self.looks, self.found = asyncio.Event(), asyncio.Event()
        self._mistral = mistral

    async def look(self, params: FunctionCallParams) -> None:
        """Look something up."""
        self.looks.set()
        await self.found.wait()
        await params.result_callback("not approved")

    async def __call__(self, arguments: WebSocketRunnerArguments) -> None:
        params = FastAPIWebsocketParams(serializer=ProtobufFrameSerializer())
        transport = FastAPIWebsocketTransport(arguments.websocket, params)
        settings = MistralLLMService.Settings(hedging=False, stall_timeout=60.0)
        service = MistralLLMService(
            api_key="k", base_url=self._mistral.base_url, settings=settings, warm_up=False
        )
        system = {"role": "system", "content": "You are a clerk."}
        context = LLMContext([system], tools=[LOOK])
        service.register_function("look", self.look)
        self.contexts.append(context)
        writes = LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies())
        pair = LLMContextAggregatorPair(context, user_params=writes)
        line = [transport.input(), pair.user(), service, transport.output(), pair.assistant()]
        worker = PipelineWorker(Pipeline(line), cancel_on_idle_timeout=False)
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)

        @transport.event_handler("on_client_disconnected")
        async def on_client_disconnected(_transport: Any, _client: Any) -> None:
            await runner.cancel()

        await runner.run()


class Line:
    """A caller's line; `words` is what the bot wrote, `sent` what was signed of it."""

    def __init__(self, socket: ClientConnection, answer: dict[str, Any]) -> None:
        self.socket = socket
        self.answer = answer
        self.words = ""
        self.sent: dict[str, Any] | None = None
        self.kinds: list[str] = []

    async def tell(self, kind: str, **data: Any) -> None:
        message = {"label": "rtvi-ai", "type": kind, "id": "1", "data": data}
        frame = frames_pb2.Frame(message=frames_pb2.MessageFrame(data=json.dumps(message)))
        await self.socket.send(frame.SerializeToString())

    async def hear(self, until: str) -> None:
        """Hear what comes until the bot has written something."""
        while until not in self.words:
            data = await self.socket.recv()
            if isinstance(data, str):
                told = json.loads(data)
                same = self.sent is not None and self.sent["turn"] == told["turn"]
                before = self.sent["words"] if same and self.sent else ""
                self.sent = {
                    "turn": told["turn"],
                    "words": before + told["sent"],
                    "proof": told["proof"],
                }
                continue
            message = json.loads(frames_pb2.Frame.FromString(data).message.data or "{}")
            self.kinds.append(message.get("type", ""))
            if message.get("type") == "bot-llm-text":
                self.words += message["data"]["text"]


@contextlib.asynccontextmanager
async def calling(host: str, **hello: Any) -> AsyncIterator[Line]:
    """A line whose first message is `hello`."""
    protocols = [websockets.Subprotocol(PROTOCOL)]
    async with websockets.connect(f"ws://{host}/call", subprotocols=protocols) as socket:
        await socket.send(json.dumps({"type": "call", "id": None, **hello}))
        line = Line(socket, json.loads(await socket.recv()))
        if "error" not in line.answer:
            await line.tell("client-ready", version="2.2.0", about={"library": "tests"})
        yield line
