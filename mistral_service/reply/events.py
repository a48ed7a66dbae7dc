"""What happens in a reply, in the order in which it happens."""

from dataclasses import dataclass, field

from mistral_service.wire.chunks import Usage


@dataclass(frozen=True, slots=True)
class Text:
    """Words for the caller.

    Parameters:
        text: The words; never empty.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning, which is not for the caller's ears.

    Parameters:
        text: The words; never empty.
    """

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model calls, complete.

    Parameters:
        id: The call's id as the server gave it; None if it gave none.
        name: The function's name.
        arguments: The arguments as JSON text, as the model wrote them; `{}` if it wrote nothing,
            empty if the reply was cut before it wrote them, or the call stood in the text without.
        written: Whether it was read from the text of the reply, rather than sent as a call.
    """

    id: str | None
    name: str
    arguments: str
    written: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Markup for a machine that arrived as text, and of which nothing can be made.

    Parameters:
        markup: Its beginning, at most 200 characters. It is never spoken.
    """

    markup: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of the reply.

    Parameters:
        reason: The server's word for it (`stop`, `length`, `tool_calls`, `error`, …); None if the
            stream ended without one.
        model: The model that answered; empty if never given.
        usage: The tokens; None if never reported.
        calls_left_out: Calls that came after the most that a reply may have, and were not kept.
    """

    reason: str | None
    model: str
    usage: Usage | None
    calls_left_out: int = 0


Event = Text | Thought | ToolCall | Unreadable | Finish
"""Text and Thought come as they are streamed, then ToolCalls and Unreadables, then one Finish."""
