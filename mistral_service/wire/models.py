"""The models that a key may ask, as `GET /v1/models` tells them, and what is known without it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mistral_service.wire.errors import printable
from mistral_service.wire.numbers import tokens

_MAX_NAME = 256

DEFAULT_MODEL = "mistral-small-latest"
"""The model asked when none is named: Pipecat's own service asks the same."""

# Mistral's models that think when asked, and take `reasoning_effort` `none` and `high`.
_THINKS_WHEN_ASKED = re.compile(r"mistral-(small|medium)(-latest|-26\d\d|$)")


def fastest_effort(model: str) -> str | None:
    """The `reasoning_effort` that makes a model answer at once.

    Args:
        model: The model's name.

    Returns:
        `none` for Mistral's models that think when asked; None, which sends nothing, for others:
        they do not know the parameter, or cannot help thinking.
    """
    return "none" if _THINKS_WHEN_ASKED.match(model) else None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model of the list.

    Parameters:
        id: The name to ask for.
        aliases: Other names of it.
        chat: Whether it answers chat completions; None where the server does not say, as below.
        function_calling: Whether it calls functions.
        vision: Whether it sees images.
        reasoning: Whether it thinks, and so takes `reasoning_effort`.
        fim: Whether it fills in the middle.
        max_context_length: Tokens that request and reply may have together.
        deprecation: From when on it is gone, as a date in ISO form; None if it stays.
        replacement: The model that takes its place then.
        owned_by: Whose model it is; self-hosted servers name themselves.
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
        """Read an entry of the list.

        Args:
            data: The entry's JSON object; other servers than Mistral's fill in less of it.

        Returns:
            The card; None if the entry names no model.
        """
        name = _text(data.get("id"))
        if name is None:
            return None
        can = _mapping(data.get("capabilities"))
        length = data.get("max_context_length")
        return cls(
            name,
            tuple(filter(None, map(_text, _list(data.get("aliases"))))),
            _truth(can.get("completion_chat")),
            _truth(can.get("function_calling")),
            _sees(data, can),
            _truth(can.get("reasoning")),
            _truth(can.get("completion_fim")),
            tokens(length),
            _text(data.get("deprecation")),
            _text(data.get("deprecation_replacement_model")),
            _text(data.get("owned_by")),
        )


def _sees(data: Mapping[str, Any], can: Mapping[str, Any]) -> bool | None:
    """Mistral says it among what a model can do, llama.cpp and OpenRouter by what it takes in."""
    if "vision" in can:
        return _truth(can.get("vision"))
    taken = _list(_mapping(data.get("architecture")).get("input_modalities"))
    return "image" in taken if taken else None


class Catalogue:
    """What one endpoint offers to one key."""

    def __init__(self, cards: Sequence[ModelCard] = ()) -> None:
        self.cards = tuple(cards)
        self._by_name: dict[str, ModelCard] = {}
        for card in self.cards:
            for name in (card.id, *card.aliases):
                self._by_name.setdefault(name, card)

    @classmethod
    def from_reply(cls, body: object) -> "Catalogue":
        """Read the whole reply.

        Args:
            body: The decoded JSON of `GET /v1/models`: `{"data": [...]}`, or the bare list.

        Returns:
            The catalogue; empty for anything else.
        """
        entries = _list(_mapping(body).get("data", body))
        cards = (ModelCard.from_mapping(_mapping(entry)) for entry in entries)
        return cls([card for card in cards if card is not None])

    def find(self, name: str) -> ModelCard | None:
        """Find a model.

        Args:
            name: Its name, or an alias.

        Returns:
            Its card; None if the endpoint does not list it.
        """
        return self._by_name.get(name)

    @property
    def is_mistrals(self) -> bool:
        """Whether the list tells what models can do, as Mistral's does.

        Servers of one model, as llama.cpp's, list one name and answer to any.
        """
        return any(card.chat is not None for card in self.cards)


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return printable(value, _MAX_NAME) or None if isinstance(value, str) else None


def _truth(value: object) -> bool | None:
    return value if isinstance(value, bool) else None
