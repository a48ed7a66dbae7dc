"""Where a call resumes after a takeover: pure decisions from the record and the client's report."""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from pipecat.processors.aggregators.llm_context import LLMContextMessage, LLMSpecificMessage

from mistral_service.scale.incremental_json import iterencode
from mistral_service.scale.snapshot import Journal, Snapshot, Started
from mistral_service.turn.shared_services import ResumePoint

MAX_AHEAD = 4000
"""Characters that a caller may have heard beyond the recorded words of a reply, with a proof."""

MAX_ASKED = 10_000
"""Characters of the user's last words that are reported and recorded: ten minutes of speech."""

_PART = 100_000
_GAP = re.compile(r"\s")

# Pipecat's placeholders for a result while a function runs.
_RUNNING = ("IN_PROGRESS", '{"type": "async_tool"')


def reconcile(
    journal: Journal, turn: int, heard: str | None, sent: str = ""
) -> tuple[Journal, str | None]:
    """Reconcile the journal of the latest reply with the client's report.

    A client can make a reply end earlier than it did, as an interruption does. It cannot put words
    into the reply: all words are the server's own, character by character.

    `sent` has the words of this turn that were signed as sent; it is empty without a proof.

    Returns:
        The journal, with the words of `sent` that it lacked; and the words that count as heard.
        Where `heard` is about another reply it is returned unchanged, for comparison only.
    """
    journal = journal if journal.turn == turn else Journal(turn)
    if len(sent) > len(journal.words) and _normalized(sent).startswith(_normalized(journal.words)):
        journal = replace(journal, words=sent, complete=False)
    if heard is None:
        return journal, None
    known, reported = _normalized(journal.words), _normalized(heard)
    if known.startswith(reported):
        return journal, _beginning(journal.words, heard)
    return journal, journal.words if reported.startswith(known) else heard


def _beginning(words: str, heard: str) -> str:
    """The beginning of `words` with as many characters as `heard`, white space apart."""
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


def cut_point(journal: str, heard: str | None) -> str:
    """The words after which a reply was cut.

    The journal may be a quarter of a second late, and words that were sent may not have arrived:
    the client knows better, as long as its report fits the journal.
    """
    if heard is None or not _fits(journal, heard):
        return journal
    return journal if _normalized(journal) == _normalized(heard) else heard


def _fits(journal: str, heard: str) -> bool:
    """Whether one of the two can be the beginning of the other."""
    one, two = _normalized(journal), _normalized(heard)
    return one.startswith(two) or (two.startswith(one) and len(two) <= len(one) + MAX_AHEAD)


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
    """Decide how a conversation resumes.

    A caller whose last words are not recorded is a turn ahead: the recorded reply ends where it
    was cut, and the words are answered.

    Args:
        snapshot: The conversation when its last turn began; of turn 0 if there was none yet.
        journal: What the bot has said in that turn.
        started: The functions that have started and may lack their result in `snapshot`.
        fresh: The context of the new bot: its opening, which was said at the beginning of the call
            and is dropped, and perhaps new words of the user.
        heard: The words of the last reply that count as heard, see `reconcile`; None where not
            known.
        ended: Whether the client reports that its end was heard. As with an interruption, the
            reply is not continued then.
        asked: The user's last words, as the client reports them; None where it does not.
        called_for: The words for which functions were called in a turn that `snapshot` lacks; empty
            if there was none.

    Returns:
        The messages of the conversation, and where it resumes.
    """
    messages = list(snapshot.messages if snapshot.turn else fresh)
    new = [m for m in fresh if _role(m) == "user" and digest(m) not in snapshot.opened_with]
    new = new if snapshot.turn else []
    journal = journal if journal.turn == snapshot.turn else Journal()
    said, complete = journal.words, journal.complete
    was_before = heard and _normalized(_last_words(messages)).startswith(_normalized(heard))
    if was_before and (not said or not _fits(said, str(heard))):
        heard, ended = "", False  # The report is about the reply before this one.
    begun = bool(said.strip() or (heard or "").strip())
    lacking = missing_words(asked, messages, journal.asked, begun=begun)
    if lacking and lacking not in " ".join(map(_text, new)):
        new.insert(0, cast(LLMContextMessage, {"role": "user", "content": lacking}))
    if (ended or lacking) and not (heard or "").strip():
        heard = None  # The report does not say how much of it was heard.
    words = cut_point(said, heard)
    # A reply without words has no end that was heard.
    ended = ended and bool(words.strip())
    complete = ended or (complete and _normalized(words) == _normalized(said))
    pending, has_results = _fill_results(messages, started)
    has_results = has_results or bool(pending)
    if (complete or has_results or new) and words.strip():
        messages.append(cast(LLMContextMessage, {"role": "assistant", "content": words.strip()}))
        words = ""
    # Calls for words that the snapshot lacks come after those words.
    words_first = bool(lacking) and _normalized(called_for) == _normalized(asked or "")
    messages += new if words_first else []
    for call_id, call in pending.items():
        messages += _call_and_result(call_id, call)
    messages += [] if words_first else new
    must_answer = not complete or has_results or bool(new)
    return messages, ResumePoint(words if words.strip() else "", must_answer)


