"""A Mistral endpoint on your own machine, as strict as the real one.

It refuses what Mistral refuses, with Mistral's statuses and bodies, and answers in Mistral's wire
format. The answers come from an engine: a `Script` for tests, a small real model for demos, or
`AsAsked`, which needs neither.

In a test::

    with LocalMistral(Script(Reply("Hello there."))) as mistral:
        llm = MistralLLMService(api_key="any", base_url=mistral.base_url)
        ...
        assert mistral.exchanges[0].request["model"] == "mistral-small-latest"

By itself: `python -m mistral_service.local --port 8080`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mistral_service.local.as_asked import AsAsked
    from mistral_service.local.behaviour import Behaviour
    from mistral_service.local.checks import Checks
    from mistral_service.local.limits import RateLimits
    from mistral_service.local.script import Reply, Script
    from mistral_service.local.server import LocalMistral

__all__ = ["AsAsked", "Behaviour", "Checks", "LocalMistral", "RateLimits", "Reply", "Script"]

# Loaded on first use: pytest loads the plugin in this package wherever it is installed, with the
# extra `local` or without.
_MODULES = {
    "AsAsked": "mistral_service.local.as_asked",
    "Behaviour": "mistral_service.local.behaviour",
    "Checks": "mistral_service.local.checks",
    "LocalMistral": "mistral_service.local.server",
    "RateLimits": "mistral_service.local.limits",
    "Reply": "mistral_service.local.script",
    "Script": "mistral_service.local.script",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
