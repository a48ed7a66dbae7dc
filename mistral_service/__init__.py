"""The Mistral LLM service for Pipecat voice agents.

Everything promised is exported here; the rest of the package is importable but may change.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from mistral_service.client import MistralClient
    from mistral_service.pipecat.adapter import MistralLLMAdapter
    from mistral_service.pipecat.functions.client_results import answered_by_client
    from mistral_service.pipecat.functions.idempotency import FunctionCallParams, idempotent
    from mistral_service.pipecat.metrics import MistralTurnMetrics
    from mistral_service.service import MistralLLMService
    from mistral_service.settings import MistralLLMSettings
    from mistral_service.wire.errors import MistralError, Reason

__all__ = [
    "FunctionCallParams",
    "MistralClient",
    "MistralError",
    "MistralLLMAdapter",
    "MistralLLMService",
    "MistralLLMSettings",
    "MistralTurnMetrics",
    "Reason",
    "__version__",
    "answered_by_client",
    "idempotent",
]

# Loaded when first asked for: the wire and the local endpoint need no Pipecat, whose import takes
# two seconds.
_HOMES = {
    "FunctionCallParams": "mistral_service.pipecat.functions.idempotency",
    "MistralClient": "mistral_service.client",
    "MistralError": "mistral_service.wire.errors",
    "MistralLLMAdapter": "mistral_service.pipecat.adapter",
    "MistralLLMService": "mistral_service.service",
    "MistralLLMSettings": "mistral_service.settings",
    "MistralTurnMetrics": "mistral_service.pipecat.metrics",
    "Reason": "mistral_service.wire.errors",
    "answered_by_client": "mistral_service.pipecat.functions.client_results",
    "idempotent": "mistral_service.pipecat.functions.idempotency",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("pipecat-mistral-service")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
