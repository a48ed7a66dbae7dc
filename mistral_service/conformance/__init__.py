"""Tests our assumptions about Mistral's API against a live endpoint.

Each probe is data: an assumption, raw requests, and a pure function that evaluates the answers. No
request passes the message rules or the service's parameters: a probe shows what a server does with
exactly the body that the probe contains.
"""
