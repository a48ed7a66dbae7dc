"""What the bot is shown: frames on their way to the context, and what is told of pictures."""

import asyncio
import copy
from typing import Any, cast

from pipecat.frames.frames import Frame, LLMMessagesAppendFrame, UserImageRawFrame
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.utils.errors import ErrorCategory

from mistral_service.conversation.adapter import MistralLLMAdapter
from mistral_service.conversation.parts import UNREADABLE_PICTURE, PictureError
from mistral_service.conversation.run import Run
from mistral_service.settings import MistralLLMSettings


class Sight(OpenAILLMService):
    """Makes frames ready before Pipecat puts them into the context.

    A frame that is meant for the context passes the service before it reaches the aggregator
    behind it. There it becomes a JPEG as Mistral sees it, which the aggregator takes as it is:
    else Pipecat would encode it in full size, and refuse what Pillow has no name for.
    """

    _settings: MistralLLMSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, **kwargs: Any) -> None:
        self._in_turn = asyncio.Lock()
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
        # In a task: what else is on its way, an interruption above all, does not wait for it.
        making = self._make_ready(frame, direction)
        task = cast("asyncio.Task[None]", self.create_task(making))  # pyright: ignore[reportUnknownMemberType]
        self._frames_on_their_way.add(task)
        task.add_done_callback(self._frames_on_their_way.discard)

    async def cleanup(self) -> None:
        """Let go of frames that are still on their way."""
        for task in list(self._frames_on_their_way):
            await self.cancel_task(task)  # pyright: ignore[reportUnknownMemberType]
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

    async def _make_ready(self, frame: UserImageRawFrame, direction: FrameDirection) -> None:
        async with self._in_turn:
            adapter: Any = self.get_llm_adapter()
            if isinstance(adapter, MistralLLMAdapter):
                made = await adapter.pictures.frame(
                    frame.image, frame.size, frame.format, self._settings.form()
                )
                if isinstance(made, PictureError):
                    await self._go_on_without(frame, made, direction)
                    return
                # The frame itself may be on its way to others as well.
                frame = copy.copy(frame)
                frame.image, frame.format, frame.size = made.data, made.mime_type, made.size
            await super().process_frame(frame, direction)

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
