"""What is said to Mistral: from a Pipecat context to messages and tools."""
