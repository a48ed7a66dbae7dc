"""How much of a conversation is recorded, and the placeholders for the rest."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from loguru import logger

from mistral_service.scale.incremental_json import PIECE, dumps
from mistral_service.wire.weight import weight

MAX_MESSAGES_BYTES = 4_000_000
"""Bytes that the messages of a conversation may have, as JSON and before they are compressed."""

MAX_WORDS = 100_000
"""Characters of a reply that are recorded: some two hours of speech."""

MAX_CALL_BYTES = 200_000
"""Bytes that the arguments of a started function may have, and as many its result."""

MAX_CALLS_BYTES = 1_000_000
"""Bytes that all started functions without a settled result may have; and those of the ledger."""

MAX_FUNCTIONS = 5_000
"""Started functions without a settled result."""

MAX_OPENING_MESSAGES = 10_000
"""Messages of a bot's opening whose digests are recorded."""

IMAGE_OMITTED = "[What was shown here was too large to be recorded.]"
"""The placeholder for an image or sound."""

TEXT_OMITTED = "[What stood here was too large to be recorded.]"
"""The placeholder for a text, arguments or a result."""

_MEDIA = ("image_url", "input_audio", "file_base64")
_SYSTEM = ("system", "developer")

Json = dict[str, Any]


def bounded_calls(started: Mapping[str, Json], warned: set[str] | None) -> list[str]:
    """Started functions by the ids of their calls, as members of a JSON object."""
    written: list[str] = []
    left = MAX_CALLS_BYTES
    cut = max(0, len(started) - MAX_FUNCTIONS)
    for call_id, call in list(started.items())[: -MAX_FUNCTIONS - 1 : -1]:
        arguments, result = dumps(call["arguments"], "{}"), dumps(call["result"])
        if len(arguments) > min(MAX_CALL_BYTES, left):
            arguments, cut = dumps({"arguments": TEXT_OMITTED}), cut + 1
        left -= len(arguments)
        if call["result"] is not None and len(result) > min(MAX_CALL_BYTES, left):
            result, cut = dumps(TEXT_OMITTED), cut + 1
        left -= len(result) if call["result"] is not None else 0
        small = {name: v for name, v in call.items() if name not in ("arguments", "result")}
        head = dumps(small)[:-1]
        text = f'{head}, "arguments": {arguments}, "result": {result}}}'
        written.append(f"{dumps(call_id)}: {text}")
    if cut:
        _warn_once(
            warned,
            "calls",
            f"Functions have larger arguments or results than are recorded ({MAX_CALL_BYTES} "
            f"bytes each, {MAX_CALLS_BYTES} together, {MAX_FUNCTIONS} functions): a takeover would "
            f"lose {cut} of them",
        )
    return written[::-1]


def _warn_once(warned: set[str] | None, kind: str, sentence: str) -> None:
    if warned is None or kind not in warned:
        logger.warning(sentence)
    if warned is not None:
        warned.add(kind)


def bounded_ledger(ledger: Sequence[Json]) -> list[Json]:
    """The ledger's calls; the newest are whole, older ones may lack arguments and results."""
    entries: list[Json] = []
    left = MAX_CALLS_BYTES
    for entry in reversed(ledger):
        for name in ("arguments", "result"):
            if len(dumps(entry.get(name))) > left:
                entry = {**entry, name: None if name == "result" else TEXT_OMITTED}
            left -= len(dumps(entry.get(name)))
        entries.append(entry)
    return entries[::-1]


def bounded_messages(messages: list[Json], limit: int, warned: set[str] | None) -> list[str]:
    """The messages as JSON, in one text or several, with at most `limit` bytes."""
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
        for at, part in enumerate(parts):
            if size > limit and isinstance(part, dict) and cast(Json, part).get("type") in _MEDIA:
                parts = [*parts[:at], {"type": "text", "text": IMAGE_OMITTED}, *parts[at + 1 :]]
                text = dumps({**message, "content": parts}, "") or _shortened(message)
                size += len(text) - len(written[i])
                written[i] = text
                images += 1
    first = next((i for i, m in enumerate(messages) if m.get("role") not in _SYSTEM), len(messages))
    last = first
    while size > limit and last < len(written) - 1:
        size -= len(written[last])
        last += 1
    remaining = [*range(first), *range(last, len(written))]
    shortened = 0
    for i in sorted(remaining, key=lambda i: len(written[i]), reverse=True):
        if size <= limit:
            break
        text = _shortened(messages[i])
        size += len(text) - len(written[i])
        written[i] = text
        shortened += 1
    _warn_once(
        warned,
        "messages",
        f"The conversation is larger than is recorded ({limit} bytes): a takeover would lose "
        f"{images} images, {last - first} of the oldest messages and {shortened} long texts",
    )
    return [written[i] for i in remaining]


def _shortened(message: Json) -> str:
    """A message that is too large, or that JSON cannot hold: its role and a placeholder."""
    role = message.get("role")
    if not isinstance(role, str):
        return dumps({"role": "user", "content": TEXT_OMITTED})
    call_id = message.get("tool_call_id")
    answers = {"tool_call_id": call_id} if isinstance(call_id, str) else {}
    return dumps({"role": role, "content": TEXT_OMITTED, **answers})