def missing_words(
    asked: str | None, messages: Sequence[LLMContextMessage], recorded: str, *, begun: bool
) -> str:
    """The part of the user's last words that a conversation lacks.

    Args:
        asked: The words, as the client reports them.
        messages: The conversation.
        recorded: The user's words that its last turn answers, as recorded; empty where they were
            not. A bot may have put others into the messages.
        begun: Whether a word of that turn's answer was said.

    Returns:
        None of the words, all, or those after the unanswered words of the conversation.
    """
    asked, recorded = _normalized(asked or ""), _normalized(recorded)
    if not asked:
        return ""
    last, answered = _last_asked(messages)
    known = [recorded, *_suffixes(last, len(asked))]
    if asked in known:
        return ""
    if not recorded and asked in " ".join(last):
        return ""  # A bot may have put something around them.
    if begun or answered:
        return asked  # Equal words were answered; these are new ones.
    before = [words for words in known if words and asked.startswith(words + " ")]
    return asked[len(max(before, key=len, default="")) :].strip()


def _suffixes(last: Sequence[str], longest: int) -> list[str]:
    """The last message, the last two joined, and so on, up to a length."""
    ends: list[str] = []
    words = ""
    for message in reversed(last):
        if len(message) + len(words) + bool(words) > longest:
            break
        words = f"{message} {words}" if words else message
        ends.append(words)
    return ends[::-1]


def last_asked(messages: Sequence[LLMContextMessage]) -> str | None:
    """The user's last message; None if there is none."""
    return next(reversed(_last_asked(messages)[0]), None)


def _last_asked(messages: Sequence[LLMContextMessage]) -> tuple[list[str], bool]:
    """The user's last messages in a row, and whether the bot has said a word since."""
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
    return _normalized(content) if isinstance(content, str) else ""


def digest(message: LLMContextMessage) -> str:
    """A digest that recognizes a message; one that JSON cannot hold never matches."""
    plain = message.message if isinstance(message, LLMSpecificMessage) else message
    sha = hashlib.sha256()
    try:
        for piece in iterencode(plain, sort_keys=True):
            sha.update(piece.encode())
    except (TypeError, ValueError, RecursionError):
        return secrets.token_hex(8)
    return sha.hexdigest()[:16]


def opening_digests(messages: Sequence[LLMContextMessage]) -> list[str]:
    """The digests of the messages with which a call opens, apart from the model's."""
    return [digest(message) for message in messages if not is_reply(message)]


def is_reply(message: LLMContextMessage) -> bool:
    """Whether the message is the model's."""
    return _role(message) == "assistant"


def without_result(
    messages: Sequence[LLMContextMessage], started: Mapping[str, Started], turn: int
) -> dict[str, Started]:
    """The started functions whose result is not in the context yet as a turn begins.

    A result of two turns ago has been in it.
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


def _fill_results(
    messages: list[LLMContextMessage], started: Mapping[str, Started]
) -> tuple[dict[str, Started], bool]:
    """Replace the placeholders of running functions by results.

    Returns the calls that the messages do not have yet, and whether a placeholder was replaced.
    """
    pending = dict(started)
    replaced = False
    for i, message in enumerate(map(_plain, list(messages))):
        if message.get("role") != "tool":
            continue
        call = pending.pop(str(message.get("tool_call_id")), None)
        content = _string(message.get("content"))
        if content.startswith(_RUNNING) and (call is not None or content == _RUNNING[0]):
            result = _result(call) if call is not None else _LOST.format(name="The function")
            messages[i] = cast(LLMContextMessage, {**message, "content": result})
            replaced = True
    return pending, replaced


def _call_and_result(call_id: str, call: Started) -> list[LLMContextMessage]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    made = {"id": call_id, "function": function, "type": "function"}
    messages = [
        {"role": "assistant", "tool_calls": [made]},
        {"role": "tool", "content": _result(call), "tool_call_id": call_id},
    ]
    return cast("list[LLMContextMessage]", messages)


_LOST = (
    "{name} was started, and its result was lost with the machine that ran it. It was not run "
    "again: it may have done its work."
)


def _result(call: Started) -> str:
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


def _normalized(words: str) -> str:
    """Words with one space between them; long texts in parts, so that other threads run."""
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
