"""Calls on many machines: what places them, and what they share."""
