"""Where a call goes on whose caller has asked more than was kept: the pure parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipecat.processors.aggregators.llm_context import LLMSpecificMessage

from mistral_service.scale.resume import missing_words, opening_digests, resume
from mistral_service.scale.snapshot import Journal, Snapshot, Started

SYSTEM = {"role": "system", "content": "You are a voice."}
USER = {"role": "user", "content": "What time is it?"}
NOON = "It is noon, and the sun is high."
BOOK = {"role": "user", "content": "Book a table."}
REPLY = {"role": "assistant", "content": NOON}


def after(journal: Journal, started=None, fresh=(), **told):
    snapshot = Snapshot(1, [SYSTEM, USER], opening_digests([USER]))
    return resume(snapshot, journal, started or {}, list(fresh), **told)


@pytest.mark.parametrize(
    ("journal", "heard", "ended", "said"),
    [
        (Journal(1, NOON, complete=True), NOON, True, NOON),
        (Journal(1, NOON, complete=True), "", False, NOON),  # nothing heard of the answer to come
        (Journal(1, NOON, complete=True), None, False, NOON),
        (Journal(1, NOON), NOON[:10], True, NOON[:10].strip()),  # interrupted
        (Journal(1, NOON[:5]), NOON, True, NOON),  # the journal is late
        (Journal(1, NOON), "Blue is", False, NOON),  # of the answer that was not kept
    ],
)
def test_words_that_were_not_kept_are_answered_and_the_reply_before_them_is_done(
    journal, heard, ended, said
):
    messages, past = after(journal, heard=heard, ended=ended, asked="Book  a table. ")
    assert messages == [SYSTEM, USER, {"role": "assistant", "content": said}, BOOK]
    assert (past.spoken_so_far, past.must_answer) == ("", True)


def test_words_that_were_kept_change_nothing():
    for heard, ended in ((NOON[:10], False), ("", False), (None, False), (NOON, True)):
        told = {"heard": heard, "ended": ended}
        without = after(Journal(1, NOON[:15]), **told)
        assert after(Journal(1, NOON[:15]), **told, asked=USER["content"]) == without
        assert after(Journal(1, NOON[:15]), **told, asked=" ") == without


def test_a_question_that_waits_gets_its_other_half():
    messages, past = after(Journal(1), heard="", asked="What time is it? Book a table.")
    assert (messages, past.must_answer) == ([SYSTEM, USER, BOOK], True)


def test_a_question_that_begins_like_one_that_was_answered_is_another():
    asked = "What time is it? In Rome?"
    messages, _ = after(Journal(1, NOON, complete=True), heard="", asked=asked)
    assert messages == [SYSTEM, USER, REPLY, {"role": "user", "content": asked}]


def test_before_the_first_turn_was_kept_the_callers_words_are_the_conversation():
    messages, past = resume(Snapshot(), Journal(), {}, [SYSTEM], asked="Book a table.")
    assert (messages, past.spoken_so_far, past.must_answer) == ([SYSTEM, BOOK], "", True)
    messages, past = resume(Snapshot(), Journal(), {}, [SYSTEM, BOOK], asked="Book a table.")
    assert (messages, past.must_answer) == ([SYSTEM, BOOK], True)


def test_words_that_were_not_kept_come_before_those_since_and_are_not_said_twice():
    since = {"role": "user", "content": "For two."}
    whole = Journal(1, NOON, complete=True)
    messages, _ = after(whole, fresh=[SYSTEM, USER, since], heard="", asked="Book a table.")
    assert messages == [SYSTEM, USER, REPLY, BOOK, since]
    messages, _ = after(whole, fresh=[SYSTEM, BOOK], heard="", asked="Book a table.")
    assert messages == [SYSTEM, USER, REPLY, BOOK]


def test_a_function_that_ran_has_its_result_before_the_words_that_were_not_kept():
    started = {"aaaaaaaaa": Started("book", {"at": "8"}, 1, '"done"')}
    messages, past = after(Journal(1), started, heard="", asked="Hurry up.")
    assert [m["role"] for m in messages[2:]] == ["assistant", "tool", "user"]
    assert past.must_answer


REWRITTEN = {"role": "user", "content": "[12:30] ask the clock"}
PARTS = {
    "role": "user",
    "content": [{"type": "text", "text": "Look,\n what is it?"}, {"type": "x"}],
}
TOOLS = [{"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "IN_PROGRESS"}]


@pytest.mark.parametrize(
    ("asked", "messages", "noted", "begun", "lacks"),
    [
        (None, [USER], "", False, ""),
        ("What  time\nis it?", [USER], "", True, ""),
        ("Look, what is it?", [PARTS], "", True, ""),
        ("What time is it? Book a table.", [USER, BOOK], "", False, ""),  # in two messages
        ("Book a table.", [USER, BOOK], "", True, ""),
        ("What time is it?", [USER, *TOOLS], "", False, ""),  # a function's result is to be told
        (
            "What time is it?",
            [{"role": "user", "content": "[Ann] What time is it? [/]"}],
            "",
            1,
            "",
        ),
        ("What time is it?", [REWRITTEN], "What time is it?", True, ""),
        ("What time is it?", [REWRITTEN], "", True, "What time is it?"),
        ("RequestEstimate it! Quick.", [REWRITTEN], "RequestEstimate it!", False, "Quick."),
        ("Is it?", [USER], "What time is it?", False, "Is it?"),  # no part of the words before
        ("time", [USER], "What time is it?", True, "time"),
        ("Book a table.", [], "", False, "Book a table."),
        ("Book a table.", [BOOK, REPLY, USER], "", True, "Book a table."),
        ("Book a table.", [BOOK, REPLY, USER], "", False, "Book a table."),
        ("What time is it? Now?", [USER, REPLY], "", False, "What time is it? Now?"),
        ("What time is it?Now?", [USER], "", False, "What time is it?Now?"),
        ("A", [LLMSpecificMessage("mistral", {"role": "user"})], "A", False, ""),
    ],
)
def test_which_words_a_conversation_lacks(asked, messages, noted, begun, lacks):
    assert missing_words(asked, messages, noted, begun=bool(begun)) == lacks


@given(
    asked=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    kept=st.integers(0, 4),
    unanswered=st.integers(0, 2),
    said=st.integers(0, 4),
    heard=st.none() | st.integers(0, 4),
    rewritten=st.booleans(),
)
def test_wherever_a_call_was_cut_each_of_the_callers_words_is_there_once(
    asked, kept, unanswered, said, heard, rewritten
):
    # Of each turn the caller says some words, all of which but the last turn's were answered.
    turns = [[f"q{n}w{k}" for k in range(count)] for n, count in enumerate(asked)]
    kept = min(kept, len(turns))
    reply = [f"a{kept - 1}w{k}" for k in range(4)]
    ahead = kept < len(turns)
    if ahead:
        turns = turns[: kept + 1]
    history = [SYSTEM]
    for n, words in enumerate(turns[:kept]):
        content = " ".join(words)
        history.append({"role": "user", "content": f"<{n}>" if rewritten else content})
        if n < kept - 1:
            history.append({"role": "assistant", "content": f"a{n}"})
    said = said if kept else 0
    noted = " ".join(turns[kept - 1]) if kept else ""
    journal = Journal(kept, " ".join(reply[:said]), said == 4, noted)
    told = "" if ahead else None if heard is None else " ".join(reply[:heard])
    last = " ".join(turns[-1])
    if ahead and kept and not said and unanswered:
        last = f"{noted} {last}"  # no answer had begun in between, as far as the client knows
    snapshot = Snapshot(kept, history if kept else [])
    messages, past = resume(snapshot, journal, {}, [SYSTEM], heard=told, asked=last)
    there = " ".join(m["content"] for m in messages if m["role"] == "user").split()
    everything = [w for words in turns for w in words]
    if rewritten:
        everything = [f"<{n}>" for n in range(kept)] + (turns[-1] if ahead else [])
    assert there == everything
    answered = " ".join(
        [*(m["content"] for m in messages if m["role"] == "assistant"), past.spoken_so_far]
    )
    heard_of_it = reply[: said if heard is None or ahead else heard]
    assert answered.split() == [f"a{n}" for n in range(kept - 1)] + heard_of_it
    assert past.must_answer == (ahead or len(heard_of_it) < 4 or said < 4)
    assert not (ahead and past.spoken_so_far)
