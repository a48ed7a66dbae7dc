"""What a Portkey gateway makes of a request on its way to Mistral.

The gateway rewrites the bodies of the two endpoints that it knows for Mistral: it passes on a list
of fields, under OpenAI's names, and silently drops the rest. Read from the source of
`@portkey-ai/gateway` 1.15.2 (`providers/mistral-ai`), and held against the running gateway by
`tests/interop/test_gateway.py`. What goes to other paths, or below `/v1/proxy`, it leaves as it is.
"""

from collections.abc import Mapping
from typing import Any

_HEADERS = ("x-portkey-provider", "x-portkey-config", "x-portkey-virtual-key", "x-portkey-api-key")

_PASSED: Mapping[str, frozenset[str]] = {
    "/chat/completions": frozenset(
        {
            "model",
            "messages",
            "temperature",
            "top_p",
            "max_tokens",
            "stream",
            "seed",
            "safe_prompt",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
        }
    ),
    "/embeddings": frozenset({"model", "input"}),
}

# Mistral's name → the one under which the gateway passes it on, as Mistral's again.
_RENAMED = {"random_seed": "seed"}

_MAX_TEMPERATURE = 1


def is_between(headers: Mapping[str, Any], base_url: str) -> bool:
    """Whether a Portkey gateway that rewrites stands between a client and Mistral.

    Args:
        headers: The headers that every request of the client carries.
        base_url: Where it sends them.
    """
    named = {name.lower() for name in headers}
    return not base_url.rstrip("/").endswith("/proxy") and any(name in named for name in _HEADERS)


def as_it_passes(body: Mapping[str, Any], path: str) -> tuple[dict[str, Any], list[str]]:
    """Make a body of which as much arrives as can.

    Args:
        body: The body for Mistral.
        path: The endpoint.

    Returns:
        The body for the gateway; and the names of what will not arrive. That is sent all the same:
        a later gateway may pass it on.
    """
    passed = _PASSED.get(path)
    if passed is None:
        return dict(body), []
    sent = {_RENAMED.get(name, name): value for name, value in body.items()}
    lost = sorted(name for name, value in sent.items() if name not in passed and value is not None)
    if (sent.get("temperature") or 0) > _MAX_TEMPERATURE:
        lost.append(f"a temperature above {_MAX_TEMPERATURE}")
    return sent, lost
