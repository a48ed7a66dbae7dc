"""Function calls in Pipecat's terms: each runs exactly once, and ends in a result."""
