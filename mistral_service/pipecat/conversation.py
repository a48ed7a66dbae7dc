"""A Pipecat context as a turn sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage

from mistral_service.conversation.conversion import Conversion
from mistral_service.conversation.foreign import in_mistrals_form
from mistral_service.settings import given
from mistral_service.turn.router import Needs


@dataclass(frozen=True, slots=True)
class ContextConversation:
    """A context; those that are made of it are new contexts.

    Parameters:
        context: The context, which is never changed.
    """

    context: LLMContext

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The messages, without those for another service alone."""
        return messages_of(self.context)

    @property
    def tools(self) -> object:
        """The functions that are offered; None without any."""
        return given(self.context.tools)

    @property
    def needs(self) -> Needs:
        """What the model that answers has to be able to do."""
        return Needs(bool(self.tools), self._has_images)

    def continued(self, words: str) -> "ContextConversation":
        """The context in which a reply goes on that was cut after some words.

        The rules send the words as a prefix where the API takes one. With functions it does not,
        and the model is asked to go on.
        """
        return self._with({"role": "assistant", "content": words})

    def reminded(self, note: str, words: str) -> "ContextConversation":
        """The context with an instruction behind it, and before that the words of the reply."""
        instruction = {"role": "developer", "content": note}
        said = [{"role": "assistant", "content": words}] if words.strip() else []
        return self._with(*said, instruction)

    def without_functions(self) -> "ContextConversation":
        """The context in which the model has to answer in words."""
        context = self.context
        return ContextConversation(LLMContext(context.get_messages(), context.tools, "none"))

    def _with(self, *messages: Mapping[str, Any]) -> "ContextConversation":
        context = self.context
        longer = [*context.get_messages(), *cast("list[Any]", messages)]
        return ContextConversation(LLMContext(longer, context.tools, context.tool_choice))

    def _has_images(self) -> bool:
        for message in in_mistrals_form(messages_of(self.context), Conversion()):
            content = message.get("content")
            if isinstance(content, list) and any(map(_is_image, cast("list[Any]", content))):
                return True
        return False


def messages_of(context: LLMContext) -> list[dict[str, Any]]:
    """The messages of a context, without those for another service alone."""
    messages = context.get_messages()
    return [cast("dict[str, Any]", m) for m in messages if not isinstance(m, LLMSpecificMessage)]


def _is_image(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    fields = cast("dict[str, Any]", part)
    file: Any = fields.get("file")
    if fields.get("type") in ("file_base64", "file_url") and isinstance(file, dict):
        kind = cast("dict[str, Any]", file).get("mime_type")
        return str(kind).startswith("image/")
    return fields.get("type") == "image_url"
