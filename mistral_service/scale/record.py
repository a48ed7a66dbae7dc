"""A call's record: its fields, made and read without holding up the event loop."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from loguru import logger
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mistral_service.scale.resume import ASKED_LONGEST, last_asked
from mistral_service.scale.sealing import UNPACKED_MOST, Form, Unreadable
from mistral_service.scale.snapshot import (
    Journal,
    Snapshot,
    Started,
    calls_to_json,
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
"""Characters from which on work goes to a thread: on the loop it would take over a millisecond."""

Result = TypeVar("Result")


@dataclass
class Record:
    """What was kept of a call.

    Parameters:
        snapshot: The conversation when its last turn began; of turn 0 if there was none yet.
        journal: What was said in that turn.
        started: The functions that were started, by the ids of their calls.
        asked: The caller's last words in the conversation.
    """

    snapshot: Snapshot = field(default_factory=Snapshot)
    journal: Journal = field(default_factory=Journal)
    started: dict[str, Started] = field(default_factory=dict[str, Started])
    asked: str | None = None


class _Remembered(BaseModel):
    """A call as the ledger goes on from it."""

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


_LEDGER = TypeAdapter(list[_Remembered])


async def to_thread_if_large(work: Callable[[], Result], value: Any) -> Result:
    """Do some work, in a thread if what it works on is large.

    Args:
        work: The work. It must hold the interpreter's lock for no longer than a moment at a time.
        value: What it works on.
    """
    return await asyncio.to_thread(work) if weight(value, LARGE) > LARGE else work()


async def packed(
    form: Form,
    kept: Snapshot | Journal | Mapping[str, Started],
    limit: int,
    warned: set[str] | None = None,
) -> bytes:
    """Make the bytes of one field.

    Args:
        form: How they are made.
        kept: What is kept, as it is now.
        limit: Bytes that a conversation's messages may have.
        warned: What was warned of before, see `snapshot_to_json`.
    """
    now: Any = replace(kept) if isinstance(kept, Journal) else kept
    if isinstance(kept, Mapping):
        now = {call_id: replace(call) for call_id, call in kept.items()}

    def pack() -> bytes:
        if isinstance(now, Snapshot):
            return form.pack(snapshot_to_json(now, limit, warned))
        if isinstance(now, Journal):
            return form.pack(journal_to_json(now))
        return form.pack(calls_to_json(now, warned))

    return await to_thread_if_large(pack, now)


async def read(form: Form, fields: Mapping[str, bytes], limit: int) -> Record:
    """Read the fields of a call, in a thread: how large they are shows only there.

    Args:
        form: How they were made.
        fields: `snapshot`, `journal` and `calls`, as far as there are any.
        limit: Bytes that a conversation's messages may have here.

    Raises:
        Unreadable: If they cannot be read here (`TooNew`: a newer version could).
    """
    return await asyncio.to_thread(_read, form, fields, max(UNPACKED_MOST, 3 * limit))


def _read(form: Form, fields: Mapping[str, bytes], most: int) -> Record:
    raw = {name: form.unpack(data, most) for name, data in fields.items()}
    if "snapshot" not in raw:
        return Record()
    calls = raw.get("calls", {})
    if not isinstance(calls, dict):
        raise _damaged("calls")
    record = Record(
        _sound(snapshot_from_json(raw["snapshot"])),
        journal_from_json(raw.get("journal", {})),
        {name: started_from_json(call) for name, call in cast("dict[str, Any]", calls).items()},
    )
    asked = last_asked(record.snapshot.messages)
    record.asked = asked[-ASKED_LONGEST:] if asked is not None else None
    return record


def _sound(snapshot: Snapshot) -> Snapshot:
    """A snapshot that a service can go on from.

    Raises:
        Unreadable: If it could not.
    """
    try:
        _LEDGER.validate_python(snapshot.ledger)
    except ValidationError:
        raise _damaged("ledger") from None
    for message in map(plain, snapshot.messages):
        if not _is_message(message):
            raise _damaged("messages")
    return replace(snapshot, settings=_valid(snapshot.settings))


def _is_message(message: dict[str, Any]) -> bool:
    """Whether a message breaks nothing: what Mistral refuses of it, the message rules mend."""
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


def _valid(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that this version takes; a newer one may have others, or know more values."""
    valid: dict[str, Any] = {}
    for name, value in settings.items():
        try:
            check_settings(MistralLLMSettings(**{name: value}))
        except (TypeError, AttributeError, BadSetting):
            logger.warning(f"A setting of a call that was taken over is not valid here: {name}")
        else:
            valid[name] = value
    return valid


def _damaged(name: str) -> Unreadable:
    return Unreadable(
        f"What was kept of the call is damaged: {name} is not of the form that it may have."
    )
