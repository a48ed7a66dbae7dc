"""Our assumptions about Mistral's API, held against a live endpoint.

Each probe is data: what is assumed, the raw requests, and a pure function that judges the answers.
Nothing here goes through the message rules or the parameters that the service sends: a probe says
what a server does with exactly the body that stands in it.
"""
