"""Calls on many machines: Ray Serve places them, Redis holds what they share (extra `scale`)."""
