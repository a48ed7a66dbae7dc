"""Function calls: which may run, and with what."""

import json
import secrets
import string
from typing import Any, cast

from mistral_service.reply.events import ToolCall

_ID_CHARACTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9


def new_call_id() -> str:
    """Make an id for a call that came without one.

    Returns:
        Nine letters and digits: the form that Mistral wants back with the result (R6).
    """
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """Read a call's arguments.

    Args:
        call: The call.

    Returns:
        The arguments by name.

    Raises:
        ValueError: If they are not a JSON object; the message names the function and what came.
    """
    try:
        arguments: object = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        shown = call.arguments if len(call.arguments) <= 200 else call.arguments[:200] + "…"
        raise ValueError(  # noqa: TRY004 - the value came from outside
            f"The model called {call.name} with arguments that are not a JSON object: {shown}"
        )
    return cast("dict[str, Any]", arguments)
