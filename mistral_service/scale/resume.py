"""Where a call goes on that was taken over: pure decisions about what was kept and heard."""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from pipecat.processors.aggregators.llm_context import LLMContextMessage, LLMSpecificMessage

from mistral_service.scale.incremental_json import pieces
from mistral_service.scale.snapshot import Journal, Snapshot, Started
from mistral_service.turn.ports import ResumePoint

AHEAD = 4000
"""Characters that a caller may have heard beyond what was kept of a reply, where that is proven."""

ASKED_LONGEST = 10_000
"""Characters of the caller's last words that are told and noted: some ten minutes of speech."""

_PART = 100_000
_GAP = re.compile(r"\s")

# What Pipecat writes in place of a result as long as there is none.
_RUNNING = ("IN_PROGRESS", '{"type": "async_tool"')


def believed(
    journal: Journal, turn: int, heard: str | None, sent: str = ""
) -> tuple[Journal, str | None]:
    """Tell what is believed of what a client says about the latest reply.

    A client can make a call end earlier than it did, as an interruption does. It cannot put words
    into the reply: those that count are the server's own, character by character.

    Args:
        journal: What was noted of the reply.
        turn: The turn that was kept.
        heard: The words that the client says were heard; None where it says nothing.
        sent: The words of this turn that were signed as sent; empty where there is no proof.

    Returns:
        The journal, with what it lacked of `sent`; and the words that count as heard. Where
        `heard` is about another reply it is returned as it is, to be compared and not to be said.
    """
    journal = journal if journal.turn == turn else Journal(turn)
    if len(sent) > len(journal.words) and _spaced(sent).startswith(_spaced(journal.words)):
        journal = replace(journal, words=sent, complete=False)
    if heard is None:
        return journal, None
    known, told = _spaced(journal.words), _spaced(heard)
    if known.startswith(told):
        return journal, _beginning(journal.words, heard)
    return journal, journal.words if told.startswith(known) else heard


def _beginning(words: str, heard: str) -> str:
    """As much of `words` as `heard` has characters, white space apart."""
    left = sum(map(len, heard.split()))
    end = 0
    for word in re.finditer(r"\S+", words):
        if left <= 0:
            break
        end = min(word.end(), word.start() + left)
        left -= len(word.group())
    rest = words[end:]
    space = len(rest) - len(rest.lstrip()) if heard[-1:].isspace() else 0
    return words[: end + space]


def cut(journal: str, heard: str | None) -> str:
    """Tell after which words a reply was cut.

    The journal may be a quarter of a second late, and what went out may not have arrived: the
    caller knows better, as long as what they say fits what was kept.

    Args:
        journal: The words that went out, as far as they were noted.
        heard: The words that the caller has heard, as far as they are believed; None where that is
            not known.

    Returns:
        The words.
    """
    if heard is None or not _fits(journal, heard):
        return journal
    return journal if _spaced(journal) == _spaced(heard) else heard


def _fits(journal: str, heard: str) -> bool:
    """Whether one of the two can be the beginning of the other."""
    one, two = _spaced(journal), _spaced(heard)
    return one.startswith(two) or (two.startswith(one) and len(two) <= len(one) + AHEAD)


