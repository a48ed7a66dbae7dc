"""How a Portkey gateway rewrites a request on its way to Mistral.

The gateway rewrites the bodies of the two endpoints that it knows for Mistral: it passes on a list
of fields, under OpenAI's names, and silently drops the rest. Taken from the source of
`@portkey-ai/gateway` 1.15.2 (`providers/mistral-ai`), and tested against the running gateway by
`tests/interop/test_gateway.py`. Other paths, and all below `/v1/proxy`, are passed on unchanged.
"""

from collections.abc import Mapping
from typing import Any

_HEADERS = ("x-portkey-provider", "x-portkey-config", "x-portkey-virtual-key", "x-portkey-api-key")

_PASSED: Mapping[str, frozenset[str]] = {
    "/chat/completions": frozenset(
        (
            *("model", "messages", "temperature", "top_p", "max_tokens", "stream", "seed"),
            *("safe_prompt", "tools", "tool_choice", "parallel_tool_calls"),
        )
    ),
    "/embeddings": frozenset(("model", "input")),
}

# Mistral's name → the name that the gateway converts to Mistral's.
_RENAMED = {"random_seed": "seed"}

_MAX_TEMPERATURE = 1


def is_between(headers: Mapping[str, Any], base_url: str) -> bool:
    """Whether there is a Portkey gateway that rewrites bodies between a client and Mistral."""
    named = {name.lower() for name in headers}
    return not base_url.rstrip("/").endswith("/proxy") and any(name in named for name in _HEADERS)


def as_it_passes(body: Mapping[str, Any], path: str) -> tuple[dict[str, Any], list[str]]:
    """Convert a body so that as many fields as possible arrive.

    Returns:
        The body for the gateway; and the names of the fields that will not arrive. They are sent
        all the same: a later gateway may pass them on.
    """
    passed = _PASSED.get(path)
    if passed is None:
        return dict(body), []
    sent = {_RENAMED.get(name, name): value for name, value in body.items()}
    lost = sorted(name for name, value in sent.items() if name not in passed and value is not None)
    if (sent.get("temperature") or 0) > _MAX_TEMPERATURE:
        lost.append(f"a temperature above {_MAX_TEMPERATURE}")
    return sent, lost
