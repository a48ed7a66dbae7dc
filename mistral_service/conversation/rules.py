"""The rules for a conversation that every Mistral deployment accepts, one pure function each.

Each takes and returns a plain list of message dicts. A message that may not stand where it stands
is moved, merged or restated; what was said in it is never lost. Messages that a rule does not
change are shared with the input, never altered in place, and what it does change it records in
the `Conversion`, with its reason.

`docs/rules.md` has every rule with its number, the error it prevents, and an example.
"""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, cast

from mistral_service.conversation.calls import (
    calls_in_mistrals_form,
    calls_of,
    ids_of_nine_characters,
    results_follow_their_calls,
)
from mistral_service.conversation.conversion import Conversion, Message, Messages, without
from mistral_service.conversation.foreign import in_mistrals_form
from mistral_service.conversation.images import images_within_the_budget
from mistral_service.conversation.parts import (
    Part,
    as_parts,
    for_server,
    has_content,
    in_words,
    is_text,
    mistrals_part,
    said_elsewhere,
    text_of,
)
from mistral_service.conversation.thoughts import thoughts_return_to_their_place
from mistral_service.wire.servers import GO_ON

Rule = Callable[[Messages, Conversion], Messages]

BRIDGE = "Understood."
"""What the assistant says between a function's result and the user's next words (R2)."""

OPENING = "(The conversation begins.)"
"""What the user says where a conversation has to begin with the user and does not (R5, R12)."""

INSTRUCTION = "[Instruction] "
"""What marks an instruction that stands later than the system block (R1)."""

_FIELDS: dict[Any, frozenset[str]] = {
    "system": frozenset({"role", "content"}),
    "developer": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "tool_calls", "prefix"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
}


# Fields of the schema that may stand there empty, which is as good as absent.
_NEEDLESS = frozenset({"tool_calls", "prefix"})


def only_fields_of_the_schema(messages: Messages, conversion: Conversion) -> Messages:
    """R9: a message has the fields of its role and no other.

    A refusal, or the transcript of an assistant's audio, stands in for words that are missing; a
    role that Mistral does not know becomes the user's text. Prevents 422 `extra_forbidden`.
    """
    result: Messages = []
    for message in messages:
        fields = _FIELDS.get(message.get("role"))
        if (
            fields is not None
            and fields.issuperset(message)
            and not _NEEDLESS.intersection(message)
        ):
            pass  # The common case, decided without making anything.
        elif fields is None:
            text = f"[{message.get('role')}] {text_of(message.get('content'))}"
            reason = f"kept a message of the role {message.get('role')!r} as text"
            message = conversion.record_change(
                "R9", message, reason, {"role": "user", "content": text}
            )
        else:
            other = message.keys() - fields
            empty = [name for name in _NEEDLESS if not message.get(name, True)]
            if other or empty:
                kept = without(message, *other, *empty)
                if words := said_elsewhere(message):
                    kept["content"] = words
                reason = f"left out {', '.join(sorted([*other, *empty]))}"
                message = conversion.record_change("R9", message, reason, kept)
        result.append(message)
    return result


def parts_where_they_may_stand(messages: Messages, conversion: Conversion) -> Messages:
    """R9, R15: parts have Mistral's form, and only the user shows images, files and sound.

    OpenAI's `file` and `input_audio` are respelled. What a system, assistant or tool message shows
    is shown by a user message behind it, in order; a resource of words, and a link, are words
    there. So is what the server does not know. System and tool content is plain text. Prevents
    422 for the form, and "Unexpected content chunk types".
    """
    result: Messages = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str) or (content is None and message["role"] == "assistant"):
            result.append(message)
            continue
        given = cast("list[Any]", content) if isinstance(content, list) else []
        formed = [mistrals_part(part) for part in given]
        if conversion.parts is not None:
            formed = [part and for_server(part, conversion.parts) for part in formed]
        if not (conversion.takes_thoughts and message["role"] == "assistant"):
            # Thoughts are nobody's words, and most models refuse to be given them.
            formed = [part if part and part["type"] != "thinking" else None for part in formed]
        parts = [part for part in formed if part is not None]
        shown: list[Part] = []
        if message["role"] != "user":
            parts = [in_words(part) for part in parts]
            shown = [part for part in parts if not _may_stand(part, message["role"])]
            parts = [part for part in parts if _may_stand(part, message["role"])]
        if all(is_text(part) for part in parts):
            # Words alone are a string: the templates of older models know no lists.
            words = "\n".join(part["text"] for part in parts)
            reason = "wrote its text parts as one text"
            message = conversion.record_change(
                "R15", message, reason, {**message, "content": words}
            )
        elif len(parts) != len(given) or any(
            new is not old for new, old in zip(formed, given, strict=True)
        ):
            reason = "brought its parts into Mistral's form"
            message = conversion.record_change("R9", message, reason, {**message, "content": parts})
        result.append(message)
        if shown:
            reason = f"had the user show what a {message['role']} message may not"
            behind: Message = {"role": "user", "content": shown}
            result.append(conversion.record_change("R15", message, reason, behind))
    return result


