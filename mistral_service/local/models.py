"""The models of the local endpoint, as `GET /v1/models` lists them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mistral_service.local.pieces import CHAT


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
        serves: The endpoints that take it.
    """

    id: str
    aliases: Sequence[str] = ()
    context: int = 131072
    function_calling: bool = True
    vision: bool = False
    reasoning: bool = False
    serves: Sequence[str] = (CHAT,)

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
                "completion_chat": CHAT in self.serves,
                "function_calling": CHAT in self.serves and self.function_calling,
                "completion_fim": "fim/completions" in self.serves,
                "fine_tuning": False,
                "vision": self.vision,
                "reasoning": self.reasoning,
                "moderation": "moderations" in self.serves,
            },
            "max_context_length": self.context,
            "aliases": list(self.aliases),
            "deprecation": None,
            "deprecation_replacement_model": None,
            "default_model_temperature": 0.3,
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
    Model("codestral-latest", context=256000, serves=(CHAT, "fim/completions")),
    Model("devstral-medium-latest"),
    Model("voxtral-small-latest", context=32768),
    Model("open-mistral-nemo", ("mistral-tiny-latest",)),
    Model("mistral-embed", context=8192, serves=("embeddings",)),
    Model("mistral-moderation-latest", context=32768, serves=("moderations", "chat/moderations")),
)
"""Names that Mistral's documentation uses; Mistral's list is longer, and changes."""


def find_model(name: str, models: Sequence[Model], path: str | None = None) -> Model | None:
    """Find a model by name or alias, among those that an endpoint takes; by default among all."""
    found = next((m for m in models if m.id == name or name in m.aliases), None)
    return found if found and (path is None or path in found.serves) else None
