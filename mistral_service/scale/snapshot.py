"""What of a conversation is kept, and how it becomes bytes: pure, versioned, bounded."""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from loguru import logger
from pipecat.processors.aggregators.llm_context import LLMContextMessage, LLMSpecificMessage

VERSION = 1
"""The form in which this version keeps a conversation."""

LIMIT = 4_000_000
"""Bytes that the messages of a conversation may have, as JSON and before they are compressed."""

NOT_KEPT = "[What was shown here was too large to be kept.]"
"""What stands in place of a picture that a kept conversation has no room for."""

KEY_VARIABLE = "MISTRAL_SERVICE_KEEP_KEY"

_SHOWN = ("image_url", "input_audio", "file_base64")
_FIRST = ("system", "developer")

Json = dict[str, Any]


class Unreadable(ValueError):
    """What was kept cannot be read here: another key, or another form."""


class TooNew(Unreadable):
    """A newer version has kept it, and this one does not know its form."""


@dataclass
class Snapshot:
    """A conversation at the beginning of a turn.

    Parameters:
        turn: The turn's number, from 1.
        messages: The context's messages.
        opened_with: Marks of the user's messages that stood there when the first turn began, by
            which another bot's opening is known again.
        settings: The service's settings, as far as JSON can hold them.
        ledger: The calls of functions that are known, as `Ledger.kept` gives them.
        proof_key: The call's secret, with which what its caller was sent is signed.
    """

    turn: int = 0
    messages: list[LLMContextMessage] = field(default_factory=list[LLMContextMessage])
    opened_with: list[str] = field(default_factory=list[str])
    settings: Json = field(default_factory=dict[str, Any])
    ledger: list[Json] = field(default_factory=list[Json])
    proof_key: str = ""


@dataclass
class Journal:
    """What was said in a turn.

    Parameters:
        turn: The turn's number.
        words: The words that went out.
        complete: Whether the reply has come to its end.
        asked: The caller's words that it answers, as they were before a bot rewrote them.
    """

    turn: int = 0
    words: str = ""
    complete: bool = False
    asked: str = ""


@dataclass
class Started:
    """A function that was started.

    Parameters:
        name: The function's name.
        arguments: Its arguments.
        turn: The turn in which it was called.
        result: Its result as the model reads it; None as long as there is none.
    """

    name: str
    arguments: Json
    turn: int
    result: str | None = None


class Form:
    """How what is kept becomes bytes and back: JSON, compressed, and sealed where there is a key.

    Example::

        Form(["…a key of Fernet.generate_key()…"]).pack({"words": "Hello."})
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Make the form.

        Args:
            keys: Fernet keys. The first seals, all of them open, so that keys can be changed.

        Raises:
            ValueError: If one is no Fernet key.
        """
        try:
            self._seal = MultiFernet([Fernet(key) for key in keys]) if keys else None
        except ValueError:
            # The key itself is told to nobody.
            raise ValueError(
                f"{KEY_VARIABLE} may not be what it is: it is one key of Fernet.generate_key(), or "
                "several with commas between them."
            ) from None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Form":
        """Make the form with the keys of `MISTRAL_SERVICE_KEEP_KEY`, or of the file it names.

        Args:
            environment: By default the process's own.

        Returns:
            The form; one that seals nothing, where there is no key.

        Raises:
            ValueError: If a key is none, or the file of `MISTRAL_SERVICE_KEEP_KEY_FILE` cannot be
                read.
        """
        environment = os.environ if environment is None else environment
        given = environment.get(KEY_VARIABLE, "")
        if path := environment.get(f"{KEY_VARIABLE}_FILE"):
            try:
                given = Path(path).read_text()
            except OSError as e:
                raise ValueError(f"{KEY_VARIABLE}_FILE cannot be read: {e.strerror}") from None
        return cls([key for part in given.split(",") if (key := part.strip())])

    def pack(self, text: str) -> bytes:
        """Make bytes of a JSON text."""
        packed = zlib.compress(text.encode(), 1)
        return self._seal.encrypt(packed) if self._seal else packed

    def unpack(self, data: bytes) -> Any:
        """Make bytes what they were.

        Raises:
            Unreadable: If they were sealed with another key, or are damaged.
        """
        try:
            return json.loads(zlib.decompress(self._seal.decrypt(data) if self._seal else data))
        except (InvalidToken, zlib.error, ValueError):
            raise Unreadable(
                "What was kept of the call cannot be read: it is damaged, or sealed with a key "
                f"that {KEY_VARIABLE} does not have."
            ) from None


