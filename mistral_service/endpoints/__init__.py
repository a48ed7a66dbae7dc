"""Mistral's endpoints without a pipeline: what `MistralClient` is made of."""
