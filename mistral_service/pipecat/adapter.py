"""From Pipecat's context to the messages and tools that Mistral takes."""

import asyncio
import base64
from collections.abc import Callable
from contextvars import ContextVar
from itertools import chain
from typing import Any, TypeVar, cast

from loguru import logger
from openai import NOT_GIVEN as OPENAI_NOT_GIVEN
from pipecat.adapters.llm.base_llm_adapter import LLMContextConversionError
from pipecat.adapters.llm.services.open_ai_adapter import (
    OpenAILLMAdapter,
    OpenAILLMInvocationParams,
)
from pipecat.processors.aggregators.llm_context import (
    LLMContext,
    LLMContextMessage,
    LLMSpecificMessage,
)
from pipecat.utils.types import NotGiven, is_given

from mistral_service.conversation.conversion import Conversion, ImageBudget, Message
from mistral_service.conversation.encoding import Form
from mistral_service.conversation.foreign import in_mistrals_form, is_foreign, readable
from mistral_service.conversation.image_cache import ImageCache
from mistral_service.conversation.images import bytes_of_images, images_to_send
from mistral_service.conversation.parts import ImageError, text_of, without_bytes
from mistral_service.conversation.rules import apply_rules
from mistral_service.conversation.thoughts import OWN, thought_of
from mistral_service.conversation.tools import (
    OfferedTools,
    ToolFault,
    choice_now,
    convert_tools_in_thread,
    tools_to_show,
)
from mistral_service.wire.request import function_names
from mistral_service.wire.trees import list_of, object_of

T = TypeVar("T")

# Messages, parts and calls of a conversation from which on the rules work on it in a thread.
_LARGE = 1_500

# Changes of one request that are logged one by one.
_MOST_LOGGED = 100


