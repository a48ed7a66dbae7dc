"""A Pipecat context as a turn sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage

from mistral_service.conversation.continued import continued
from mistral_service.conversation.images import has_images
from mistral_service.settings import given
from mistral_service.turn.router import Needs


@dataclass(frozen=True, slots=True)
class ContextConversation:
    """A context, which is never changed; those that are made of it are new contexts."""

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
        return Needs(bool(self.tools), lambda: has_images(self.messages))

    def continued(self, words: str) -> "ContextConversation":
        """The context in which a reply goes on that was cut after some words.

        The rules send the words as a prefix where the API takes one. With functions it does not,
        and the model is asked to go on.
        """
        return self._with(continued(cast(Any, self.context.get_messages()), words))

    def reminded(self, note: str, words: str) -> "ContextConversation":
        """The context with an instruction behind it, and before that the words of the reply."""
        instruction = {"role": "developer", "content": note}
        said = [{"role": "assistant", "content": words}] if words.strip() else []
        return self._with([*self.context.get_messages(), *said, instruction])

    def without_functions(self) -> "ContextConversation":
        """The context in which the model has to answer in words."""
        return self._with(self.context.get_messages(), "none")

    def _with(self, messages: Sequence[Any], choice: Any = None) -> "ContextConversation":
        context = self.context
        choice = choice or context.tool_choice
        return ContextConversation(LLMContext([*messages], context.tools, choice))


def messages_of(context: LLMContext) -> list[dict[str, Any]]:
    """The messages of a context, without those for another service alone."""
    messages = context.get_messages()
    return [cast("dict[str, Any]", m) for m in messages if not isinstance(m, LLMSpecificMessage)]
