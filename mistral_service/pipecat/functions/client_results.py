"""Results that a client sends: they count for functions that the client runs, and for no others.

RTVI lets any client send `llm-function-call-result`, and Pipecat writes it into the conversation. A
page could so answer for a function that runs on the server. A client runs those that the bot asks
it to run with RTVI's `llm-function-call` (Pipecat's `RTVIProcessor.handle_function_call`), and
those whose handler is marked with `answered_by_client`.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from loguru import logger
from pipecat.frames.frames import FunctionCallResultFrame, OutputTransportMessageUrgentFrame
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIProcessor
from pipecat.services.llm_service import FunctionCallRunnerItem

from mistral_service.pipecat.functions.idempotency import F, is_marked, marked
from mistral_service.pipecat.state import all_processors
from mistral_service.wire.trees import object_of

_MARK = "answered_by_client"


def answered_by_client(handler: F) -> F:
    """Mark a handler whose function the client runs: the client's result counts.

    Such a handler returns without a result. Needed where the client learns of the call by RTVI's
    `llm-function-call-in-progress`, or by a message of the bot's own.

    Args:
        handler: The handler, or a direct function.

    Returns:
        The same.
    """
    return marked(handler, _MARK)


class ClientResults:
    """Takes the results that clients send out of their way, and hands on those that count."""

    def __init__(
        self,
        running: Callable[[str], FunctionCallRunnerItem | None],
        take: Callable[[FunctionCallRunnerItem, Any], Awaitable[None]],
    ) -> None:
        """Prepare; `running` finds the call of an id, `take` takes a result that counts."""
        self._running = running
        self._take = take
        self._watched: set[int] = set()
        self._passing: set[int] = set()
        self._asked: set[str] = set()

    def watch(self, pipeline: FrameProcessor) -> None:
        """Look at what the RTVI processors of a pipeline push, from now on."""
        for processor in all_processors(pipeline):
            if isinstance(processor, RTVIProcessor) and id(processor) not in self._watched:
                self._watched.add(id(processor))
                rtvi: Any = processor
                rtvi.add_event_handler("on_before_process_frame", self._passes)
                rtvi.add_event_handler("on_before_push_frame", self._pushes)

    async def _passes(self, _: Any, frame: Any) -> None:
        if isinstance(frame, FunctionCallResultFrame):
            self._passing.add(frame.id)  # a service's own, on its way through

    async def _pushes(self, _: Any, frame: Any) -> None:
        if isinstance(frame, OutputTransportMessageUrgentFrame):
            sent = object_of(frame.message)
            if sent.get("type") == "llm-function-call":
                self._asked.add(str(sent["data"]["tool_call_id"]))
        elif isinstance(frame, FunctionCallResultFrame):
            if frame.id in self._passing:
                self._passing.discard(frame.id)
            elif call := self._running(frame.tool_call_id):
                # Of an unknown call nothing is written down.
                frame.tool_call_id = ""
                await self._judge(call, frame.result)

    async def _judge(self, call: FunctionCallRunnerItem, result: Any) -> None:
        asked = call.tool_call_id in self._asked
        if not asked and not is_marked(call.registry_item.handler, _MARK):
            logger.warning(
                f"A client sent a result for {call.function_name}, which runs on the server: it is "
                "dropped. Mark the handler with answered_by_client if the client runs the function."
            )
        elif not call.settled:
            self._asked.discard(call.tool_call_id)
            call.settled = True
            await self._take(call, result)
