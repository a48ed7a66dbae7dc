"""A phone call without a phone: a real pipeline with both context aggregators around a service."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMMessagesAppendFrame,
    LLMTextFrame,
    MetricsFrame,
    StartFrame,
)
from pipecat.metrics.metrics import MetricsData
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.llm_service import LLMService
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
from pipecat.workers.runner import WorkerRunner

F = TypeVar("F", bound=Frame)
M = TypeVar("M", bound=MetricsData)


class _Ear(FrameProcessor):
    """Notes every frame that passes in one direction, and lets it pass."""

    def __init__(self, direction: FrameDirection, frames: list[Frame]) -> None:
        super().__init__()
        self._direction = direction
        self._frames = frames

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if direction is self._direction and not isinstance(frame, StartFrame):
            self._frames.append(frame)
        await self.push_frame(frame, direction)


class Call:
    """A call that goes on for the time of an `async with` block.

    Attributes:
        context: What has been said, as Pipecat keeps it.
        frames: What has come out of the service, downstream, in order.
        told: What has come out of it upstream: errors among them.
        past: What has gone past the aggregator, too, and so is settled in the context.
    """

    def __init__(self, service: LLMService, *messages: dict[str, Any], **options: Any) -> None:
        self.service = service
        self.context = LLMContext(messages=list(messages), tools=options.pop("tools", []) or [])
        voice: Sequence[FrameProcessor] = options.pop("voice", ())
        before: Sequence[FrameProcessor] = options.pop("before", ())
        self.frames: list[Frame] = []
        self.told: list[Frame] = []
        self.past: list[Frame] = []
        # Nobody speaks aloud, so nobody needs a model that hears when they have finished.
        strategies = options.pop("user_turn_strategies", None) or ExternalUserTurnStrategies()
        writes = LLMUserAggregatorParams(user_turn_strategies=strategies)
        self.aggregators = aggregators = LLMContextAggregatorPair(self.context, user_params=writes)
        self.worker = PipelineWorker(
            Pipeline(
                [
                    aggregators.user(),
                    _Ear(FrameDirection.UPSTREAM, self.told),
                    *before,
                    service,
                    _Ear(FrameDirection.DOWNSTREAM, self.frames),
                    *voice,
                    aggregators.assistant(),
                    _Ear(FrameDirection.DOWNSTREAM, self.past),
                ]
            ),
            params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
            cancel_on_idle_timeout=False,
            enable_rtvi=False,
            **options,
        )
        self._runner = WorkerRunner(handle_sigint=False)
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Call":
        started = asyncio.Event()

        @self.worker.event_handler("on_pipeline_started")
        async def on_pipeline_started(_worker: Any, _frame: Any) -> None:
            started.set()

        await self._runner.add_workers(self.worker)
        self._running = asyncio.create_task(self._runner.run())
        await asyncio.wait_for(started.wait(), 10)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.worker.queue_frame(EndFrame())
        assert self._running is not None
        await asyncio.wait_for(self._running, 10)

    async def say(self, text: str, *, turns: int = 1) -> str:
        """Say something and hear the answer.

        Args:
            text: The caller's words.
            turns: How many replies of the service to wait for.

        Returns:
            The words of those replies.
        """
        heard = len(self.frames)
        ends = self.count(LLMFullResponseEndFrame) + turns
        await self.begin(text)
        await self.until(lambda: self.count(LLMFullResponseEndFrame) >= ends)
        return "".join(f.text for f in self.frames[heard:] if isinstance(f, LLMTextFrame))

    async def begin(self, text: str) -> None:
        """Say something and do not wait."""
        message = {"role": "user", "content": text}
        await self.worker.queue_frame(LLMMessagesAppendFrame([message], run_llm=True))

    async def interrupt(self) -> None:
        """Speak while the bot speaks; returns when the turn is over, its end counted."""
        before = self._interruptions()
        await self.worker.queue_frame(InterruptionFrame())
        await self.until(lambda: self._interruptions() > before)

    def _interruptions(self) -> int:
        return sum(isinstance(frame, InterruptionFrame) for frame in self.past)

    async def until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        """Wait for something to become true."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, (
                f"waited in vain; heard {self.frames[-12:]}, told {self.told[-5:]}"
            )
            await asyncio.sleep(0.005)

    @property
    def at_rest(self) -> bool:
        """Whether every reply that has begun has ended, and no function runs."""
        begun = self.count(LLMFullResponseStartFrame)
        runs = self.aggregators.assistant().has_function_calls_in_progress
        return begun == self.count(LLMFullResponseEndFrame) and not runs

    def count(self, kind: type[Frame]) -> int:
        """How many frames of a kind have come out downstream."""
        return len(self.of(kind))

    def of(self, kind: type[F]) -> list[F]:
        """The frames of a kind that have come out downstream."""
        return [frame for frame in self.frames if isinstance(frame, kind)]

    @property
    def words(self) -> str:
        """Everything that the service has said."""
        return "".join(frame.text for frame in self.of(LLMTextFrame))

    @property
    def errors(self) -> list[ErrorFrame]:
        """The errors that have been told."""
        return [frame for frame in self.told if isinstance(frame, ErrorFrame)]

    def metrics(self, kind: type[M]) -> list[M]:
        """The metrics of a kind that the service has reported."""
        return [
            data
            for frame in self.of(MetricsFrame)
            for data in frame.data
            if isinstance(data, kind) and data.processor == self.service.name
        ]


def established(base_url: str) -> int:
    """Sockets of this process that are connected to an endpoint."""
    port = urlsplit(base_url).port
    return sum(
        1
        for c in psutil.Process().net_connections("tcp")
        if c.raddr and c.raddr.port == port and c.status == psutil.CONN_ESTABLISHED
    )
