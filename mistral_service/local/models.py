"""The models of the local endpoint, as `GET /v1/models` lists them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Model:
    """A model on the list.

    Parameters:
        id: Its name.
        aliases: Other names of it.
        context: Tokens that request and reply may have together.
        function_calling: Whether it calls functions.
        vision: Whether it accepts images.
        reasoning: Whether it thinks, and so takes `reasoning_effort`.
        fim: Whether it does fill-in-the-middle.
        chat: Whether it answers chat completions.
        embeds: Whether it makes embeddings.
        moderates: Whether it moderates texts.
        temperature: The temperature it runs at by default.
    """

    id: str
    aliases: Sequence[str] = ()
    context: int = 131072
    function_calling: bool = True
    vision: bool = False
    reasoning: bool = False
    fim: bool = False
    chat: bool = True
    embeds: bool = False
    moderates: bool = False
    temperature: float = 0.3

    def card(self) -> dict[str, Any]:
        """The model's entry on the list."""
        return {
            "id": self.id,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "mistralai",
            "name": self.id,
            "description": "Answered on this machine, for tests and demos.",
            "capabilities": {
                "completion_chat": self.chat,
                "function_calling": self.chat and self.function_calling,
                "completion_fim": self.fim,
                "fine_tuning": False,
                "vision": self.vision,
                "reasoning": self.reasoning,
                "moderation": self.moderates,
            },
            "max_context_length": self.context,
            "aliases": list(self.aliases),
            "deprecation": None,
            "deprecation_replacement_model": None,
            "default_model_temperature": self.temperature,
            "type": "base",
        }


MODELS: tuple[Model, ...] = (
    Model("mistral-small-latest", vision=True, reasoning=True, context=262144),
    Model("mistral-medium-latest", ("mistral-medium",), vision=True, reasoning=True),
    Model("mistral-large-latest", vision=True, context=262144),
    Model("ministral-3b-latest", vision=True),
    Model("ministral-8b-latest", vision=True),
    Model("magistral-small-latest", vision=True, reasoning=True),
    Model("magistral-medium-latest", vision=True, reasoning=True),
    Model("pixtral-large-latest", vision=True),
    Model("codestral-latest", fim=True, context=256000),
    Model("devstral-medium-latest"),
    Model("voxtral-small-latest", context=32768),
    Model("open-mistral-nemo", ("mistral-tiny-latest",)),
    Model("mistral-embed", chat=False, embeds=True, context=8192),
    Model("mistral-moderation-latest", chat=False, moderates=True, context=32768),
)
"""Names that Mistral's documentation uses; Mistral's list is longer, and changes."""


def find_model(name: str, models: Sequence[Model] = MODELS) -> Model | None:
    """Find a model by name or alias.

    Args:
        name: The model of the request.
        models: The models to search.

    Returns:
        The model, or None.
    """
    return next((m for m in models if m.id == name or name in m.aliases), None)
