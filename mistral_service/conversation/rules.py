"""The rules for a conversation that Mistral accepts, one pure function each.

Each takes and returns a plain list of message dicts. A message that may not stand where it stands
is moved, merged or restated; what was said in it is never lost. Messages that a rule does not
change are shared with the input, never altered in place.

The rule numbers are those of `docs/rules.md`.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

Message = dict[str, Any]
Messages = list[Message]

Rule = Callable[[Messages], Messages]

BRIDGE = "Understood."
"""What the assistant says between a function's result and the user's next words (R2)."""

GO_ON = "(Go on.)"
"""What the user says between the assistant's words and the call it makes after them (R8, R12)."""

OPENING = "(The conversation begins.)"
"""What the user says where a conversation has to begin with the user and does not (R5, R12)."""


def instructions_where_they_stand(messages: Messages) -> Messages:
    """R1, R14: `system` stands only at the beginning, and there is no `developer` role.

    A leading `developer` message joins the system block. An instruction later in the conversation
    keeps its place in time as a user turn, marked as an instruction.

    Prevents 400 code 3230 "Unexpected role 'system' after role …", and 422 for `developer`.
    """
    result: Messages = []
    leading = True
    for message in messages:
        role = message.get("role")
        if role not in ("system", "developer"):
            leading = False
            result.append(message)
        elif leading:
            result.append(message if role == "system" else {**message, "role": "system"})
        else:
            text = f"[Instruction] {text_of(message.get('content'))}"
            result.append({"role": "user", "content": text})
    return result


def empty_assistant_messages_go(messages: Messages) -> Messages:
    """R7: an assistant message has content or calls.

    One that has neither says nothing, so nothing is lost with it. Prevents 400 "must have either
    content or tool_calls", which also comes disguised as "Service unavailable." (3600).
    """
    return [
        message
        for message in messages
        if message.get("role") != "assistant"
        or message.get("tool_calls")
        or has_content(message.get("content"))
    ]


def the_assistant_answers_a_result(messages: Messages) -> Messages:
    """R2: after a function's result comes the assistant, never the user.

    A bridge of one word stands between them, and nowhere else: a turn that ends with results goes
    out as it is. Prevents 400 code 3230 "Unexpected role 'user' after role 'tool'".
    """
    result: Messages = []
    for message in messages:
        if message.get("role") == "user" and result and result[-1].get("role") == "tool":
            result.append({"role": "assistant", "content": BRIDGE})
        result.append(message)
    return result


def words_and_calls_stand_apart(messages: Messages) -> Messages:
    """R8, R12: words and calls are two messages, with the user between them.

    Tokenizers before v7 take no message that has both, and templates count words followed by an
    answer as two turns of the assistant. Prevents "must have either content or tool_calls, but not
    both", and "conversation roles must alternate".
    """
    result: Messages = []
    for message in messages:
        if not message.get("tool_calls"):
            result.append(message)
            continue
        if has_content(message.get("content")):
            result.append({k: v for k, v in message.items() if k != "tool_calls"})
            message = {k: v for k, v in message.items() if k != "content"}
        if result and result[-1].get("role") == "assistant" and not result[-1].get("tool_calls"):
            result.append({"role": "user", "content": GO_ON})
        result.append(message)
    return result


def the_user_begins(messages: Messages) -> Messages:
    """R5, R12: after the system block the user speaks first, and somebody speaks.

    A greeting by the assistant gets an opening before it; so does a conversation of instructions
    alone. Prevents "conversation roles must alternate" of self-hosted templates, and "Expected
    last role User or Tool".
    """
    start = next(
        (i for i, message in enumerate(messages) if message.get("role") != "system"),
        len(messages),
    )
    if start < len(messages) and messages[start].get("role") == "user":
        return messages
    opening: Message = {"role": "user", "content": OPENING}
    return [*messages[:start], opening, *messages[start:]]


def neighbours_merge(messages: Messages) -> Messages:
    """R12: user and assistant take turns.

    Neighbours of one role become one message; text joins with a blank line, lists of parts are
    joined in order. Prevents "conversation roles must alternate" of self-hosted templates.
    """
    result: Messages = []
    for message in messages:
        last = result[-1] if result else None
        if last is not None and _may_merge(last, message):
            result[-1] = _merged(last, message)
        else:
            result.append(message)
    return result


def a_last_assistant_message_is_a_prefix(messages: Messages) -> Messages:
    """R5: the last message is the user's, a result, or a prefix to go on from.

    Prevents "Expected last role User or Tool (or Assistant with prefix True)".
    """
    if messages and messages[-1].get("role") == "assistant" and not messages[-1].get("prefix"):
        return [*messages[:-1], {**messages[-1], "prefix": True}]
    return messages


RULES: Sequence[Rule] = (
    instructions_where_they_stand,
    empty_assistant_messages_go,
    the_assistant_answers_a_result,
    words_and_calls_stand_apart,
    neighbours_merge,
    the_user_begins,
    a_last_assistant_message_is_a_prefix,
)
"""The rules in the order in which they run: each may rely on those before it."""


def apply_rules(messages: Sequence[Message]) -> Messages:
    """Make a history one that Mistral accepts.

    Args:
        messages: The messages; neither the list nor a message in it is changed.

    Returns:
        The messages to send.
    """
    result = list(messages)
    for rule in RULES:
        result = rule(result)
    return result


def text_of(content: Any) -> str:
    """The words in a message's content, whichever form it has."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = cast("list[Message]", content)
    return "\n".join(str(part["text"]) for part in parts if part.get("type") == "text")


def has_content(content: Any) -> bool:
    """Whether a content says anything."""
    return bool(content.strip()) if isinstance(content, str) else bool(content)


def _may_merge(first: Message, second: Message) -> bool:
    role = first.get("role")
    if role != second.get("role") or role not in ("system", "user", "assistant"):
        return False
    # Calls stay next to their results, and apart from words.
    return not first.get("tool_calls") and not second.get("tool_calls")


def _merged(first: Message, second: Message) -> Message:
    one, two = first.get("content"), second.get("content")
    if isinstance(one, str) and isinstance(two, str):
        content: Any = f"{one}\n\n{two}" if one and two else one or two
    else:
        content = [*_as_parts(one), *_as_parts(two)]
    return {**first, **second, "content": content}


def _as_parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content or [])