def instructions_where_they_stand(messages: Messages, conversion: Conversion) -> Messages:
    """R1, R14: `system` stands only at the beginning, and there is no `developer` role.

    A leading `developer` message joins the system block. An instruction later in the conversation
    keeps its place in time as a user turn, marked as an instruction. Prevents 400 code 3230
    "Unexpected role 'system' after role …", and 422 for `developer`.
    """
    result: Messages = []
    leading = True
    for message in messages:
        role = message["role"]
        if role not in ("system", "developer"):
            leading = False
        elif not has_content(message.get("content")):
            conversion.note("R1", message, f"left out an empty {role} message")
            continue
        elif not leading:
            text = INSTRUCTION + text_of(message["content"])
            reason = f"kept a {role} message in its place as an instruction by the user"
            message = conversion.record_change(
                "R1", message, reason, {"role": "user", "content": text}
            )
        elif role == "developer":
            reason = "made a leading developer message part of the system block"
            message = conversion.record_change(
                "R14", message, reason, {**message, "role": "system"}
            )
        result.append(message)
    return result


def empty_messages_go(messages: Messages, conversion: Conversion) -> Messages:
    """R7: a message of the assistant or the user says something.

    One that has neither words nor calls says nothing, so nothing is lost with it. Prevents 400
    "must have either content or tool_calls", which also comes disguised as "Service unavailable."
    (3600).
    """
    result: Messages = []
    for message in messages:
        content = message.get("content")
        if (
            not (content.strip() if isinstance(content, str) else content)
            and message["role"] in ("assistant", "user")
            and not message.get("tool_calls")
        ):
            conversion.note("R7", message, f"left out an empty {message['role']} message")
        else:
            result.append(message)
    return result


def words_and_calls_stand_apart(messages: Messages, conversion: Conversion) -> Messages:
    """R8: words and calls are two messages; a thought stays with the call it led to.

    Prevents "must have either content or tool_calls, but not both" of tokenizers before v7.
    """
    result: Messages = []
    for message in messages:
        if (
            not message.get("tool_calls")
            or not message.get("content")
            or _only_thinks(message["content"])
        ):
            result.append(message)
        elif has_content(message["content"]):
            reason = "parted words and calls"
            result.append(
                conversion.record_change("R8", message, reason, without(message, "tool_calls"))
            )
            result.append(conversion.stands_for(message, without(message, "content", "prefix")))
        else:
            reason = "left out the blank beside its calls"
            result.append(
                conversion.record_change("R8", message, reason, without(message, "content"))
            )
    return result


def the_assistant_answers_a_result(messages: Messages, conversion: Conversion) -> Messages:
    """R2: after a function's result comes the assistant, never the user.

    A bridge of one word stands between them, and nowhere else: a turn that ends with results goes
    out as it is, so that the model may call again. Prevents 400 code 3230 "Unexpected role 'user'
    after role 'tool'".
    """
    result: Messages = []
    for message in messages:
        if message["role"] == "user" and result and result[-1]["role"] == "tool":
            reason = "had the assistant take note of a result before the user goes on"
            bridge: Message = {"role": "assistant", "content": BRIDGE}
            result.append(conversion.record_change("R2", message, reason, bridge))
        result.append(message)
    return result


