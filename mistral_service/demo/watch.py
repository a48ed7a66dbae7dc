"""Watches one call for the page: turns, faults, functions and images, as frames show them."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    MetricsFrame,
    UserImageRawFrame,
)
from pipecat.metrics.metrics import LLMUsageMetricsData, MetricsData, TTFBMetricsData
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import LLMService
from pipecat.utils.errors import ErrorCategory

from mistral_service import MistralLLMService, MistralTurnMetrics
from mistral_service.demo.looks import look_message, sent_image, sizes
from mistral_service.demo.report import COUNTS, MOST_TURNS, TurnTrace
from mistral_service.demo.secrets import without_secrets
from mistral_service.demo.story import Story

Send = Callable[[dict[str, Any]], Awaitable[None]]
Service = LLMService[Any]

OURS = "mistral_service"
THEIRS = "Pipecat's own"


def name_of(service: Service) -> str:
    """What the page calls a service."""
    return OURS if isinstance(service, MistralLLMService) else THEIRS


class CallWatch(BaseObserver):
    """Tells the page of a call.

    Attributes:
        turns: The last turns.
        stories: The faults of the call and what became of them.
        refusal: The sentence with which settings were refused last.
        awaits_settings: Whether settings are to be taken over, or refused.
        said: What the service has pushed of the reply under way.
    """

    def __init__(self, send: Send, on_story_over: Callable[[], None]) -> None:
        """Watch a call; `send` sends a message to the page."""
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._send = send
        self.turns: deque[TurnTrace] = deque(maxlen=MOST_TURNS)
        self.stories: list[Story] = []
        self.refusal: str | None = None
        self.awaits_settings = False
        self.said = ""
        self._on_story_over = on_story_over
        self._turn: TurnTrace | None = None
        self._hedged = False
        self._running = False
        self._look: dict[str, int] | None = None
        self._last_message: dict[str, Any] = {}

    @property
    def story(self) -> Story | None:
        """The latest fault."""
        return self.stories[-1] if self.stories else None

    async def send_story(self) -> None:
        """Send the latest fault to the page, if anything of it is new."""
        if self.story is None:
            return
        message = self.story.message(_now())
        if {**message, "age": 0} != {**self._last_message, "age": 0}:
            self._last_message = message
            await self._send(message)

    async def on_fault_handled(self, service: Service, error: Any, handled: Any) -> None:
        """Take note of a fault that the service has met: a handler of its event."""
        sentence = without_secrets(str(error))
        now = _now()
        self._note(now, f"{handled.done}, request {handled.attempt} to {handled.model}: {sentence}")
        if self.story:
            self.story.handled(now, handled.done, handled.attempt, handled.model, sentence)
            await self.send_story()

    async def on_push_frame(self, data: FramePushed) -> None:
        """Watch a frame on its way."""
        if not data.first_push:
            return
        frame, source = data.frame, cast(Any, data.source)
        now = _pushed(data)
        if isinstance(source, LLMService):
            await self._from_service(cast(Service, source), frame, data.direction, now)
        elif isinstance(frame, UserImageRawFrame) and frame.append_to_context:
            self._look = sizes(frame.size, len(frame.image))
        elif isinstance(frame, LLMContextFrame):
            await self._show_look(frame)
        elif isinstance(frame, InterruptionFrame):
            self._note(now, "interrupted")
            if self.story and self._running:
                self.story.interrupted(now)
                await self._story_went_on()

    async def _from_service(
        self, service: Service, frame: Frame, direction: FrameDirection, now: float
    ) -> None:
        match frame:
            case LLMFullResponseStartFrame():
                self._turn = TurnTrace(now, name_of(service))
                self._hedged, self._running, self.said = False, True, ""
                self.turns.append(self._turn)
                if self.story and self.story.kind == "cut" and not self.story.done:
                    self.story.before = ""
            case LLMTextFrame():
                if self._turn and not self._turn.figures.get("words"):
                    self._note(now, "first words")
                self.said += frame.text
                if self._turn:
                    self._turn.count("words", len(frame.text.split()))
                if self.story:
                    self.story.spoke(now, frame.text)
                    await self.send_story()
            case MetricsFrame():
                for each in frame.data:
                    self._count(each)
            case ErrorFrame():
                sentence = without_secrets(frame.error)
                if frame.category is ErrorCategory.APPLICATION and self.awaits_settings:
                    self.refusal = sentence  # of the settings, and of no turn
                    return
                self._note(now, f"error: {sentence}")
                if self.story:
                    self.story.failed(now, sentence)
                    await self._story_went_on()
            case FunctionCallsStartedFrame() if direction is FrameDirection.DOWNSTREAM:
                for call in frame.function_calls:
                    if self.story:
                        self.story.called_function(now, call.function_name)
            case FunctionCallInProgressFrame() if direction is FrameDirection.DOWNSTREAM:
                await self._function(now, frame.function_name, frame.arguments, None)
            case FunctionCallResultFrame() if direction is FrameDirection.DOWNSTREAM:
                await self._function(now, frame.function_name, frame.arguments, frame.result)
            case LLMFullResponseEndFrame():
                self._note(now, "end")
                self._running, self.said = False, ""
                await self._end(now)
            case _:
                pass

    async def _function(self, now: float, name: str, arguments: Any, result: Any) -> None:
        self._note(now, f"{name} {'runs' if result is None else 'has returned'}")
        message = {"type": "function", "name": name, "arguments": arguments}
        await self._send(message if result is None else {**message, "result": result})
        await self.send_story()

    def _count(self, data: MetricsData) -> None:
        turn = self._turn
        if turn is None:
            return
        match data:
            case MistralTurnMetrics():
                for name in COUNTS:
                    turn.count(name, getattr(data, name))
                turn.count("cost", data.cost)
                turn.figures["model"] = data.model
                self._hedged = self._hedged or data.hedges_won > 0
            case LLMUsageMetricsData():
                turn.count("prompt_tokens", data.value.prompt_tokens)
                turn.count("completion_tokens", data.value.completion_tokens)
            case TTFBMetricsData():
                turn.figures["first_token"] = round(data.value, 3)
            case _:
                pass

    async def _end(self, now: float) -> None:
        turn = self._turn
        if turn is None:
            return
        turn.figures["seconds"] = round(now - turn.began, 3)
        figures = {"type": "turn", "service": turn.service, **turn.figures}
        if self.story:
            self.story.ended(now, self._hedged)
            await self._story_went_on()
        await self._send(figures)

    async def _story_went_on(self) -> None:
        await self.send_story()
        if self.story and self.story.is_over:
            self._on_story_over()

    async def _show_look(self, frame: LLMContextFrame) -> None:
        """Show the page the image that is sent, once it is in the context."""
        if self._look is None or (url := sent_image(frame.context.get_messages())) is None:
            return
        look, self._look = self._look, None
        await self._send(await asyncio.to_thread(look_message, look, url))

    def _note(self, now: float, text: str) -> None:
        if self._turn is not None:
            self._turn.note(now, text)


def _pushed(data: FramePushed) -> float:
    """When a frame was pushed: it is watched later, where the machine is busy."""
    if not data.timestamp:
        return _now()
    return _now() - (data.source.get_clock().get_time() - data.timestamp) / 1e9


def _now() -> float:
    return time.monotonic()  # the endpoint's clock too, which is another process
