"""The rules for a conversation that every Mistral deployment accepts, one pure function each.

Each takes and returns a plain list of message dicts. A message that is not allowed at its position
is moved, merged or converted; its content is never lost. Messages that a rule does not change are
shared with the input and never altered in place. Every change is recorded in the `Conversion`,
with its reason.

`docs/rules.md` has every rule with its number, the error it prevents, and an example.
"""

from collections.abc import Callable, Sequence
from itertools import chain, takewhile
from typing import Any

from mistral_service.conversation.calls import (
    calls_in_mistrals_form,
    calls_of,
    ids_of_nine_characters,
    results_follow_their_calls,
)
from mistral_service.conversation.conversion import Conversion, Message, Messages, differ, without
from mistral_service.conversation.foreign import in_mistrals_form
from mistral_service.conversation.images import images_within_the_budget
from mistral_service.conversation.parts import (
    Part,
    as_parts,
    convert_part,
    for_server,
    has_content,
    is_text,
    link_or_resource_as_text,
    refusal_or_transcript,
    text_of,
)
from mistral_service.conversation.thoughts import thoughts_return_to_their_place
from mistral_service.wire.servers import CONTINUE_TEXT
from mistral_service.wire.trees import list_of

Rule = Callable[[Messages, Conversion], Messages]

BRIDGE = "Understood."
"""The assistant message between a function's result and the next user message (R2)."""

OPENING = "(The conversation begins.)"
"""The user message that opens a conversation which does not begin with the user (R5, R12)."""

INSTRUCTION = "[Instruction] "
"""Marks an instruction that comes after the leading system block (R1)."""

