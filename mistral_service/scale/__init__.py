"""Calls on many machines: what is shared between them, and kept."""
