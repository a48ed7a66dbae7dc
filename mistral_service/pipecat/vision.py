"""Images on their way to the context."""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any

from pipecat.frames.frames import Frame, LLMMessagesAppendFrame, UserImageRawFrame
from pipecat.processors.frame_processor import FrameDirection

from mistral_service.conversation.encoding import Encoded
from mistral_service.conversation.parts import UNREADABLE_IMAGE, ImageError
from mistral_service.pipecat.adapter import MistralLLMAdapter
from mistral_service.pipecat.errors import ErrorReporter
from mistral_service.pipecat.state import ServiceState

# Of one call, and not yet made ready: what comes beyond is left out.
_MOST_WAITING = 32
_MOST_WAITING_BYTES = 128_000_000


class VisionInput:
    """Makes frames ready before Pipecat puts them into the context.

    A frame that is meant for the context passes the service before it reaches the aggregator
    behind it. There it becomes a JPEG as Mistral sees it, which the aggregator takes as it is:
    else Pipecat would encode it in full size, and refuse what Pillow has no name for.

    Attributes:
        on_their_way: The tasks of frames that are made ready.
    """

    def __init__(
        self,
        state: ServiceState,
        pass_on: Callable[[Frame, FrameDirection], Awaitable[None]],
        errors: ErrorReporter,
    ) -> None:
        """Prepare for one service; `pass_on` processes a frame as Pipecat does."""
        self._state = state
        self._service = state.service
        self._pass_on = pass_on
        self._errors = errors
        self._one_at_a_time = asyncio.Lock()
        self._waiting_bytes = 0
        self._too_many_waiting = ImageError(
            f"this call has more images waiting than {_MOST_WAITING}, or more than "
            f"{_MOST_WAITING_BYTES:,} bytes of them"
        )
        self._too_many_kept: ImageError | None = None
        self.on_their_way: set[asyncio.Task[None]] = set()

    def take(self, frame: UserImageRawFrame, direction: FrameDirection) -> None:
        """Make an image ready in a task, then pass it on: an interruption does not wait for it."""
        size = len(frame.image)
        fault = None
        if (
            len(self.on_their_way) >= _MOST_WAITING
            or self._waiting_bytes + size > _MOST_WAITING_BYTES
        ):
            # It keeps its place in the conversation, but not its bytes.
            frame, size, fault = copy.copy(frame), 0, self._too_many_waiting
            frame.image = b""
        self._waiting_bytes += size
        task = self._state.create_task(self._make_ready(frame, direction, fault), "make_ready")
        self.on_their_way.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self.on_their_way.discard(task)
            self._waiting_bytes -= size

        task.add_done_callback(done)

    async def close(self) -> None:
        """Let go of frames that are still on their way."""
        for task in list(self.on_their_way):
            await self._state.cancel_task(task)
        adapter: Any = self._service.get_llm_adapter()
        if isinstance(adapter, MistralLLMAdapter):
            adapter.images.close()

    async def _make_ready(
        self, frame: UserImageRawFrame, direction: FrameDirection, fault: ImageError | None
    ) -> None:
        async with self._one_at_a_time:
            adapter: Any = self._service.get_llm_adapter()
            if fault is not None:
                await self._go_on_without(frame, fault, direction)
                return
            if isinstance(adapter, MistralLLMAdapter):
                made = await adapter.images.encode_frame(
                    frame.image, frame.size, frame.format, self._state.settings.form()
                )
                if isinstance(made, Encoded):
                    made = self._with_room_for(made, adapter)
                if isinstance(made, ImageError):
                    await self._go_on_without(frame, made, direction)
                    return
                # The frame itself may be on its way to others as well.
                frame = copy.copy(frame)
                frame.image, frame.format, frame.size = made.data, made.mime_type, made.size
            await self._pass_on(frame, direction)

    def _with_room_for(self, made: Encoded, adapter: MistralLLMAdapter) -> Encoded | ImageError:
        """The image, if the context has room for it."""
        size, most = len(made.data) * 4 // 3, self._state.settings.context_images_bytes()
        if adapter.images.bytes_in_context + size <= most:
            adapter.images.bytes_in_context += size  # counted anew with the next request
            self._too_many_kept = None
            return made
        self._too_many_kept = self._too_many_kept or ImageError(
            f"the images in the context of this call have {most:,} bytes, which is "
            "max_context_images_bytes: take earlier ones out"
        )
        return self._too_many_kept

    async def _go_on_without(
        self, frame: UserImageRawFrame, fault: ImageError, direction: FrameDirection
    ) -> None:
        """Let the conversation know of an image that there is not."""
        await self._errors.report_image(fault)
        if frame.request and frame.request.result_callback:
            # As Pipecat's transports do where there is no frame: the call would never end.
            await frame.request.result_callback({"error": f"The image cannot be read: {fault}"})
            return
        words = f"{frame.text}\n{UNREADABLE_IMAGE}" if frame.text else UNREADABLE_IMAGE
        message: Any = {"role": "user", "content": words}
        append = LLMMessagesAppendFrame([message], run_llm=frame.run_llm is not False)
        await self._service.push_frame(append, direction)