def snapshot_to_json(snapshot: Snapshot, limit: int = LIMIT) -> str:
    """Write a snapshot as JSON.

    Args:
        snapshot: The snapshot; left as it is.
        limit: Bytes that its messages may have. Over it the oldest pictures give way to a mark,
            then the oldest messages after those of the system.
    """
    messages = _bounded([_plain(message) for message in snapshot.messages], limit)
    rest = {
        "version": VERSION,
        "turn": snapshot.turn,
        "opened_with": snapshot.opened_with,
        "settings": snapshot.settings,
        "ledger": snapshot.ledger,
        "proof_key": snapshot.proof_key,
    }
    return f'{_dumps(rest)[:-1]}, "messages": [{", ".join(messages)}]}}'


def snapshot_from_json(data: Any) -> Snapshot:
    """Read a snapshot.

    Raises:
        TooNew: If a newer version wrote it.
    """
    version = data.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise TooNew(
            f"The call was kept by a newer version (form {version}; this one reads up to "
            f"{VERSION}): it can be taken up where that version runs."
        )
    for older in range(version, VERSION):
        data = MIGRATIONS[older](data)
    return Snapshot(
        turn=data["turn"],
        messages=[_message(message) for message in data["messages"]],
        opened_with=data["opened_with"],
        settings=data["settings"],
        ledger=data["ledger"],
        proof_key=data.get("proof_key", ""),
    )


MIGRATIONS: dict[int, Any] = {}
"""What makes of a snapshot of a version one of the next.

A field that an older version can do without is no new version: it has a default where it is read,
and who does not know it leaves it out.
"""


def journal_from_json(data: Json) -> Journal:
    """Read a journal."""
    return Journal(**_known(Journal, data))


def started_from_json(data: Json) -> Started:
    """Read a function that was started."""
    return Started(**_known(Started, data))


def _known(kind: type[Journal | Started], data: Json) -> Json:
    """What this version knows of it: while machines are updated, a newer one may have kept it."""
    return {f.name: data[f.name] for f in fields(kind) if f.name in data}


def keepable(settings: Mapping[str, Any]) -> Json:
    """Of settings by name, those that JSON gives back as they were."""
    kept: Json = {}
    for name, value in settings.items():
        try:
            if json.loads(json.dumps(value, allow_nan=False)) == value:
                kept[name] = value
        except (TypeError, ValueError):
            continue
    return kept


def _plain(message: LLMContextMessage) -> Json:
    if isinstance(message, LLMSpecificMessage):
        return {"llm": message.llm, "message": message.message}
    return cast(Json, message)


def _message(plain: Json) -> LLMContextMessage:
    if "role" not in plain and "llm" in plain:
        return LLMSpecificMessage(llm=plain["llm"], message=plain["message"])
    return cast(LLMContextMessage, plain)


def _dumps(value: Any) -> str:
    # What JSON does not know is kept as its text rather than not at all.
    return json.dumps(value, default=str)


def _bounded(messages: list[Json], limit: int) -> list[str]:
    """The messages as JSON, and no more bytes of them than there may be."""
    written = [_dumps(message) for message in messages]
    size = sum(map(len, written))
    if size <= limit:
        return written
    pictures = 0
    for i, message in enumerate(messages):
        if size <= limit:
            break
        content = message.get("content")
        parts = cast("list[Any]", content) if isinstance(content, list) else []
        for place, part in enumerate(parts):
            if size > limit and isinstance(part, dict) and cast(Json, part).get("type") in _SHOWN:
                parts = [*parts[:place], {"type": "text", "text": NOT_KEPT}, *parts[place + 1 :]]
                text = _dumps({**message, "content": parts})
                size += len(text) - len(written[i])
                written[i] = text
                pictures += 1
    first = next((i for i, m in enumerate(messages) if m.get("role") not in _FIRST), len(messages))
    last = first
    while size > limit and last < len(written) - 1:
        size -= len(written[last])
        last += 1
    logger.warning(
        f"The conversation is larger than is kept ({limit} bytes): {pictures} pictures and "
        f"{last - first} of the oldest messages would not survive its machine"
    )
    return written[:first] + written[last:]
