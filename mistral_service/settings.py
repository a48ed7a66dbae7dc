"""What can be set, before and during a conversation."""

from dataclasses import dataclass

from pipecat.services.openai.base_llm import OpenAILLMSettings

DEFAULT_MODEL = "mistral-small-latest"
"""The model asked when none is named: Pipecat's own service asks the same."""


@dataclass
class MistralLLMSettings(OpenAILLMSettings):
    """Settings for `MistralLLMService`.

    All of Pipecat's own names hold: `model`, `system_instruction`, `temperature`, `top_p`,
    `max_tokens` and `max_completion_tokens` (both limit the reply), `frequency_penalty`,
    `presence_penalty`, `seed` (sent as `random_seed`), `extra` (further fields of the request's
    body, under Mistral's names: `extra={"safe_prompt": True}`).

    Change them in mid-conversation with
    `LLMUpdateSettingsFrame(delta=MistralLLMService.Settings(temperature=0.2))`.
    """
