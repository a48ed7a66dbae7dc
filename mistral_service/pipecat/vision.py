"""What the bot is shown: frames on their way to the context, and what is told of pictures."""

import asyncio
import copy
from typing import Any, cast

from pipecat.frames.frames import Frame, LLMMessagesAppendFrame, UserImageRawFrame
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.utils.errors import ErrorCategory

from mistral_service.conversation.encoding import Encoded
from mistral_service.conversation.parts import UNREADABLE_PICTURE, PictureError
from mistral_service.conversation.run import Run
from mistral_service.pipecat.adapter import MistralLLMAdapter
from mistral_service.settings import MistralLLMSettings

# Of one call, and not yet made ready: what comes beyond is left out.
_MOST_WAITING = 32
_MOST_WAITING_BYTES = 128_000_000


class Sight(OpenAILLMService):
    """Makes frames ready before Pipecat puts them into the context.

    A frame that is meant for the context passes the service before it reaches the aggregator
    behind it. There it becomes a JPEG as Mistral sees it, which the aggregator takes as it is:
    else Pipecat would encode it in full size, and refuse what Pillow has no name for.
    """

    _settings: MistralLLMSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, **kwargs: Any) -> None:
        self._in_turn = asyncio.Lock()
        self._waiting_bytes = 0
        self._too_many_waiting = PictureError(
            f"this call has more pictures waiting than {_MOST_WAITING}, or more than "
            f"{_MOST_WAITING_BYTES:,} bytes of them"
        )
        self._too_many_kept: PictureError | None = None
        self._frames_on_their_way: set[asyncio.Task[None]] = set()
        self._blind_models_told: set[str] = set()
        super().__init__(**kwargs)  # pyright: ignore[reportUnknownMemberType]

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Process a frame; a picture for the context is made ready, then passed on.

        Args:
            frame: The frame.
            direction: Where it goes.
        """
        if not (isinstance(frame, UserImageRawFrame) and frame.append_to_context):
            await super().process_frame(frame, direction)
            return
        size = len(frame.image)
        fault = None
        if (
            len(self._frames_on_their_way) >= _MOST_WAITING
            or self._waiting_bytes + size > _MOST_WAITING_BYTES
        ):
            # It keeps its place in the conversation, but not its bytes.
            frame, size, fault = copy.copy(frame), 0, self._too_many_waiting
            frame.image = b""
        self._waiting_bytes += size
        # In a task: what else is on its way, an interruption above all, does not wait for it.
        making = self._make_ready(frame, direction, fault)
        task = cast("asyncio.Task[None]", self.create_task(making))  # pyright: ignore[reportUnknownMemberType]
        self._frames_on_their_way.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._frames_on_their_way.discard(task)
            self._waiting_bytes -= size

        task.add_done_callback(done)

    async def cleanup(self) -> None:
        """Let go of frames that are still on their way."""
        for task in list(self._frames_on_their_way):
            await self.cancel_task(task)  # pyright: ignore[reportUnknownMemberType]
        adapter: Any = self.get_llm_adapter()
        if isinstance(adapter, MistralLLMAdapter):
            adapter.pictures.close()
        await super().cleanup()

    async def tell_of_pictures(self, run: Run, model: str) -> None:
        """Tell of pictures that a request has to do without.

        Args:
            run: What the rules did; of what is broken in it, each picture is told once.
            model: The model that is asked; that it does not see is told once.
        """
        for fault in run.faults:
            await self._tell_of(fault)
        if run.unseen and model not in self._blind_models_told:
            self._blind_models_told.add(model)
            await self.push_error(
                f"{model} does not see pictures, so it is sent the words alone: choose a model "
                "with vision, such as mistral-small-latest.",
                category=ErrorCategory.APPLICATION,
            )

    async def _make_ready(
        self, frame: UserImageRawFrame, direction: FrameDirection, fault: PictureError | None
    ) -> None:
        async with self._in_turn:
            adapter: Any = self.get_llm_adapter()
            if fault is not None:
                await self._go_on_without(frame, fault, direction)
                return
            if isinstance(adapter, MistralLLMAdapter):
                made = await adapter.pictures.frame(
                    frame.image, frame.size, frame.format, self._settings.form()
                )
                if isinstance(made, Encoded):
                    made = self._with_room_for(made, adapter)
                if isinstance(made, PictureError):
                    await self._go_on_without(frame, made, direction)
                    return
                # The frame itself may be on its way to others as well.
                frame = copy.copy(frame)
                frame.image, frame.format, frame.size = made.data, made.mime_type, made.size
            await super().process_frame(frame, direction)

    def _with_room_for(self, made: Encoded, adapter: MistralLLMAdapter) -> Encoded | PictureError:
        """The picture, if the context has room for it."""
        size, most = len(made.data) * 4 // 3, self._settings.context_images_bytes()
        if adapter.pictures.bytes_in_context + size <= most:
            adapter.pictures.bytes_in_context += size  # counted anew with the next request
            self._too_many_kept = None
            return made
        self._too_many_kept = self._too_many_kept or PictureError(
            f"the pictures in the context of this call have {most:,} bytes, which is "
            "max_context_images_bytes: take earlier ones out"
        )
        return self._too_many_kept

    async def _go_on_without(
        self, frame: UserImageRawFrame, fault: PictureError, direction: FrameDirection
    ) -> None:
        """Let the conversation know of a picture that there is not."""
        await self._tell_of(fault)
        if frame.request and frame.request.result_callback:
            # As Pipecat's transports do where there is no frame: the call would never end.
            await frame.request.result_callback({"error": f"The picture cannot be read: {fault}"})
            return
        words = f"{frame.text}\n{UNREADABLE_PICTURE}" if frame.text else UNREADABLE_PICTURE
        message: Any = {"role": "user", "content": words}
        append = LLMMessagesAppendFrame([message], run_llm=frame.run_llm is not False)
        await self.push_frame(append, direction)

    async def _tell_of(self, fault: PictureError) -> None:
        if not fault.told:
            fault.told = True
            await self.push_error(
                f"A picture was left out: {fault}",
                exception=fault,
                category=ErrorCategory.APPLICATION,
            )
