"""What a method of the client asks, as a turn sees it: messages, or code to fill in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from mistral_service.client.parameters import ChatParameters, SamplingParameters
from mistral_service.conversation.continued import continued
from mistral_service.conversation.conversion import Conversion
from mistral_service.conversation.images import has_images
from mistral_service.conversation.parts import text_of
from mistral_service.conversation.rules import apply_rules
from mistral_service.conversation.tools import convert_tools
from mistral_service.turn.router import Needs
from mistral_service.wire.client import CHAT
from mistral_service.wire.request import function_names

_FIM = "/fim/completions"

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation of messages.

    Parameters:
        messages: The messages, in any form that the rules know.
        asking: How it is to be answered.
        is_whole: Whether only the whole reply is of use.
    """

    messages: Sequence[Message]
    asking: ChatParameters
    is_whole: bool = False
    path: str = CHAT

    @property
    def tools(self) -> object:
        """The functions that are offered."""
        return self.asking.get("tools")

    @property
    def needs(self) -> Needs:
        """What the model that answers has to be able to do."""
        return Needs(bool(self.tools), lambda: has_images(self.messages))

    def continued(self, words: str) -> Self | None:
        """The messages in which a reply goes on that was cut.

        JSON begins anew, and so does a whole reply with functions, which allow no prefix.
        """
        form = self.asking.get("response_format") or {"type": "text"}
        if form.get("type") != "text" or (self.is_whole and self.tools):
            return None
        return replace(self, messages=continued(self.messages, words))

    def reminded(self, note: str, words: str) -> Self:
        """The messages with an instruction behind them."""
        said = [{"role": "assistant", "content": words}] if words.strip() else []
        instruction = {"role": "developer", "content": note}
        return replace(self, messages=[*self.messages, *said, instruction])

    def without_functions(self) -> Self:
        """The messages, to be answered in words."""
        return replace(self, asking={**self.asking, "tool_choice": "none"})

    def params(self, model: str, parts: frozenset[str] | None) -> tuple[dict[str, Any], Conversion]:
        """The parameters of the request to a model, and what the rules did.

        Args:
            model: The model that is asked.
            parts: The kinds of parts that the server knows; None for all of Mistral's.
        """
        params: dict[str, Any] = {**self.asking}
        offered = convert_tools(params.pop("tools", None) or [])
        if "tool_choice" in params:
            params["tool_choice"] = offered.choice(params["tool_choice"])
        has_tools = bool(offered.tools) and params.get("tool_choice") != "none"
        conversion = Conversion(has_tools=has_tools, parts=parts)
        conversion.offered = function_names(offered.tools)
        conversion.names = offered.names
        conversion.tool_faults = offered.faults
        sent = apply_rules([dict(message) for message in self.messages], conversion)
        if sent[-1].get("prefix"):
            conversion.prefix = text_of(sent[-1].get("content"))
        return {"model": model, "messages": sent, "tools": offered.tools, **params}, conversion


@dataclass(frozen=True, slots=True)
class Fim:
    """Code with a gap, between a prompt and a suffix."""

    prompt: str
    suffix: str | None
    sampling: SamplingParameters
    path: str = _FIM
    messages: Sequence[Message] = ()
    tools: object = None
    needs: Needs = Needs(functions=False, has_images=lambda: False)

    def continued(self, words: str) -> Self | None:
        """Code begins anew: what it repeats cannot be distinguished from code that is alike."""
        return None

    def reminded(self, note: str, words: str) -> Self:
        """Code is not reminded of anything."""
        return self

    def without_functions(self) -> Self:
        """There are no functions."""
        return self

    def params(self, model: str, parts: frozenset[str] | None) -> tuple[dict[str, Any], Conversion]:
        """The parameters of the request."""
        asked = {"model": model, "prompt": self.prompt, "suffix": self.suffix, **self.sampling}
        return asked, Conversion()


ClientRequest = Chat | Fim
