"""Everything that speaks Pipecat: frames, functions, vision, errors, tracing."""
