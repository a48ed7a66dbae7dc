"""The record of a conversation as JSON: pure, versioned, bounded."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, TypeVar, cast

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

from mistral_service.scale.bounds import (
    MAX_MESSAGES_BYTES,
    MAX_OPENING_MESSAGES,
    MAX_WORDS,
    Json,
    bounded_calls,
    bounded_ledger,
    bounded_messages,
)
from mistral_service.scale.incremental_json import dumps
from mistral_service.scale.sealing import Unreadable

VERSION = 1
"""The version of the format that this code writes and reads.

A field that an older version can do without needs no new version: it has a default, and code that
does not know it ignores it.
"""

Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]


class TooNew(Unreadable):
    """A record in the format of a newer version."""


@dataclass
class Snapshot:
    """A conversation when a turn begins.

    Parameters:
        turn: The turn's number, from 1.
        messages: The context's messages.
        opened_with: Digests of the messages that the context had when the first turn began, by
            which the opening of the next machine's bot is recognized.
        settings: The service's settings, as far as JSON can hold them.
        ledger: The function calls of the service's ledger, as `CallLedger.snapshot` returns them.
        proof_key: The call's secret, which signs the words that the caller was sent.
    """

    turn: int = 0
    messages: list[LLMContextMessage] = field(default_factory=list[LLMContextMessage])
    opened_with: list[str] = field(default_factory=list[str])
    settings: Json = field(default_factory=dict[str, Any])
    ledger: list[Json] = field(default_factory=list[Json])
    proof_key: str = ""


@dataclass
class Journal:
    """What the bot has said in a turn.

    Parameters:
        turn: The turn's number.
        words: The words that were spoken, or sent where there is no voice.
        complete: Whether the reply has ended.
        asked: The user's words that it answers, as they were before a bot rewrote them.
    """

    turn: Count = 0
    words: StrictStr = ""
    complete: StrictBool = False
    asked: StrictStr = ""


@dataclass
class Started:
    """A function that has started.

    Parameters:
        name: The function's name.
        arguments: Its arguments.
        turn: The turn in which it was called.
        result: Its result as the model reads it; None while it runs.
        settled: Whether the function has returned that result itself.
        repetition: Its number among equal calls, see `PlannedCall`.
    """

    name: StrictStr
    arguments: Json
    turn: Count
    result: StrictStr | None = None
    settled: StrictBool = False
    repetition: Count = 0


class _SnapshotModel(BaseModel):
    """A snapshot as JSON has it."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    version: Count
    turn: Count
    messages: list[Json]
    opened_with: list[str]
    settings: Json
    ledger: list[Json]
    proof_key: str = ""


_VERSION = TypeAdapter[int](Count)
_JOURNAL, _STARTED = TypeAdapter(Journal), TypeAdapter(Started)
Value = TypeVar("Value")


def snapshot_to_json(
    snapshot: Snapshot, limit: int = MAX_MESSAGES_BYTES, warned: set[str] | None = None
) -> str:
    """Write a snapshot as JSON.

    Args:
        snapshot: The snapshot; left as it is.
        limit: Bytes that its messages may have. Beyond it the oldest images are replaced by a
            placeholder, then the oldest messages after the system's are dropped, then the largest
            texts are replaced.
        warned: The kinds of warnings that were logged before; new ones are added.
    """
    messages = bounded_messages([plain(message) for message in snapshot.messages], limit, warned)
    rest = {
        "version": VERSION,
        "turn": snapshot.turn,
        "opened_with": snapshot.opened_with[:MAX_OPENING_MESSAGES],
        "settings": snapshot.settings,
        "ledger": bounded_ledger(snapshot.ledger),
        "proof_key": snapshot.proof_key,
    }
    return f'{dumps(rest)[:-1]}, "messages": [{", ".join(messages)}]}}'


def snapshot_from_json(data: Any) -> Snapshot:
    """Read a snapshot.

    Raises:
        TooNew: If a newer version wrote it.
        Unreadable: If it is not valid.
    """
    given = cast(Json, data).get("version") if isinstance(data, dict) else None
    version = _checked("version", lambda: _VERSION.validate_python(given))
    if version > VERSION:
        raise TooNew(
            f"The call was recorded by a newer version (format {version}; this one reads up to "
            f"{VERSION}): a machine with that version can take it over."
        )
    if version < VERSION:
        raise Unreadable(f"The call's record is damaged: version is {version}.")
    record = _checked("snapshot", lambda: _SnapshotModel.model_validate(data))
    return Snapshot(
        record.turn,
        list(map(_message, record.messages)),
        record.opened_with,
        record.settings,
        record.ledger,
        record.proof_key,
    )


def journal_to_json(journal: Journal) -> str:
    """Write a journal as JSON."""
    return dumps(asdict(replace(journal, words=journal.words[:MAX_WORDS])))


def journal_from_json(data: Any) -> Journal:
    """Read a journal, or raise `Unreadable`; fields of a newer version are ignored."""
    return _checked("journal", lambda: _JOURNAL.validate_python(data))


def calls_to_json(started: Mapping[str, Started], warned: set[str] | None = None) -> str:
    """Write started functions, by the ids of their calls, as JSON.

    That one has started is recorded in any case: it must not run again. Arguments and results that
    are too large are replaced by a placeholder, the oldest first where there are too many.
    """
    bounded = bounded_calls({call_id: vars(call) for call_id, call in started.items()}, warned)
    return f"{{{', '.join(bounded)}}}"


def started_from_json(data: Any) -> Started:
    """Read a started function, or raise `Unreadable`; fields of a newer version are ignored."""
    return _checked("calls", lambda: _STARTED.validate_python(data))


def plain(message: LLMContextMessage) -> Json:
    """A message as JSON can hold it."""
    if isinstance(message, LLMSpecificMessage):
        return {"llm": message.llm, "message": message.message}
    return cast(Json, message)


def _checked(field: str, read: Callable[[], Value]) -> Value:
    try:
        return read()
    except ValidationError as e:
        # Neither the value nor a name within it is quoted: both may be the caller's words.
        known = {f.name for kind in (Snapshot, Journal, Started) for f in fields(kind)}
        names = [str(part) for part in e.errors(include_input=False)[0]["loc"]]
        where = ".".join([field, *(name for name in names[:1] if name in known)])
        raise damaged(where) from None


def damaged(field: str) -> Unreadable:
    """The error for a field that is not valid."""
    return Unreadable(f"The call's record is damaged: {field} is not valid.")


def _message(plain: Json) -> LLMContextMessage:
    if "role" not in plain and "llm" in plain:
        return LLMSpecificMessage(llm=plain["llm"], message=plain.get("message"))
    return cast(LLMContextMessage, plain)
