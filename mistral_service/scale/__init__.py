"""Calls on many machines: Ray Serve places them, and Redis holds what they share."""
