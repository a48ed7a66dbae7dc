"""What of a conversation is kept, and how it becomes bytes: pure, versioned, bounded."""

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
    LIMIT,
    MARKS_MOST,
    WORDS_MOST,
    bounded_calls,
    bounded_messages,
    dumps,
    remembered,
)
from mistral_service.scale.bounds import NOT_KEPT as NOT_KEPT
from mistral_service.scale.recordable_settings import is_recordable as is_recordable
from mistral_service.scale.sealing import Form as Form
from mistral_service.scale.sealing import Unreadable as Unreadable

VERSION = 1
"""The form in which this version keeps a conversation."""

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
        ledger: The calls of functions that are known, as `CallLedger.snapshot` gives them.
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
        settled: Whether the function has given that result itself.
        repetition: Which of several like calls it is, see `PlannedCall`.
    """

    name: StrictStr
    arguments: Json
    turn: Whole
    result: StrictStr | None = None
    settled: StrictBool = False
    repetition: Whole = 0


class _Record(BaseModel):
    """A snapshot as it is read."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    version: Whole
    turn: Whole
    messages: list[Json]
    opened_with: list[str]
    settings: Json
    ledger: list[Json]
    proof_key: str = ""


_VERSION = TypeAdapter[int](Whole)
_JOURNAL, _STARTED = TypeAdapter(Journal), TypeAdapter(Started)
Kept = TypeVar("Kept")


def snapshot_to_json(snapshot: Snapshot, limit: int = LIMIT, warned: set[str] | None = None) -> str:
    """Write a snapshot as JSON.

    Args:
        snapshot: The snapshot; left as it is.
        limit: Bytes that its messages may have. Over it the oldest images give way to a mark,
            then the oldest messages after those of the system, then the largest texts.
        warned: What was warned of before is not warned of again, and added here.
    """
    messages = bounded_messages([plain(message) for message in snapshot.messages], limit, warned)
    rest = {
        "version": VERSION,
        "turn": snapshot.turn,
        "opened_with": snapshot.opened_with[:MARKS_MOST],
        "settings": snapshot.settings,
        "ledger": remembered(snapshot.ledger),
        "proof_key": snapshot.proof_key,
    }
    return f'{dumps(rest)[:-1]}, "messages": [{", ".join(messages)}]}}'


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
        proof_key=record.proof_key,
    )


MIGRATIONS: dict[int, Any] = {}
"""What makes of a snapshot of a version one of the next.

A field that an older version can do without is no new version: it has a default where it is read,
and who does not know it leaves it out.
"""


def journal_to_json(journal: Journal) -> str:
    """Write a journal as JSON."""
    return dumps(asdict(replace(journal, words=journal.words[:WORDS_MOST])))


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
    bounded = bounded_calls({call_id: vars(call) for call_id, call in started.items()}, warned)
    return f"{{{', '.join(bounded)}}}"


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