_FIELDS: dict[Any, frozenset[str]] = {
    **dict.fromkeys(("system", "developer", "user"), frozenset({"role", "content"})),
    "assistant": frozenset({"role", "content", "tool_calls", "prefix"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
}

_INSTRUCTIONS = frozenset({"system", "developer"})

# Fields of the schema that may be empty, which is as good as absent.
_OPTIONAL = frozenset({"tool_calls", "prefix"})


def only_fields_of_the_schema(messages: Messages, conversion: Conversion) -> Messages:
    """R9: a message has the fields of its role and no other.

    A refusal, or the transcript of an assistant's audio, replaces an empty content; a message of an
    unknown role becomes user text. Prevents 422 `extra_forbidden`.
    """
    result: Messages = []
    for message in messages:
        role = message.get("role")
        fields = _FIELDS.get(role)
        if fields is None:
            new: Message = {
                "role": "user",
                "content": f"[{role}] {text_of(message.get('content'))}",
            }
            reason = f"kept a message of the role {role!r} as text"
            message = conversion.record_change("R9", message, reason, new)
        elif not fields.issuperset(message) or not _OPTIONAL.isdisjoint(message):
            other = message.keys() - fields
            other |= {name for name in _OPTIONAL if not message.get(name, True)}
            if other:
                new = without(message, *other)
                if text := refusal_or_transcript(message):
                    new["content"] = text
                reason = f"left out {', '.join(sorted(other))}"
                message = conversion.record_change("R9", message, reason, new)
        result.append(message)
    return result


def parts_where_they_may_stand(messages: Messages, conversion: Conversion) -> Messages:
    """R9, R15: parts have Mistral's form, and only user messages have images, files and sound.

    OpenAI's `file` and `input_audio` are converted. Images, files and sound of a system, assistant
    or tool message move to a user message behind it, in order; a text resource or a link becomes
    text there, and so does what the server does not know. System and tool content is plain text.
    Prevents 422 for the form, and "Unexpected content chunk types".
    """
    result: Messages = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str) or (content is None and message["role"] == "assistant"):
            result.append(message)
            continue
        given = list_of(content)
        formed = [convert_part(part) for part in given]
        if conversion.parts is not None:
            formed = [part and for_server(part, conversion.parts) for part in formed]
        if not (conversion.takes_thoughts and message["role"] == "assistant"):
            # Most models refuse the thoughts of earlier turns.
            formed = [part if part and part["type"] != "thinking" else None for part in formed]
        parts = [part for part in formed if part is not None]
        shown: list[Part] = []
        if message["role"] != "user":
            parts = [link_or_resource_as_text(part) for part in parts]
            shown = [part for part in parts if not _may_stand(part, message["role"])]
            parts = [part for part in parts if _may_stand(part, message["role"])]
        if all(map(is_text, parts)):
            # Text alone is sent as a string: the templates of older models know no lists.
            text = "\n".join(part["text"] for part in parts)
            reason = "joined its text parts into one text"
            message = conversion.record_change("R15", message, reason, {**message, "content": text})
        elif differ(parts, given):
            reason = "converted its parts to Mistral's form"
            message = conversion.record_change("R9", message, reason, {**message, "content": parts})
        result.append(message)
        if shown:
            reason = f"moved what a {message['role']} message may not contain to a user message"
            behind: Message = {"role": "user", "content": shown}
            result.append(conversion.record_change("R15", message, reason, behind))
    return result


def instructions_where_they_stand(messages: Messages, conversion: Conversion) -> Messages:
    """R1, R14: `system` stands only at the beginning, and there is no `developer` role.

    A leading `developer` message joins the system block. A later instruction stays at its position
    as a user message, marked as an instruction. So does the last `developer` message of the block
    where instructions stand before it and no user speaks after it: it is what the model is asked,
    as after a context was reset in mid-call. Prevents 400 code 3230 "Unexpected role 'system' after
    role …", and 422 for `developer`.
    """
    result: Messages = []
    leading = True
    asked = _asked_by_developer(messages)
    for message in messages:
        role = message["role"]
        leading = leading and role in _INSTRUCTIONS and message is not asked
        if role not in _INSTRUCTIONS:
            pass
        elif not has_content(message.get("content")):
            conversion.record("R1", message, f"left out an empty {role} message")
            continue
        elif not leading:
            reason = f"kept a {role} message at its position as an instruction of the user"
            new: Message = {"role": "user", "content": INSTRUCTION + text_of(message["content"])}
            message = conversion.record_change("R1", message, reason, new)
        elif role == "developer":
            reason = "made a leading developer message part of the system block"
            new = {**message, "role": "system"}
            message = conversion.record_change("R14", message, reason, new)
        result.append(message)
    return result


def _asked_by_developer(messages: Messages) -> Message | None:
    """The instruction that the model is asked where no user speaks after it."""
    block = list(takewhile(lambda message: message["role"] in _INSTRUCTIONS, messages))
    if len(block) < len(messages) and messages[len(block)]["role"] == "user":
        return None
    told = [message for message in block if has_content(message.get("content"))]
    return told[-1] if len(told) > 1 and told[-1]["role"] == "developer" else None


def empty_messages_go(messages: Messages, conversion: Conversion) -> Messages:
    """R7: a message of the assistant or the user is not empty.

    One that has neither content nor calls is left out. Prevents 400 "must have either content or
    tool_calls", which also comes disguised as "Service unavailable." (3600).
    """
    result: Messages = []
    for message in messages:
        speaks = message["role"] in ("assistant", "user") and not message.get("tool_calls")
        if speaks and not has_content(message.get("content")):
            conversion.record("R7", message, f"left out an empty {message['role']} message")
        else:
            result.append(message)
    return result


def words_and_calls_stand_apart(messages: Messages, conversion: Conversion) -> Messages:
    """R8: text and calls are two messages; a thought stays with the call that follows it.

    Prevents "must have either content or tool_calls, but not both" of tokenizers before v7.
    """
    result: Messages = []
    for message in messages:
        content = message.get("content")
        if not (message.get("tool_calls") and content) or _only_thinks(content):
            result.append(message)
        elif has_content(content):
            reason = "split text and calls into two messages"
            words = without(message, "tool_calls")
            result.append(conversion.record_change("R8", message, reason, words))
            result.append(conversion.inherit_index(message, without(message, "content", "prefix")))
        else:
            reason = "left out the blank content of a message with calls"
            calls = without(message, "content")
            result.append(conversion.record_change("R8", message, reason, calls))
    return result


def the_assistant_answers_a_result(messages: Messages, conversion: Conversion) -> Messages:
    """R2: after a function's result comes the assistant, never the user.

    An assistant message of one word is inserted between them, and nowhere else: a request that
    ends with results is sent as it is, so that the model may call again. Prevents 400 code 3230
    "Unexpected role 'user' after role 'tool'".
    """
    result: Messages = []
    for message in messages:
        if message["role"] == "user" and result and result[-1]["role"] == "tool":
            reason = "had the assistant acknowledge a result before the next user message"
            bridge: Message = {"role": "assistant", "content": BRIDGE}
            result.append(conversion.record_change("R2", message, reason, bridge))
        result.append(message)
    return result


def the_user_stands_between_words_and_calls(messages: Messages, conversion: Conversion) -> Messages:
    """R12: between text and a call of the assistant, the user says "go on".

    Templates count text followed by a call as two turns of the assistant. Prevents
    "conversation roles must alternate".
    """
    result: Messages = []
    for message in messages:
        if message.get("tool_calls") and result and _is_assistant_text(result[-1]):
            reason = "had the user say “go on” between the assistant's text and its call"
            user: Message = {"role": "user", "content": CONTINUE_TEXT}
            result.append(conversion.record_change("R12", message, reason, user))
        result.append(message)
    return result


def neighbours_merge(messages: Messages, conversion: Conversion) -> Messages:
    """R12: user and assistant alternate, and there is one system message.

    Consecutive messages of one role are merged; texts are joined with a blank line, lists of parts
    in order. Prevents "conversation roles must alternate" of self-hosted templates.
    """
    result: Messages = []
    together: Messages = []
    for message in messages:
        last = together[-1] if together else None
        if last is not None and last["role"] == message["role"] and _may_merge(last, message):
            reason = f"merged it into the {message['role']} message before it"
            conversion.record("R12", message, reason)
        elif together:
            result.append(_merged(together, conversion))
            together = []
        together.append(message)
    return [*result, _merged(together, conversion)] if together else result


def the_user_begins(messages: Messages, conversion: Conversion) -> Messages:
    """R5, R12: after the system block comes a user message.

    One is inserted before a greeting by the assistant, and where there are only instructions.
    Prevents "conversation roles must alternate" of self-hosted templates, and "Expected last role
    User or Tool".
    """
    start = sum(1 for _ in takewhile(lambda message: message["role"] == "system", messages))
    if start < len(messages) and messages[start]["role"] == "user":
        return messages
    opening: Message = {"role": "user", "content": OPENING}
    place = messages[min(start, len(messages) - 1)] if messages else opening
    conversion.record_change("R12", place, "had the user open the conversation", opening)
    return [*messages[:start], opening, *messages[start:]]


def the_last_message_asks_for_a_reply(messages: Messages, conversion: Conversion) -> Messages:
    """R5, R13: the last message is the user's, a result, or a prefix that the model continues.

    Where functions are offered a prefix is refused, so the user says "go on" instead; a prefix
    that is not the last message becomes an ordinary message. Prevents "Expected last role User
    or Tool (or Assistant with prefix True)", and "Cannot set an assistant prefix with function
    calling".
    """
    result: Messages = []
    for i, message in enumerate(messages):
        if message.get("prefix") and (i < len(messages) - 1 or conversion.has_tools):
            reason = "removed the prefix mark of a message that is no prefix"
            message = conversion.record_change("R5", message, reason, without(message, "prefix"))
        result.append(message)
    last = result[-1]
    if last["role"] != "assistant" or last.get("prefix"):
        return result
    if conversion.has_tools or calls_of(last):
        user: Message = {"role": "user", "content": CONTINUE_TEXT}
        reason = "had the user say “go on”: a prefix must not be sent with functions"
        return [*result, conversion.record_change("R13", last, reason, user)]
    reason = "made the last message a prefix that the model continues"
    return [*result[:-1], conversion.record_change("R5", last, reason, {**last, "prefix": True})]


RULES: Sequence[Rule] = (
    in_mistrals_form,
    images_within_the_budget,
    thoughts_return_to_their_place,
    only_fields_of_the_schema,
    parts_where_they_may_stand,
    instructions_where_they_stand,
    empty_messages_go,
    words_and_calls_stand_apart,
    calls_in_mistrals_form,
    results_follow_their_calls,
    ids_of_nine_characters,
    the_assistant_answers_a_result,
    the_user_stands_between_words_and_calls,
    neighbours_merge,
    the_user_begins,
    the_last_message_asks_for_a_reply,
)
"""The rules in the order in which they run: each may rely on those before it."""


def apply_rules(messages: Sequence[Message], conversion: Conversion | None = None) -> Messages:
    """Convert a history to one that every Mistral deployment accepts.

    The conversion is idempotent, and a turn added at the end changes nothing before the last turn,
    so that Mistral's prompt cache is hit.

    Neither the list nor a message in it is changed. At least one message is returned.
    """
    conversion = conversion or Conversion()
    if not conversion.begun:
        conversion.begin(messages)
    result = list(messages)
    for rule in RULES:
        result = rule(result, conversion)
    return result


def _may_stand(part: Part, role: str) -> bool:
    return is_text(part) or (role == "assistant" and part.get("type") == "thinking")


def _only_thinks(content: Any) -> bool:
    return not isinstance(content, str) and all(part["type"] == "thinking" for part in content)


def _is_assistant_text(message: Message) -> bool:
    return message["role"] == "assistant" and not calls_of(message)


def _merged(together: Messages, conversion: Conversion) -> Message:
    """Consecutive messages as one; texts before the first list of parts become one text."""
    if len(together) == 1:
        return together[0]
    contents = [message["content"] for message in together]
    texts = list(takewhile(lambda content: isinstance(content, str), contents))
    content: Any = "\n\n".join(texts)
    if len(texts) < len(contents):
        content = list(chain(as_parts(content), *map(as_parts, contents[len(texts) :])))
    made = {name: value for message in together for name, value in message.items()}
    if "prefix" not in together[-1]:
        made.pop("prefix", None)
    return conversion.inherit_index(together[0], {**made, "content": content})


def _may_merge(first: Message, second: Message) -> bool:
    # Calls stay next to their results, and apart from text.
    return first["role"] != "tool" and not calls_of(first) and not calls_of(second)
