"""Converts histories, images and tools to Mistral's form (knows no Pipecat)."""
