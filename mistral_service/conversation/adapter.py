"""From Pipecat's context to the messages and tools that Mistral takes."""

from typing import Any, cast

from pipecat.adapters.llm.services.open_ai_adapter import (
    OpenAILLMAdapter,
    OpenAILLMInvocationParams,
)
from pipecat.processors.aggregators.llm_context import LLMContext

from mistral_service.conversation.rules import apply_rules


class MistralLLMAdapter(OpenAILLMAdapter):
    """Turns a context into a request that Mistral accepts.

    Functions and files are converted as for OpenAI; the messages then go through the rules of
    `mistral_service.conversation.rules`. The context itself is never changed.
    """

    @property
    def id_for_llm_specific_messages(self) -> str:
        """The mark of messages in the context that are Mistral's own: `mistral`."""
        return "mistral"

    async def get_llm_invocation_params(
        self,
        context: LLMContext,
        *,
        system_instruction: str | None = None,
        convert_developer_to_user: bool = False,
    ) -> OpenAILLMInvocationParams:
        """Make the parameters of a request from a context.

        Args:
            context: The conversation, with its tools; left as it is.
            system_instruction: The service's instruction; it stands before all others.
            convert_developer_to_user: Taken for compatibility with Pipecat's services, and
                without effect: what becomes of a `developer` message depends on where it stands,
                which the rules decide.

        Returns:
            `messages`, `tools` and `tool_choice` for the request's body.

        Raises:
            LLMContextConversionError: If a file in the context cannot be sent.
        """
        params = await super().get_llm_invocation_params(
            context, system_instruction=system_instruction, convert_developer_to_user=False
        )
        messages = apply_rules(cast("list[dict[str, Any]]", params["messages"]))
        params["messages"] = cast(Any, messages)
        return params
