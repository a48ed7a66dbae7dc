"""A call's record in Redis: its fields, written and read without blocking the event loop."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

from loguru import logger
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mistral_service.scale.resume import MAX_ASKED, last_asked
from mistral_service.scale.sealing import MAX_UNPACKED_BYTES, Codec
from mistral_service.scale.snapshot import (
    Journal,
    Snapshot,
    Started,
    calls_to_json,
    damaged,
    journal_from_json,
    journal_to_json,
    plain,
    snapshot_from_json,
    snapshot_to_json,
    started_from_json,
)
from mistral_service.settings import BadSetting, MistralLLMSettings, check_settings
from mistral_service.wire.weight import weight

LARGE = 64_000
"""Characters above which work runs in a thread: on the loop it would take over a millisecond."""

Result = TypeVar("Result")


@dataclass
class Record:
    """The record of a call.

    Parameters:
        snapshot: The conversation when its last turn began; of turn 0 if there was none yet.
        journal: What the bot has said in that turn.
        started: The functions that have started, by the ids of their calls.
        asked: The user's last words in the conversation.
    """

    snapshot: Snapshot = field(default_factory=Snapshot)
    journal: Journal = field(default_factory=Journal)
    started: dict[str, Started] = field(default_factory=dict[str, Started])
    asked: str | None = None


class _LedgerEntry(BaseModel):
    """A function call of the service's ledger."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    id: str
    name: str
    arguments: str
    result: str | None
    in_context: bool
    this_turn: bool
    settled: bool = False
    repetition: int = -1
    floor: int = 0


_LEDGER = TypeAdapter(list[_LedgerEntry])


async def to_thread_if_large(work: Callable[[], Result], value: Any) -> Result:
    """Run a function, in a thread if its input `value` is large.

    It must hold the interpreter's lock for a moment at a time only.
    """
    return await asyncio.to_thread(work) if weight(value, LARGE) > LARGE else work()


async def pack_field(
    codec: Codec,
    value: Snapshot | Journal | Mapping[str, Started],
    limit: int,
    warned: set[str] | None = None,
) -> bytes:
    """Pack one field as it is now; for `limit` and `warned` see `snapshot_to_json`."""
    if isinstance(value, Snapshot):
        now, to_json = value, partial(snapshot_to_json, value, limit, warned)
    elif isinstance(value, Journal):
        now = replace(value)
        to_json = partial(journal_to_json, now)
    else:
        now = {call_id: replace(call) for call_id, call in value.items()}
        to_json = partial(calls_to_json, now, warned)
    return await to_thread_if_large(lambda: codec.pack(to_json()), now)


async def read_record(codec: Codec, fields: Mapping[str, bytes], limit: int) -> Record:
    """Read the fields of a call, in a thread: their unpacked size is known only there.

    Raises:
        Unreadable: If they cannot be read here (`TooNew`: a newer version could).
    """
    return await asyncio.to_thread(_read, codec, fields, max(MAX_UNPACKED_BYTES, 3 * limit))


def _read(codec: Codec, fields: Mapping[str, bytes], most: int) -> Record:
    raw = {name: codec.unpack(data, most) for name, data in fields.items()}
    if "snapshot" not in raw:
        return Record()
    calls = raw.get("calls", {})
    if not isinstance(calls, dict):
        raise damaged("calls")
    record = Record(
        _validated(snapshot_from_json(raw["snapshot"])),
        journal_from_json(raw.get("journal", {})),
        {name: started_from_json(call) for name, call in cast("dict[str, Any]", calls).items()},
    )
    asked = last_asked(record.snapshot.messages)
    record.asked = asked[-MAX_ASKED:] if asked is not None else None
    return record


def _validated(snapshot: Snapshot) -> Snapshot:
    """The snapshot, if a service can continue with it; raises `Unreadable` otherwise."""
    try:
        _LEDGER.validate_python(snapshot.ledger)
    except ValidationError:
        raise damaged("ledger") from None
    for message in map(plain, snapshot.messages):
        if not _is_message(message):
            raise damaged("messages")
    return replace(snapshot, settings=_valid_settings(snapshot.settings))


def _is_message(message: dict[str, Any]) -> bool:
    """Whether a message has the types that the message rules can repair."""
    calls: Any = message.get("tool_calls") or []
    content: Any = message.get("content")
    return (
        isinstance(message.get("role", ""), str)
        and isinstance(message.get("llm", ""), str)
        and isinstance(content, str | list | None)
        and isinstance(calls, list)
        and all(
            isinstance(call, dict)
            and isinstance(cast("dict[str, Any]", call).get("function") or {}, dict)
            for call in cast("list[Any]", calls)
        )
    )


def _valid_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that this version takes; a newer one may have others, or allow more values."""
    valid: dict[str, Any] = {}
    for name, value in settings.items():
        try:
            check_settings(MistralLLMSettings(**{name: value}))
        except (TypeError, AttributeError, BadSetting):
            logger.warning(f"A setting of a call that was taken over is not valid here: {name}")
        else:
            valid[name] = value
    return valid
