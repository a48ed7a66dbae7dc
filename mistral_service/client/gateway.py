"""Headers for a gateway between us and Mistral."""

import json
from collections.abc import Mapping
from typing import Any


def portkey_headers(
    *,
    provider: str | None = None,
    virtual_key: str | None = None,
    config: str | Mapping[str, Any] | None = None,
    custom_host: str | None = None,
    trace_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    api_key: str | None = None,
    **others: str | bool | Mapping[str, Any] | None,
) -> dict[str, str]:
    """Make the headers that a Portkey gateway goes by, as `portkey_ai.createHeaders` makes them.

    Pass them as `default_headers`, with the gateway's address as `base_url`, to
    `MistralLLMService` or `MistralClient`. `docs/portkey.md` says which settings a gateway passes
    on.

    Args:
        provider: Who is asked: `mistral-ai`.
        virtual_key: The name under which the gateway keeps Mistral's key.
        config: The id of a config that the gateway keeps, or the config itself.
        custom_host: Where the provider is, if not where the gateway thinks: a self-hosted model.
        trace_id: What the request is traced by.
        metadata: What it is logged with.
        api_key: The key to the gateway; Mistral's own is that of the service or client.
        **others: Other headers by the name that Portkey gives them: `request_timeout`,
            `cache_namespace`, ….

    Returns:
        The headers; what is None or empty has none.
    """
    given: dict[str, Any] = {
        "provider": provider,
        "virtual_key": virtual_key,
        "config": config,
        "custom_host": custom_host,
        "trace_id": trace_id,
        "metadata": metadata,
        "api_key": api_key,
        **others,
    }
    return {
        f"x-portkey-{name.replace('_', '-')}": written
        for name, value in given.items()
        if (written := _written(value))
    }


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, Mapping) else str(value or "")
