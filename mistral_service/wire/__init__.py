"""Bytes to and from Mistral: body, HTTP, SSE, chunks, errors. Knows nothing of Pipecat."""