def resume(
    snapshot: Snapshot,
    journal: Journal,
    started: Mapping[str, Started],
    fresh: Sequence[LLMContextMessage],
    *,
    heard: str | None = None,
    ended: bool = False,
    asked: str | None = None,
    called_for: str = "",
) -> tuple[list[LLMContextMessage], ResumePoint]:
    """Tell how a conversation goes on.

    A caller whose last words were not kept is a turn ahead: the reply that was kept is done with,
    as far as it was said, and the words are answered.

    Args:
        snapshot: The conversation when its last turn began; of turn 0 if there was none yet.
        journal: What was said in that turn.
        started: The functions that were started and may not have their result in `snapshot`.
        fresh: What stands in the context of the bot that goes on: its opening, which was said long
            ago and is dropped, and perhaps new words of the caller's.
        heard: What the caller has heard of the last reply, as `believed` gives it; None where that
            is not known.
        ended: Whether they have heard its end. It is their word alone: as with an interruption, the
            reply does not go on.
        asked: The caller's last words, as their client knows them; None where it does not.
        called_for: The words for which functions were called in a turn that `snapshot` does not
            know; empty if there was none.

    Returns:
        The messages, and what is to be done.
    """
    messages = list(snapshot.messages if snapshot.turn else fresh)
    new = [m for m in fresh if _role(m) == "user" and digest(m) not in snapshot.opened_with]
    new = new if snapshot.turn else []
    journal = journal if journal.turn == snapshot.turn else Journal()
    said, complete = journal.words, journal.complete
    was_before = heard and _spaced(_last_words(messages)).startswith(_spaced(heard))
    if was_before and (not said or not _fits(said, str(heard))):
        heard, ended = "", False  # It was the reply before that was heard: nothing of this one.
    begun = bool(said.strip() or (heard or "").strip())
    lacking = missing(asked, messages, journal.asked, begun=begun)
    if lacking and lacking not in " ".join(map(_text, new)):
        new.insert(0, cast(LLMContextMessage, {"role": "user", "content": lacking}))
    if (ended or lacking) and not (heard or "").strip():
        heard = None  # They do not say how much they have heard of it.
    words = cut(said, heard)
    # Nobody has heard the end of a reply of which no word was said.
    ended = ended and bool(words.strip())
    complete = ended or (complete and _spaced(words) == _spaced(said))
    pending, placed = _settled(messages, started)
    waits = bool(pending or placed)
    if (complete or waits or new) and words.strip():
        messages.append(cast(LLMContextMessage, {"role": "assistant", "content": words.strip()}))
        words = ""
    # What was called for the words that the snapshot lacks stands behind them.
    are_its = bool(lacking) and _spaced(called_for) == _spaced(asked or "")
    messages += new if are_its else []
    for call_id, call in pending.items():
        messages += _call_and_result(call_id, call)
    messages += [] if are_its else new
    return messages, ResumePoint(words if words.strip() else "", not complete or waits or bool(new))


def missing(
    asked: str | None, messages: Sequence[LLMContextMessage], noted: str, *, begun: bool
) -> str:
    """Tell which of the caller's last words a conversation lacks.

    Args:
        asked: The words, as their client knows them; None where it does not.
        messages: The conversation.
        noted: The words that its last turn answers, as they were heard; empty where they were not
            noted. A bot may have put others into the messages.
        begun: Whether a word of that turn's answer was said.

    Returns:
        The words: none of them, all, or those after the ones that wait for an answer too.
    """
    asked, noted = _spaced(asked or ""), _spaced(noted)
    if not asked:
        return ""
    last, answered = _last_asked(messages)
    known = [noted, *_ends(last, len(asked))]
    if asked in known:
        return ""
    if not noted and asked in " ".join(last):
        return ""  # A bot may have put something around them.
    if begun or answered:
        return asked  # Alike words were answered; these are others.
    before = [words for words in known if words and asked.startswith(words + " ")]
    return asked[len(max(before, key=len, default="")) :].strip()


def _ends(last: Sequence[str], longest: int) -> list[str]:
    """What the last message says, the last two, and so on, as far as that is no longer."""
    ends: list[str] = []
    words = ""
    for message in reversed(last):
        if len(message) + len(words) + bool(words) > longest:
            break
        words = f"{message} {words}" if words else message
        ends.append(words)
    return ends[::-1]


def last_asked(messages: Sequence[LLMContextMessage]) -> str | None:
    """The caller's last message; None if there is none."""
    return next(reversed(_last_asked(messages)[0]), None)


def _last_asked(messages: Sequence[LLMContextMessage]) -> tuple[list[str], bool]:
    """What the caller said last, message by message, and whether the bot has said a word since."""
    asked: list[str] = []
    answered = False
    for message in reversed(messages):
        role, words = _role(message), _text(message)
        if role == "user" and words:
            asked.append(words)
        elif role in ("assistant", "tool"):
            if asked:
                break
            answered = answered or bool(role == "assistant" and words)
    return asked[::-1], answered


