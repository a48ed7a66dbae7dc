"""What the strict endpoint says of a request's messages, for property tests."""

import json
import os

from mistral_service.local import Checks

EXAMPLES = int(os.environ.get("RULE_EXAMPLES", "300"))
STRICT = Checks()
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def refusal(messages: list[dict], *, tools: bool = False) -> str | None:
    body = {"model": "mistral-small-latest", "messages": messages}
    if tools:
        body["tools"] = [TOOL]
    refused = STRICT.validate(body)
    return json.dumps(refused.body) if refused else None
