"""Mistral's endpoints without a pipeline."""

from mistral_service.client.client import CODESTRAL_BASE_URL, LIMITS, MistralClient
from mistral_service.client.gateway import portkey_headers

__all__ = ["CODESTRAL_BASE_URL", "LIMITS", "MistralClient", "portkey_headers"]
