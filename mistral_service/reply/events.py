"""The events of a reply, in their order."""

from dataclasses import dataclass, field

from mistral_service.wire.chunks import Usage


@dataclass(frozen=True, slots=True)
class Text:
    """Text for the caller; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning, which is not spoken; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model calls, complete.

    Parameters:
        id: The call's id as the server gave it; None if it gave none.
        name: The function's name.
        arguments: The arguments as JSON text, as the model wrote them; `{}` if it wrote none,
            empty if the reply was cut before them, or the call in the text had none.
        written: Whether it was parsed from the text of the reply, not sent as a call.
    """

    id: str | None
    name: str
    arguments: str
    written: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Markup in the text that cannot be parsed: its beginning, at most 200 characters."""

    markup: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of the reply.

    Parameters:
        reason: The `finish_reason` (`stop`, `length`, `tool_calls`, `error`, …); None if the
            stream ended without one.
        model: The model that answered; empty if never given.
        usage: The tokens; None if never reported.
        calls_left_out: Calls beyond the limit of a reply, which were dropped.
    """

    reason: str | None
    model: str
    usage: Usage | None
    calls_left_out: int = 0


Event = Text | Thought | ToolCall | Unreadable | Finish
"""Text and Thought come as they are streamed, then ToolCalls and Unreadables, then one Finish."""
