"""Calls on many machines: what they share, and what places them."""
