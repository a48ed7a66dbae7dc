"""The models that a key may use, from `GET /v1/models`, and what is known without it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistral_service.wire.errors import printable
from mistral_service.wire.numbers import tokens
from mistral_service.wire.trees import list_of, object_of, objects_of

_MAX_NAME = 256

DEFAULT_MODEL = "mistral-small-latest"
"""The default model, the same as in Pipecat's own service."""

# Mistral's models with optional reasoning, which take `reasoning_effort` `none` and `high`.
_OPTIONAL_REASONING = re.compile(r"mistral-(small|medium)(-latest|-26\d\d|$)")


def fastest_effort(model: str) -> str | None:
    """The `reasoning_effort` with which a model answers without reasoning.

    It is `none` for Mistral's models with optional reasoning; None, which omits the parameter, for
    models that do not know it, or always reason.
    """
    return "none" if _OPTIONAL_REASONING.match(model) else None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model of the list.

    Parameters:
        id: The name to ask for.
        aliases: Other names of it.
        chat: Whether it has chat completions; None if the server does not say, as below.
        function_calling: Whether it calls functions.
        vision: Whether it has vision.
        reasoning: Whether it reasons, and so takes `reasoning_effort`.
        fim: Whether it has fill-in-the-middle completions.
        max_context_length: Tokens that request and reply may have together.
        deprecation: The date of its retirement, in ISO form; None if there is none.
        replacement: The model that replaces it then.
        owned_by: Its owner; self-hosted servers put their own name here.
    """

    id: str
    aliases: tuple[str, ...] = ()
    chat: bool | None = None
    function_calling: bool | None = None
    vision: bool | None = None
    reasoning: bool | None = None
    fim: bool | None = None
    max_context_length: int | None = None
    deprecation: str | None = None
    replacement: str | None = None
    owned_by: str | None = None

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> "ModelCard | None":
        """Parse an entry of the list; None if it names no model.

        The entries of servers other than Mistral's have fewer fields.
        """
        name = _text(data.get("id"))
        if name is None:
            return None
        can = object_of(data.get("capabilities"))
        return cls(
            name,
            tuple(filter(None, map(_text, list_of(data.get("aliases"))))),
            _bool(can.get("completion_chat")),
            _bool(can.get("function_calling")),
            _sees(data, can),
            _bool(can.get("reasoning")),
            _bool(can.get("completion_fim")),
            tokens(data.get("max_context_length")),
            _text(data.get("deprecation")),
            _text(data.get("deprecation_replacement_model")),
            _text(data.get("owned_by")),
        )


def _sees(data: Mapping[str, Any], can: Mapping[str, Any]) -> bool | None:
    """Mistral has it as a capability, llama.cpp and OpenRouter as an input modality."""
    if "vision" in can:
        return _bool(can.get("vision"))
    taken = list_of(object_of(data.get("architecture")).get("input_modalities"))
    return "image" in taken if taken else None


class Catalogue:
    """The models of one endpoint that one key may use."""

    def __init__(self, cards: Sequence[ModelCard] = ()) -> None:
        self.cards = tuple(cards)
        self._by_name: dict[str, ModelCard] = {}
        for card in self.cards:
            for name in (card.id, *card.aliases):
                self._by_name.setdefault(name, card)

    @classmethod
    def from_reply(cls, body: object) -> "Catalogue":
        """Parse the JSON of `GET /v1/models`: `{"data": [...]}`, or the bare list.

        The catalogue is empty for anything else.
        """
        entries = objects_of(object_of(body).get("data", body))
        return cls([card for card in map(ModelCard.from_mapping, entries) if card is not None])

    def find(self, name: str) -> ModelCard | None:
        """The model of a name or an alias; None if the endpoint does not list it."""
        return self._by_name.get(name)

    @property
    def is_mistrals(self) -> bool:
        """Whether the list has capabilities, as Mistral's does.

        A server of one model, such as llama.cpp's, lists one name and accepts any.
        """
        return any(card.chat is not None for card in self.cards)


def _text(value: object) -> str | None:
    return printable(value, _MAX_NAME) or None if isinstance(value, str) else None


def _bool(value: object) -> bool | None:
    return value if isinstance(value, bool) else None
