"""All probes, in the order in which they are sent."""

from mistral_service.conformance.endpoint import ENDPOINT
from mistral_service.conformance.parameters import PARAMETERS
from mistral_service.conformance.probe import Probe
from mistral_service.conformance.replies import REPLIES
from mistral_service.conformance.rules import RULES
from mistral_service.conformance.tool_calls import TOOL_CALLS

PROBES: tuple[Probe, ...] = (*ENDPOINT, *REPLIES, *TOOL_CALLS, *RULES, *PARAMETERS)
"""Every probe; the names are unique."""
