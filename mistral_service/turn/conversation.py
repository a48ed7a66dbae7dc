"""What a turn asks about, whatever holds it: a Pipecat context, or a list of messages."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

from mistral_service.turn.router import Needs


class Conversation(Protocol):
    """The messages and functions of a request; each method returns another conversation."""

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The messages, in the form of OpenAI, Mistral or another API."""
        ...

    @property
    def tools(self) -> object:
        """The functions that are offered; None or empty without any."""
        ...

    @property
    def needs(self) -> Needs:
        """What the model that answers has to be able to do."""
        ...

    def continued(self, words: str) -> Self | None:
        """The conversation in which a reply goes on that was cut after some words.

        None where such a reply has to begin anew, as JSON has.
        """
        ...

    def reminded(self, note: str, words: str) -> Self:
        """The conversation with the reply's words, if any, and an instruction behind it."""
        ...

    def without_functions(self) -> Self:
        """The conversation in which the model has to answer in words."""
        ...