def the_user_stands_between_words_and_calls(messages: Messages, conversion: Conversion) -> Messages:
    """R12: where the assistant speaks and then calls, the user says "go on" in between.

    Templates count words followed by an answer as two turns of the assistant. Prevents
    "conversation roles must alternate".
    """
    result: Messages = []
    for message in messages:
        if message.get("tool_calls") and result and _speaks(result[-1]):
            reason = "had the user say “go on” between the assistant's words and its call"
            go_on: Message = {"role": "user", "content": GO_ON}
            result.append(conversion.record_change("R12", message, reason, go_on))
        result.append(message)
    return result


def neighbours_merge(messages: Messages, conversion: Conversion) -> Messages:
    """R12: user and assistant take turns, and there is one system message.

    Neighbours of one role become one message; text joins with a blank line, lists of parts are
    joined in order. Prevents "conversation roles must alternate" of self-hosted templates.
    """
    result: Messages = []
    together: Messages = []
    for message in messages:
        last = together[-1] if together else None
        if last is not None and last["role"] == message["role"] and _may_merge(last, message):
            conversion.note("R12", message, f"joined it to the {message['role']} message before it")
        elif together:
            result.append(_merged(together, conversion))
            together = []
        together.append(message)
    return [*result, _merged(together, conversion)] if together else result


def the_user_begins(messages: Messages, conversion: Conversion) -> Messages:
    """R5, R12: after the system block the user speaks first, and somebody speaks.

    A greeting by the assistant gets an opening before it; so does a conversation of instructions
    alone. Prevents "conversation roles must alternate" of self-hosted templates, and "Expected
    last role User or Tool".
    """
    start = next(
        (i for i, message in enumerate(messages) if message["role"] != "system"), len(messages)
    )
    if start < len(messages) and messages[start]["role"] == "user":
        return messages
    opening: Message = {"role": "user", "content": OPENING}
    place = messages[min(start, len(messages) - 1)] if messages else opening
    conversion.record_change("R12", place, "had the user open the conversation", opening)
    return [*messages[:start], opening, *messages[start:]]


def the_last_message_asks_for_a_reply(messages: Messages, conversion: Conversion) -> Messages:
    """R5, R13: the last message is the user's, a result, or a prefix to go on from.

    Where functions are offered a prefix is refused, so the user says "go on" instead; a prefix
    that the conversation has left behind is an ordinary message. Prevents "Expected last role User
    or Tool (or Assistant with prefix True)", and "Cannot set an assistant prefix with function
    calling".
    """
    result: Messages = []
    for i, message in enumerate(messages):
        if message.get("prefix") and (i < len(messages) - 1 or conversion.has_tools):
            reason = "took back a prefix that is none any more"
            message = conversion.record_change("R5", message, reason, without(message, "prefix"))
        result.append(message)
    last = result[-1]
    if last["role"] != "assistant" or last.get("prefix"):
        return result
    if conversion.has_tools or calls_of(last):
        go_on: Message = {"role": "user", "content": GO_ON}
        reason = "had the user say “go on”: a prefix may not be sent with functions"
        return [*result, conversion.record_change("R13", last, reason, go_on)]
    reason = "made the last message a prefix, for the model to go on from"
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
    """Make a history one that every Mistral deployment accepts.

    Running the rules on their own result changes nothing, and a turn added at the end changes
    nothing before the last turn, so that Mistral's prompt cache is hit.

    Args:
        messages: The messages; neither the list nor a message in it is changed.
        conversion: What is known of the request; it records every change.

    Returns:
        The messages to send: at least one.
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
    return isinstance(content, list) and all(
        part.get("type") == "thinking" for part in as_parts(content)
    )


def _speaks(message: Message) -> bool:
    return message["role"] == "assistant" and not calls_of(message)


def _merged(together: Messages, conversion: Conversion) -> Message:
    """Neighbours as one message; text before the first list of parts is one text."""
    if len(together) == 1:
        return together[0]
    contents = [message["content"] for message in together]
    texts = list(takewhile(lambda content: isinstance(content, str), contents))
    content: Any = "\n\n".join(texts)
    if len(texts) < len(contents):
        content = as_parts(content)
        for each in contents[len(texts) :]:
            content += as_parts(each)
    made: Message = {}
    for message in together:
        made |= message
    if "prefix" not in together[-1]:
        made.pop("prefix", None)
    return conversion.stands_for(together[0], {**made, "content": content})


def _may_merge(first: Message, second: Message) -> bool:
    # Calls stay next to their results, and apart from words.
    return first["role"] != "tool" and not calls_of(first) and not calls_of(second)
