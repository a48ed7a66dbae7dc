"""All probes, in the order in which they are sent."""

from mistral_service.conformance.calling import CALLING
from mistral_service.conformance.endpoint import ENDPOINT
from mistral_service.conformance.parameters import PARAMETERS
from mistral_service.conformance.probe import Probe
from mistral_service.conformance.replies import REPLIES
from mistral_service.conformance.rules import RULES

PROBES: tuple[Probe, ...] = (*ENDPOINT, *REPLIES, *CALLING, *RULES, *PARAMETERS)
"""Every probe; each has a name of its own."""
