"""Another provider: an endpoint that takes and gives what OpenAI's does, for tests of switching."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistral_service.local import Checks, Reply
from mistral_service.local.pieces import Refusal

_PARAMETERS = {
    *("model", "messages", "tools", "tool_choice", "stream", "stream_options", "temperature"),
    *("top_p", "max_tokens", "max_completion_tokens", "seed", "response_format", "store"),
    *("frequency_penalty", "presence_penalty"),
}
_ROLES = {"system", "developer", "user", "assistant", "tool"}
_LONGEST_ID = 40


@dataclass(frozen=True)
class OpenAIChecks(Checks):
    """Judges requests as OpenAI does: each call has its result right behind it, and no other."""

    def validate(self, body: Any) -> Refusal | None:
        fault = _fault(body)
        error = {"message": fault, "type": "invalid_request_error", "param": None, "code": None}
        return Refusal(400, {"error": error}) if fault else None


def _fault(body: Any) -> str | None:
    if unknown := sorted(set(body) - _PARAMETERS):
        return f"Unknown parameter: {unknown[0]!r}."
    open_calls: list[str] = []
    for index, message in enumerate(body["messages"]):
        role = message.get("role")
        if role not in _ROLES:
            return f"Invalid value: {role!r} at messages[{index}]."
        if role == "tool":
            if message["tool_call_id"] not in open_calls:
                return f"messages[{index}] must be a response to a preceding 'tool_calls'."
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            return f"tool_calls have no response: {open_calls}"
        for call in message.get("tool_calls") or []:
            if not 0 < len(call["id"]) <= _LONGEST_ID:
                return f"Invalid 'messages[{index}].tool_calls': string too long: {call['id']}."
            if call.get("type") != "function" or not isinstance(call["function"]["arguments"], str):
                return f"Invalid 'messages[{index}].tool_calls'."
            open_calls.append(call["id"])
    return f"tool_calls have no response: {open_calls}" if open_calls else None


def openai_calls(*calls: Mapping[str, Any], text: str = "", **options: Any) -> Reply:
    """A reply that calls functions as OpenAI streams it: an empty beginning, then in pieces."""
    deltas: list[dict[str, Any]] = [{"content": text}] if text else []
    for index, call in enumerate(calls):
        arguments = json.dumps(call.get("arguments", {}))
        function = {"name": call["name"], "arguments": ""}
        first = {"index": index, "id": call["id"], "type": "function", "function": function}
        deltas.append({"tool_calls": [first]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            for piece in _halves(arguments)
        ]
    return Reply(deltas=deltas, finish_reason="tool_calls", **options)


def _halves(text: str) -> Sequence[str]:
    return text[: len(text) // 2], text[len(text) // 2 :]
