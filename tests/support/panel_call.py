"""A call with the demo's panel and without a page: RTVI messages in, RTVI messages out."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputTransportMessageFrame,
    LLMTextFrame,
    OutputTransportMessageUrgentFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.mistral.llm import MistralLLMService as PipecatsOwn
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
from pipecat.workers.runner import WorkerRunner

from mistral_service import MistralLLMService
from mistral_service.demo import panel
from mistral_service.demo.endpoint import FaultyEndpoint
from mistral_service.demo.small_model import SmallModel
from mistral_service.local.pieces import Engine
from mistral_service.local.server import bind
from mistral_service.turn.prices import PRICES

KEY = "local-s3cr3t-0f-the-demo"
MODEL = "mistral-small-latest"
FALLBACK = "ministral-8b-latest"


class _Page(FrameProcessor):
    """Takes down what would reach the page."""

    def __init__(self, messages: list[dict[str, Any]], words: list[str]) -> None:
        super().__init__()
        self._messages = messages
        self._words = words

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, OutputTransportMessageUrgentFrame):
            self._messages.append(frame.message)
        elif isinstance(frame, LLMTextFrame):
            self._words.append(frame.text)
        await self.push_frame(frame, direction)


class PanelCall:
    """One call.

    Attributes:
        messages: The RTVI messages that the page would get.
    """

    def __init__(self, worker: PipelineWorker, messages: list[Any], words: list[str]) -> None:
        self.worker = worker
        self.messages = messages
        self._words = words
        self._ids = (str(number) for number in itertools.count(1))

    @property
    def words(self) -> str:
        return "".join(self._words)

    async def send(self, kind: str, data: Any) -> str:
        """Send an RTVI message, as the page does."""
        name = next(self._ids)
        message = {"label": "rtvi-ai", "type": kind, "id": name, "data": data}
        await self.worker.queue_frame(InputTransportMessageFrame(message=message))
        return name

    async def ask(self, what: str, **data: Any) -> dict[str, Any]:
        """Ask the panel; what it answers, or `{"error": …}`."""
        name = await self.send("client-message", {"t": what, "d": data})
        answer = await self.until(
            lambda: next((m for m in self.messages if m.get("id") == name), None)
        )
        return answer["data"].get("d", answer["data"])

    async def say(self, text: str) -> None:
        """Write to the bot."""
        await self.send("send-text", {"content": text})

    def sent(self, kind: str) -> list[dict[str, Any]]:
        """The panel's messages of a type."""
        data = [m["data"] for m in self.messages if m["type"] == "server-message"]
        return [each for each in data if each.get("type") == kind]

    async def story(self, *states: str) -> dict[str, Any]:
        """The latest fault, once it is in one of these states."""
        found = await self.until(
            lambda: (s := self.sent("fault")) and s[-1]["state"] in states and s[-1]
        )
        return found

    async def until(self, condition: Callable[[], Any], seconds: float = 20.0) -> Any:
        deadline = asyncio.get_running_loop().time() + seconds
        while not (found := condition()):
            assert asyncio.get_running_loop().time() < deadline, self.messages[-8:]
            await asyncio.sleep(0.01)
        return found


@asynccontextmanager
async def serving(engine: Engine, down_s: float = 2.5) -> AsyncIterator[tuple[FaultyEndpoint, str]]:
    """The endpoint of the demo over an engine, and its address."""
    endpoint = FaultyEndpoint(SmallModel(engine, calls=True), KEY, down_s=down_s)
    listener = bind("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    running = asyncio.create_task(endpoint.serve(listener))
    try:
        yield endpoint, address
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def panel_call(
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    tools: list[Any] | None = None,
    faults: bool = True,
    **settings: Any,
) -> AsyncIterator[PanelCall]:
    """Hold a call on both services, for the time of an `async with` block."""
    monkeypatch.setenv("PIPECAT_SETUP_FILES", str(Path(panel.__file__)))
    monkeypatch.setenv("MISTRAL_API_KEY", KEY)
    monkeypatch.setenv("MISTRAL_DEMO_ENGINE", "a script")
    if faults:
        monkeypatch.setenv("MISTRAL_DEMO_FAULTS", f"{address}/faults")
    else:
        monkeypatch.delenv("MISTRAL_DEMO_FAULTS", raising=False)
    common = {"model": MODEL, "system_instruction": "Be brief.", "temperature": 0.3}
    ours = MistralLLMService(
        base_url=f"{address}/v1",
        settings=MistralLLMService.Settings(
            **common, **{"fallback_models": [FALLBACK], "max_attempts": 8, **settings}
        ),
        prices=PRICES,
    )
    theirs = PipecatsOwn(
        api_key=KEY, base_url=f"{address}/v1", settings=PipecatsOwn.Settings(**common)
    )
    context = LLMContext(tools=tools or [])
    writes = LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies())
    aggregators = LLMContextAggregatorPair(context, user_params=writes)
    messages: list[Any] = []
    words: list[str] = []
    page = _Page(messages, words)
    worker = PipelineWorker(
        Pipeline([aggregators.user(), LLMSwitcher([ours, theirs]), page, aggregators.assistant()]),
        params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
        cancel_on_idle_timeout=False,
    )
    runner = WorkerRunner(handle_sigint=False)
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def on_pipeline_started(*_: Any) -> None:
        started.set()

    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await asyncio.wait_for(started.wait(), 20)
    call = PanelCall(worker, messages, words)
    about = {"library": "a test"}
    await call.send("client-ready", {"version": "2.2.0", "about": about})
    await call.until(lambda: any(m["type"] == "bot-ready" for m in messages))
    # The requests of the call have its name from here on.
    if faults:
        await call.until(lambda: ours.settings.metadata and theirs.settings.extra.get("metadata"))
    try:
        yield call
    finally:
        await worker.queue_frame(EndFrame())
        await asyncio.wait_for(running, 20)