class MistralLLMAdapter(OpenAILLMAdapter):
    """Turns a context into a request that every Mistral deployment accepts.

    Messages go through the rules of `mistral_service.conversation.rules`, tools through
    `mistral_service.conversation.tools`. The context itself is never changed.

    Attributes:
        conversion: What the rules did for the last request. Its `changes` say what was changed and
            why; `call_ids` and `names` lead back from what was sent to Mistral to what stands in
            the context.
        images: The images that were made ready.
    """

    def __init__(self) -> None:
        super().__init__()
        self.images = ImageCache()
        self.conversion = Conversion()
        self._tool_faults: set[ToolFault] = set()
        # A summary may be asked for while a turn runs: each task has its own last request.
        self._conversion_of_task: ContextVar[Conversion] = ContextVar("conversion_of_task")

    @property
    def id_for_llm_specific_messages(self) -> str:
        """The mark of messages in the context that are Mistral's own: `mistral`."""
        return OWN

    @property
    def conversion_of_this_task(self) -> Conversion:
        """What the rules did for the last request that this task has made."""
        return self._conversion_of_task.get(self.conversion)

    async def get_llm_invocation_params(
        self,
        context: LLMContext,
        *,
        system_instruction: str | None = None,
        convert_developer_to_user: bool = False,
        tool_choice: Any = None,
        takes_thoughts: bool = False,
        sees: bool | None = None,
        form: Form | None = None,
        budget: ImageBudget | None = None,
        parts: frozenset[str] | None = None,
    ) -> OpenAILLMInvocationParams:
        """Make the parameters of a request from a context.

        Args:
            context: The conversation, with its tools; left as it is.
            system_instruction: The service's instruction; it stands before all others.
            convert_developer_to_user: Taken for compatibility with Pipecat's services, and
                without effect: what becomes of a `developer` message depends on where it stands,
                which the rules decide.
            tool_choice: Which functions may be called, where the context does not say.
            takes_thoughts: Whether the model takes the thoughts of earlier turns that the context
                has kept; they are left out where it does not.
            sees: Whether the model sees images; None, where that is not known, counts as yes.
            form: How images are sent; by default as Mistral's newer models see them.
            budget: How many images are sent; by default as many as Mistral takes.
            parts: The kinds of parts that the server knows; by default all of Mistral's.

        Returns:
            `messages`, `tools` and `tool_choice` for the request's body.

        Raises:
            LLMContextConversionError: If a file in the context cannot be sent.
            ToolsNotPassable: If there are more tools than Mistral takes.
        """
        await self.prepare_file_content(context)
        offered = await self._offered(context.tools)
        choice = context.tool_choice if is_given(context.tool_choice) else tool_choice

        form = form or Form()
        conversion = Conversion(
            has_tools=bool(offered.tools) and choice != "none",
            takes_thoughts=takes_thoughts,
            sees=sees,
            budget=budget,
            parts=parts,
        )
        conversion.names, conversion.tool_faults = offered.names, offered.faults
        # Also where none may be called: a model that calls all the same writes no words.
        conversion.offered = function_names(offered.tools)
        conversion.oversized = self.images.oversized
        messages = self._messages(context, system_instruction, conversion)
        run_work = asyncio.to_thread if _is_large(messages) else _here
        messages, urls = await run_work(self._look_at, messages, conversion)
        choice = choice_now(choice, messages)
        if urls:
            conversion.images = await self.images.prepare(urls, conversion.budget.images, form)
        messages = await run_work(apply_rules, messages, conversion)
        if messages[-1].get("prefix"):
            conversion.prefix = text_of(messages[-1]["content"])
        self.conversion = conversion
        self._conversion_of_task.set(conversion)
        for change in conversion.changes[:_MOST_LOGGED]:
            logger.opt(lazy=True).debug("{}", lambda change=change: f"Message rules: {change}")
        if more := len(conversion.changes[_MOST_LOGGED:]):
            logger.debug(f"Message rules: {more} more changes")
        return cast(
            OpenAILLMInvocationParams,
            {
                "messages": messages,
                "tools": offered.tools or OPENAI_NOT_GIVEN,
                "tool_choice": OPENAI_NOT_GIVEN if choice is None else offered.choice(choice),
            },
        )

    def from_standard_tools(self, tools: Any) -> list[Any] | NotGiven | None:
        """Convert tools to the form in which they are sent; spans show it.

        What is no list, such as no tools, is returned as it is.
        """
        given = super().from_standard_tools(tools)
        return tools_to_show(given) if isinstance(given, list) else given

    @staticmethod
    async def create_image_message(
        *,
        format: str,
        size: tuple[int, int],
        image: bytes,
        text: str | None = None,
        role: str = "user",
    ) -> LLMContextMessage:
        """Make a message with an image, as `LLMContext.create_image_message` does.

        Pipecat's own knows the pixel formats that Pillow has names for, encodes them in full size,
        and takes encoded files on trust; this one knows what `image_of` in
        `mistral_service.conversation.pixels` knows, and encodes as Mistral sees it.

        Args:
            format: The pixel format, or the MIME type of an encoded image.
            size: Width and height of raw pixels.
            image: The pixels, or the encoded image.
            text: Words that go with the image.
            role: Whose message it is.

        Returns:
            The message, for any context.

        Raises:
            ImageError: If the image cannot be read.
        """
        made = await ImageCache().encode_frame(image, size, format, Form())
        if isinstance(made, ImageError):
            raise made
        url = f"data:{made.mime_type};base64,{base64.b64encode(made.data).decode()}"
        return LLMContext.create_image_url_message(role=role, url=url, text=text)

    def get_messages_for_logging(self, context: LLMContext) -> list[dict[str, Any]]:
        """Get the messages for a log or a span, without the bytes of images and files.

        All of them are mappings that JSON can hold: Pipecat's tracing gives up a span whose
        messages are not.
        """
        given = context.get_messages()
        if any(is_foreign(m) for m in given if not isinstance(m, LLMSpecificMessage)):
            # Pipecat knows neither where these have their bytes, nor parts that are objects.
            formed = [
                [m] if isinstance(m, LLMSpecificMessage) else in_mistrals_form([m], Conversion())
                for m in cast("list[Any]", given)
            ]
            context = LLMContext(cast("list[LLMContextMessage]", [*chain(*formed)]))
        shown = context.get_messages(truncate_large_values=True)
        plain = [self._plain(m) if isinstance(m, LLMSpecificMessage) else m for m in shown]
        known = [cast("Message", message) for message in plain if message is not None]
        return [without_bytes(message) for message in in_mistrals_form(known, Conversion())]

    def supports_file_url(self, url: str, mime_type: str) -> bool:
        """Whether Mistral fetches a file itself: images and documents on the web, it does."""
        return url.startswith(("http://", "https://")) and not _is_plain_text(mime_type)

    async def _offered(self, tools: Any) -> OfferedTools:
        given = super().from_standard_tools(tools)
        offered = await convert_tools_in_thread(given if isinstance(given, list) else [])
        for fault in offered.faults:
            if fault not in self._tool_faults:
                self._tool_faults.add(fault)
                logger.warning(f"{type(self).__name__}: {fault}")
        return offered

    def _look_at(
        self, messages: list[Message], conversion: Conversion
    ) -> tuple[list[Message], list[str]]:
        """Count the bytes of images; returns Mistral's form, and the URLs of images to be sent."""
        messages = in_mistrals_form(messages, conversion)
        self.images.bytes_in_context = bytes_of_images(messages)
        urls = [] if conversion.sees is False else images_to_send(messages, conversion)
        return messages, urls

    def _messages(
        self, context: LLMContext, instruction: str | None, conversion: Conversion
    ) -> list[Message]:
        placed = [(-1, {"role": "system", "content": instruction})] if instruction else []
        for index, message in enumerate(context.get_messages()):
            if (plain := self._plain(message)) is not None:
                placed.append((index, plain))
        messages: list[Message] = [message for _, message in placed]
        conversion.begin(messages, [index for index, _ in placed])
        return messages

    def _plain(self, message: LLMContextMessage) -> Message | None:
        """A message as a plain dict: Mistral's own and standard ones as they are."""
        if isinstance(message, LLMSpecificMessage):
            if message.llm != self.id_for_llm_specific_messages:
                return readable(message.message)
            own: Any = message.message
            plain = cast("Message", own) if isinstance(own, dict) and "role" in own else None
            return plain or thought_of(own)
        plain = cast("Message", message)
        content = list_of(plain.get("content"))
        if not any(map(_is_file, content)):
            return plain
        return {**plain, "content": [self._part(part) for part in content]}

    def _part(self, part: Message) -> Message:
        """Pipecat's own kinds of file parts in OpenAI's or Mistral's form."""
        if not _is_file(part):
            return part
        file = cast("Message", part["file"])
        kind, name = str(file["mime_type"]), str(file.get("filename") or "")
        try:
            found = file.get("file_data") or self.inlined_file_content(file) or file["url"]
        except ValueError as e:
            raise LLMContextConversionError(e) from e
        url = str(found)
        if kind.startswith("image/"):
            return {"type": "image_url", "image_url": {"url": url}}
        if _is_plain_text(kind):
            text = base64.b64decode(url.partition(",")[2]).decode("utf-8", "replace")
            return {"type": "text", "text": f"[File {name}]\n{text}" if name else text}
        document: Message = {"type": "document_url", "document_url": url}
        return {**document, "document_name": name} if name else document


def _is_large(messages: list[Message]) -> bool:
    """Whether the rules take some milliseconds for the messages."""
    size = len(messages)
    if size <= _LARGE:
        for message in messages:
            content = message.get("content")
            if not isinstance(content, str) and is_foreign(message):
                return True  # Its images are large, as likely as not.
            size += len(list_of(content)) + len(list_of(message.get("tool_calls")))
    return size > _LARGE


async def _here(work: Callable[..., T], *given: Any) -> T:
    return work(*given)


def _is_file(part: Any) -> bool:
    return object_of(part).get("type") in ("file_base64", "file_url")


def _is_plain_text(mime_type: str) -> bool:
    return mime_type.startswith("text/") or mime_type == "application/json"
