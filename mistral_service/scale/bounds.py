"""How much of a conversation is kept, and what stands in place of the rest."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from loguru import logger

from mistral_service.scale.incremental_json import PIECE, pieces
from mistral_service.wire.weight import weight

LIMIT = 4_000_000
"""Bytes that the messages of a conversation may have, as JSON and before they are compressed."""

NOT_KEPT = "[What was shown here was too large to be kept.]"
"""What stands in place of an image that a kept conversation has no room for."""

WORDS_MOST = 100_000
"""Characters of a reply that are kept: some two hours of speech."""

CALL_MOST = 200_000
"""Bytes that the arguments of a function that was started may have, and as many its result."""

CALLS_MOST = 1_000_000
"""Bytes that all functions may have that were started and are not settled; and those that the
ledger remembers."""

FUNCTIONS_MOST = 5_000
"""Functions that were started and are not settled."""

MARKS_MOST = 10_000
"""Messages of a bot's opening that are known again."""

TOO_LARGE = "[What stood here was too large to be kept.]"
"""What stands in place of a text, of arguments or of a result that is too large."""

_SHOWN = ("image_url", "input_audio", "file_base64")
_FIRST = ("system", "developer")

Json = dict[str, Any]


def bounded_calls(started: Mapping[str, Json], warned: set[str] | None) -> list[str]:
    """Functions that were started, as members of a JSON object.

    Args:
        started: `name`, `arguments`, `result`, and what is small, by the id of the call.
        warned: What was warned of before.
    """
    written: list[str] = []
    room = CALLS_MOST
    cut = max(0, len(started) - FUNCTIONS_MOST)
    for call_id, call in list(started.items())[: -FUNCTIONS_MOST - 1 : -1]:
        arguments, result = dumps(call["arguments"], "{}"), dumps(call["result"])
        if len(arguments) > min(CALL_MOST, room):
            arguments, cut = dumps({"arguments": TOO_LARGE}), cut + 1
        room -= len(arguments)
        if call["result"] is not None and len(result) > min(CALL_MOST, room):
            result, cut = dumps(TOO_LARGE), cut + 1
        room -= len(result) if call["result"] is not None else 0
        small = {name: v for name, v in call.items() if name not in ("arguments", "result")}
        head = dumps(small)[:-1]
        text = f'{head}, "arguments": {arguments}, "result": {result}}}'
        written.append(f"{dumps(call_id)}: {text}")
    if cut:
        _warn_once(
            warned,
            "calls",
            f"Functions have larger arguments or results than are kept ({CALL_MOST} bytes each, "
            f"{CALLS_MOST} together, {FUNCTIONS_MOST} functions): {cut} would not survive their "
            "machine",
        )
    return written[::-1]


def dumps(value: Any, otherwise: str = "null") -> str:
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


def remembered(ledger: Sequence[Json]) -> list[Json]:
    """What the ledger remembers, no more of it than there may be: the newest calls whole."""
    kept: list[Json] = []
    room = CALLS_MOST
    for entry in reversed(ledger):
        for name in ("arguments", "result"):
            if len(dumps(entry.get(name))) > room:
                entry = {**entry, name: None if name == "result" else TOO_LARGE}
            room -= len(dumps(entry.get(name)))
        kept.append(entry)
    return kept[::-1]


def bounded_messages(messages: list[Json], limit: int, warned: set[str] | None) -> list[str]:
    """The messages as JSON, in one text or several, and no more bytes than there may be."""
    if (
        weight(messages, PIECE) <= PIECE
        and len(text := dumps(messages, "")[1:-1]) <= limit
        and text
    ):
        return [text]
    written = [dumps(message, "") or _shortened(message) for message in messages]
    size = sum(map(len, written))
    if size <= limit:
        return written
    images = 0
    for i, message in enumerate(messages):
        if size <= limit:
            break
        content = message.get("content")
        parts = cast("list[Any]", content) if isinstance(content, list) else []
        for place, part in enumerate(parts):
            if size > limit and isinstance(part, dict) and cast(Json, part).get("type") in _SHOWN:
                parts = [*parts[:place], {"type": "text", "text": NOT_KEPT}, *parts[place + 1 :]]
                text = dumps({**message, "content": parts}, "") or _shortened(message)
                size += len(text) - len(written[i])
                written[i] = text
                images += 1
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
        f"The conversation is larger than is kept ({limit} bytes): {images} images, "
        f"{last - first} of the oldest messages and {shortened} long texts would not survive its "
        "machine",
    )
    return [written[i] for i in left]


def _shortened(message: Json) -> str:
    """A message that is too large, or that JSON cannot hold: who said it, and a mark."""
    role = message.get("role")
    if not isinstance(role, str):
        return dumps({"role": "user", "content": TOO_LARGE})
    call_id = message.get("tool_call_id")
    answers = {"tool_call_id": call_id} if isinstance(call_id, str) else {}
    return dumps({"role": role, "content": TOO_LARGE, **answers})
