"""What of a conversation is kept, and how it becomes bytes: pure, versioned, bounded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, TypeVar, cast

from loguru import logger
from pipecat.processors.aggregators.llm_context import LLMContextMessage, LLMSpecificMessage
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    TypeAdapter,
    ValidationError,
)

from mistral_service.scale.keepable import keepable as keepable
from mistral_service.scale.pieces import pieces
from mistral_service.scale.sealing import Form as Form
from mistral_service.scale.sealing import Unreadable as Unreadable

VERSION = 1
"""The form in which this version keeps a conversation."""

LIMIT = 4_000_000
"""Bytes that the messages of a conversation may have, as JSON and before they are compressed."""

NOT_KEPT = "[What was shown here was too large to be kept.]"
"""What stands in place of a picture that a kept conversation has no room for."""

WORDS_MOST = 100_000
"""Characters of a reply that are kept: some two hours of speech."""

CALL_MOST = 200_000
"""Bytes that the arguments of a function that was started may have, and as many its result."""

CALLS_MOST = 1_000_000
"""Bytes that all functions may have that were started and are not settled; and those that the
ledger remembers."""

MARKS_MOST = 10_000
"""Messages of a bot's opening that are known again."""

TOO_LARGE = "[What stood here was too large to be kept.]"
"""What stands in place of a text, of arguments or of a result that is too large."""

_SHOWN = ("image_url", "input_audio", "file_base64")
_FIRST = ("system", "developer")

Json = dict[str, Any]
Whole = Annotated[int, Field(strict=True, ge=0, le=2**53)]


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
    """

    turn: int = 0
    messages: list[LLMContextMessage] = field(default_factory=list[LLMContextMessage])
    opened_with: list[str] = field(default_factory=list[str])
    settings: Json = field(default_factory=dict[str, Any])
    ledger: list[Json] = field(default_factory=list[Json])


@dataclass
class Journal:
    """What was said in a turn.

    Parameters:
        turn: The turn's number.
        words: The words that went out.
        complete: Whether the reply has come to its end.
        asked: The caller's words that it answers, as they were before a bot rewrote them.
    """

    turn: Whole = 0
    words: StrictStr = ""
    complete: StrictBool = False
    asked: StrictStr = ""


@dataclass
class Started:
    """A function that was started.

    Parameters:
        name: The function's name.
        arguments: Its arguments.
        turn: The turn in which it was called.
        result: Its result as the model reads it; None as long as there is none.
    """

    name: StrictStr
    arguments: Json
    turn: Whole
    result: StrictStr | None = None


class _Record(BaseModel):
    """A snapshot as it is read."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    version: Whole
    turn: Whole
    messages: list[Json]
    opened_with: list[str]
    settings: Json
    ledger: list[Json]


_VERSION = TypeAdapter[int](Whole)
_JOURNAL, _STARTED = TypeAdapter(Journal), TypeAdapter(Started)
Kept = TypeVar("Kept")


def snapshot_to_json(snapshot: Snapshot, limit: int = LIMIT, warned: set[str] | None = None) -> str:
    """Write a snapshot as JSON.

    Args:
        snapshot: The snapshot; left as it is.
        limit: Bytes that its messages may have. Over it the oldest pictures give way to a mark,
            then the oldest messages after those of the system, then the largest texts.
        warned: What was warned of before is not warned of again, and added here.
    """
    messages = _bounded([plain(message) for message in snapshot.messages], limit, warned)
    rest = {
        "version": VERSION,
        "turn": snapshot.turn,
        "opened_with": snapshot.opened_with[:MARKS_MOST],
        "settings": snapshot.settings,
        "ledger": _remembered(snapshot.ledger),
    }
    return f'{_dumps(rest)[:-1]}, "messages": [{", ".join(messages)}]}}'


def snapshot_from_json(data: Any) -> Snapshot:
    """Read a snapshot.

    Raises:
        TooNew: If a newer version wrote it.
        Unreadable: If it has another form.
    """
    version = _checked("version", lambda: _VERSION.validate_python(_member(data, "version")))
    if version > VERSION:
        raise TooNew(
            f"The call was kept by a newer version (form {version}; this one reads up to "
            f"{VERSION}): it can be taken up where that version runs."
        )
    for older in range(version, VERSION):
        if older not in MIGRATIONS:
            raise Unreadable(f"What was kept of the call is damaged: version is {version}.")
        data = MIGRATIONS[older](data)
    record = _checked("snapshot", lambda: _Record.model_validate(data))
    return Snapshot(
        turn=record.turn,
        messages=[_message(message) for message in record.messages],
        opened_with=record.opened_with,
        settings=record.settings,
        ledger=record.ledger,
    )


MIGRATIONS: dict[int, Any] = {}
"""What makes of a snapshot of a version one of the next.

A field that an older version can do without is no new version: it has a default where it is read,
and who does not know it leaves it out.
"""


def journal_to_json(journal: Journal) -> str:
    """Write a journal as JSON."""
    return _dumps(asdict(replace(journal, words=journal.words[:WORDS_MOST])))


def journal_from_json(data: Any) -> Journal:
    """Read a journal; what a newer version has added is left out.

    Raises:
        Unreadable: If it has another form.
    """
    return _checked("journal", lambda: _JOURNAL.validate_python(data))