def _text(message: LLMContextMessage) -> str:
    content = _plain(message).get("content")
    if isinstance(content, list):
        parts = cast("list[Any]", content)
        texts = [cast("dict[str, Any]", p).get("text") for p in parts if isinstance(p, dict)]
        content = " ".join(text for text in texts if isinstance(text, str))
    return _spaced(content) if isinstance(content, str) else ""


def digest(message: LLMContextMessage) -> str:
    """A message's mark, by which it is known again; what JSON cannot hold is never known."""
    plain = message.message if isinstance(message, LLMSpecificMessage) else message
    mark = hashlib.sha256()
    try:
        for piece in pieces(plain, sort_keys=True):
            mark.update(piece.encode())
    except (TypeError, ValueError, RecursionError):
        return secrets.token_hex(8)
    return mark.hexdigest()[:16]


def opened_with(messages: Sequence[LLMContextMessage]) -> list[str]:
    """The marks of what stands there when a call begins, be it the bot's or the caller's."""
    return [digest(message) for message in messages if not is_reply(message)]


def is_reply(message: LLMContextMessage) -> bool:
    """Whether the model said it."""
    return _role(message) == "assistant"


def unsettled(
    messages: Sequence[LLMContextMessage], started: Mapping[str, Started], turn: int
) -> dict[str, Started]:
    """Of functions that were started, those whose result is not in the context yet.

    Args:
        messages: The context.
        started: The functions.
        turn: The turn that begins: what had its result two turns ago has found its place.
    """
    done = {
        message.get("tool_call_id")
        for message in map(_plain, messages)
        if message.get("role") == "tool"
        and not _string(message.get("content")).startswith(_RUNNING)
    }
    return {
        call_id: call
        for call_id, call in started.items()
        if call_id not in done and not (call.result is not None and call.turn < turn - 1)
    }


def _settled(
    messages: list[LLMContextMessage], started: Mapping[str, Started]
) -> tuple[dict[str, Started], bool]:
    """Put results in their place.

    Returns:
        The calls that the messages do not have yet, and whether a result has found its place.
    """
    pending = dict(started)
    placed = False
    for i, message in enumerate(map(_plain, list(messages))):
        if message.get("role") != "tool":
            continue
        call = pending.pop(str(message.get("tool_call_id")), None)
        content = _string(message.get("content"))
        if content.startswith(_RUNNING) and (call is not None or content == _RUNNING[0]):
            told = _told(call) if call is not None else _LOST.format(name="The function")
            messages[i] = cast(LLMContextMessage, {**message, "content": told})
            placed = True
    return pending, placed


def _call_and_result(call_id: str, call: Started) -> list[LLMContextMessage]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return cast(
        "list[LLMContextMessage]",
        [
            {
                "role": "assistant",
                "tool_calls": [{"id": call_id, "function": function, "type": "function"}],
            },
            {"role": "tool", "content": _told(call), "tool_call_id": call_id},
        ],
    )


_LOST = (
    "{name} was started, and its result was lost with the machine that ran it. It was not run "
    "again: it may have done its work."
)


def _told(call: Started) -> str:
    return _LOST.format(name=call.name) if call.result is None else call.result


def _last_words(messages: Sequence[LLMContextMessage]) -> str:
    said = [_plain(m).get("content") for m in messages if _role(m) == "assistant"]
    return next((words for words in reversed(said) if isinstance(words, str)), "")


def _plain(message: LLMContextMessage) -> dict[str, Any]:
    return {} if isinstance(message, LLMSpecificMessage) else cast("dict[str, Any]", message)


def _role(message: LLMContextMessage) -> str:
    return str(_plain(message).get("role"))


def _string(content: Any) -> str:
    return content if isinstance(content, str) else ""


def _spaced(words: str) -> str:
    """Words with one space between them; long ones a part at a time, so that others may run."""
    if len(words) <= _PART:
        return " ".join(words.split())
    parts: list[str] = []
    start = 0
    while start < len(words):
        gap = _GAP.search(words, start + _PART)
        end = gap.end() if gap else len(words)
        parts.append(" ".join(words[start:end].split()))
        start = end
    return " ".join(filter(None, parts))
