"""What a turn took, on the OpenTelemetry span that Pipecat opens for it.

Pipecat's `traced_llm` names the span `llm` and sets model, parameters, messages, tools, tokens
(cached ones among them), output and time to first byte. What only this service knows is added here,
under `mistral.…`. Called only where tracing is on, so that OpenTelemetry is not loaded before.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mistral_service.turn.prices import total
from mistral_service.turn.retries import Handled
from mistral_service.wire.errors import MistralError

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from mistral_service.turn.state import TurnState


def trace_turn(turn: "TurnState[Any]") -> None:
    """Set what a turn took as attributes of the current span, however it has ended."""
    changes = turn.conversion.changes
    attributes: dict[str, AttributeValue] = {
        **{f"mistral.{name}": count for name, count in asdict(turn.counts).items()},
        "mistral.repaired_messages": len({change.index for change in changes}),
    }
    if changes:
        rules = sorted({change.rule for change in changes}, key=lambda rule: int(rule[1:]))
        attributes["mistral.rules"] = rules
    if turn.correlation_id:
        attributes["mistral.correlation_id"] = turn.correlation_id
    if turn.model:
        attributes["gen_ai.response.model"] = turn.model
    cost = total(turn.costs)
    if cost is not None:
        attributes["mistral.cost"] = cost
    _span().set_attributes(attributes)


def trace_fault(error: MistralError, handled: Handled) -> None:
    """Add an event to the current span: a fault, and what was done about it."""
    _span().add_event(
        "mistral.fault",
        {
            **_described(error),
            "mistral.handled": handled.done,
            "mistral.attempt": handled.attempt,
            "mistral.delay": handled.delay,
            "mistral.model": handled.model,
        },
    )


def trace_error(error: MistralError) -> None:
    """Set what ended a turn as attributes of the current span."""
    _span().set_attributes(_described(error))


def _described(error: MistralError) -> "dict[str, AttributeValue]":
    described: dict[str, AttributeValue] = {"error.type": error.reason.value}
    if error.status_code is not None:
        described["http.response.status_code"] = error.status_code
    if error.correlation_id:
        described["mistral.correlation_id"] = error.correlation_id
    return described


def _span():
    from opentelemetry import trace

    return trace.get_current_span()