def calls_to_json(started: Mapping[str, Started], warned: set[str] | None = None) -> str:
    """Write the functions that were started as JSON.

    That a function was started is kept in any case: it must not run again.

    Args:
        started: The functions by the ids of their calls. Arguments and results that are too large
            give way to a mark, the oldest first where there are too many.
        warned: As for `snapshot_to_json`.
    """
    written: list[str] = []
    room = CALLS_MOST
    cut = 0
    for call_id, call in reversed(started.items()):
        arguments, result = _dumps(call.arguments, "{}"), _dumps(call.result)
        if len(arguments) > min(CALL_MOST, room):
            arguments, cut = _dumps({"arguments": TOO_LARGE}), cut + 1
        room -= len(arguments)
        if call.result is not None and len(result) > min(CALL_MOST, room):
            result, cut = _dumps(TOO_LARGE), cut + 1
        room -= len(result) if call.result is not None else 0
        head = _dumps({"name": call.name, "turn": call.turn})[:-1]
        text = f'{head}, "arguments": {arguments}, "result": {result}}}'
        written.append(f"{_dumps(call_id)}: {text}")
    if cut:
        _warn_once(
            warned,
            "calls",
            f"Functions have larger arguments or results than are kept ({CALL_MOST} bytes each, "
            f"{CALLS_MOST} together): {cut} would not survive their machine",
        )
    return f"{{{', '.join(reversed(written))}}}"


def started_from_json(data: Any) -> Started:
    """Read a function that was started; what a newer version has added is left out.

    Raises:
        Unreadable: If it has another form.
    """
    return _checked("calls", lambda: _STARTED.validate_python(data))


def plain(message: LLMContextMessage) -> Json:
    """A message as JSON can hold it."""
    if isinstance(message, LLMSpecificMessage):
        return {"llm": message.llm, "message": message.message}
    return cast(Json, message)


def _checked(field: str, read: Callable[[], Kept]) -> Kept:
    try:
        return read()
    except ValidationError as e:
        # Neither the value nor a name within it is quoted: both may be a caller's words.
        known = {f.name for kind in (Snapshot, Journal, Started) for f in fields(kind)}
        names = [str(part) for part in e.errors(include_input=False)[0]["loc"]]
        where = ".".join([field, *(name for name in names[:1] if name in known)])
        raise Unreadable(
            f"What was kept of the call is damaged: {where} is not of the form that it may have."
        ) from None


def _member(data: Any, name: str) -> Any:
    return cast(Json, data).get(name) if isinstance(data, dict) else None


def _message(plain: Json) -> LLMContextMessage:
    if "role" not in plain and "llm" in plain:
        return LLMSpecificMessage(llm=plain["llm"], message=plain.get("message"))
    return cast(LLMContextMessage, plain)


def _dumps(value: Any, otherwise: str = "null") -> str:
    """JSON, without a pause; what JSON cannot hold at all is something else."""
    try:
        return "".join(pieces(value))
    except (TypeError, ValueError, RecursionError):
        return otherwise


def _warn_once(warned: set[str] | None, what: str, sentence: str) -> None:
    if warned is None or what not in warned:
        logger.warning(sentence)
    if warned is not None:
        warned.add(what)


def _remembered(ledger: Sequence[Json]) -> list[Json]:
    """What the ledger remembers, no more of it than there may be: the newest calls whole."""
    kept: list[Json] = []
    room = CALLS_MOST
    for entry in reversed(ledger):
        for name in ("arguments", "result"):
            if len(_dumps(entry.get(name))) > room:
                entry = {**entry, name: None if name == "result" else TOO_LARGE}
            room -= len(_dumps(entry.get(name)))
        kept.append(entry)
    return kept[::-1]


def _bounded(messages: list[Json], limit: int, warned: set[str] | None) -> list[str]:
    """The messages as JSON, and no more bytes of them than there may be."""
    written = [_dumps(message, "") or _shortened(message) for message in messages]
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
                text = _dumps({**message, "content": parts}, "") or _shortened(message)
                size += len(text) - len(written[i])
                written[i] = text
                pictures += 1
    first = next((i for i, m in enumerate(messages) if m.get("role") not in _FIRST), len(messages))
    last = first
    while size > limit and last < len(written) - 1:
        size -= len(written[last])
        last += 1
    left = [*range(first), *range(last, len(written))]
    shortened = 0
    for i in sorted(left, key=lambda i: len(written[i]), reverse=True):
        if size <= limit:
            break
        text = _shortened(messages[i])
        size += len(text) - len(written[i])
        written[i] = text
        shortened += 1
    _warn_once(
        warned,
        "messages",
        f"The conversation is larger than is kept ({limit} bytes): {pictures} pictures, "
        f"{last - first} of the oldest messages and {shortened} long texts would not survive its "
        "machine",
    )
    return [written[i] for i in left]


def _shortened(message: Json) -> str:
    """A message that is too large, or that JSON cannot hold: who said it, and a mark."""
    role = message.get("role")
    if not isinstance(role, str):
        return _dumps({"role": "user", "content": TOO_LARGE})
    call_id = message.get("tool_call_id")
    answers = {"tool_call_id": call_id} if isinstance(call_id, str) else {}
    return _dumps({"role": role, "content": TOO_LARGE, **answers})
