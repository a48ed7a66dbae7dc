"""What is kept of a conversation, and where it goes on: the pure parts."""

import json

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from pipecat.processors.aggregators.llm_context import LLMContext, LLMSpecificMessage

from mistral_service.reply.calls import CallLedger
from mistral_service.reply.events import ToolCall
from mistral_service.scale.after_takeover import PendingContext
from mistral_service.scale.bounds import IMAGE_OMITTED
from mistral_service.scale.recordable_settings import recordable
from mistral_service.scale.resume import (
    MAX_AHEAD,
    cut_point,
    opening_digests,
    resume,
    without_result,
)
from mistral_service.scale.sealing import Codec, Unreadable
from mistral_service.scale.snapshot import (
    Journal,
    Snapshot,
    Started,
    TooNew,
    journal_from_json,
    snapshot_from_json,
    snapshot_to_json,
    started_from_json,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
STANDARD = st.builds(
    lambda role, content, more: {**more, "role": role, "content": content},
    st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
    st.text() | st.lists(st.builds(lambda t: {"type": "text", "text": t}, st.text()), max_size=3),
    st.dictionaries(st.text(), JSON, max_size=2),
)
SPECIFIC = st.builds(LLMSpecificMessage, st.sampled_from(["mistral", "anthropic"]), JSON)
SNAPSHOTS = st.builds(
    Snapshot,
    turn=st.integers(0, 10_000),
    messages=st.lists(STANDARD | SPECIFIC, max_size=6),
    opened_with=st.lists(st.text(), max_size=2),
    settings=st.dictionaries(st.text(), JSON, max_size=3),
    ledger=st.lists(st.dictionaries(st.text(), JSON, max_size=2), max_size=2),
)
USER = {"role": "user", "content": "What time is it?"}
SYSTEM = {"role": "system", "content": "You are a voice."}
NOON = "It is noon, and the sun is high."
CODECS = [Codec(), Codec([Fernet.generate_key().decode()])]


@pytest.mark.parametrize("codec", CODECS, ids=["open", "sealed"])
@given(snapshot=SNAPSHOTS)
def test_a_snapshot_comes_back_as_it_was(codec: Codec, snapshot: Snapshot):
    assert snapshot_from_json(codec.unpack(codec.pack(snapshot_to_json(snapshot)))) == snapshot


def test_a_sealed_call_tells_nothing_without_its_key_and_keys_can_change():
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    sealed = Codec([old]).pack(json.dumps("secret words"))
    assert b"secret words" not in sealed
    assert Codec([new, old]).unpack(sealed) == "secret words"
    for codec in (Codec(), Codec([new])):
        with pytest.raises(Unreadable, match="MISTRAL_SERVICE_KEEP_KEY"):
            codec.unpack(sealed)


def test_keys_come_from_the_environment_or_a_file(tmp_path):
    one, two = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    sealed = Codec([two]).pack("1")
    path = tmp_path / "keys"
    path.write_text(f"{one},{two}\n")
    for environment in (
        {"MISTRAL_SERVICE_KEEP_KEY": f"{one}, {two}"},
        {"MISTRAL_SERVICE_KEEP_KEY_FILE": str(path)},
    ):
        assert Codec.from_environment(environment).unpack(sealed) == 1
    with pytest.raises(ValueError, match="MISTRAL_SERVICE_KEEP_KEY is not valid") as e:
        Codec.from_environment({"MISTRAL_SERVICE_KEEP_KEY": "hunter2"})
    assert "hunter2" not in str(e.value)
    with pytest.raises(ValueError, match="_FILE cannot be read"):
        Codec.from_environment({"MISTRAL_SERVICE_KEEP_KEY_FILE": str(tmp_path / "none")})


def test_a_newer_form_is_told():
    data = json.loads(snapshot_to_json(Snapshot(3, [USER])))
    with pytest.raises(TooNew, match="newer version"):
        snapshot_from_json({**data, "version": 2})


def test_what_a_newer_version_has_added_is_left_out():
    data = json.loads(snapshot_to_json(Snapshot(3, [USER])))
    assert snapshot_from_json({**data, "mood": "good"}) == Snapshot(3, [USER])
    assert journal_from_json({"turn": 3, "words": "It is", "mood": "good"}) == Journal(3, "It is")
    call = {"name": "book", "arguments": {"at": "8"}, "turn": 3, "mood": "good"}
    assert started_from_json(call) == Started("book", {"at": "8"}, 3)


def image(size: int) -> dict:
    url = "data:image/jpeg;base64," + "A" * size
    shown = {"type": "image_url", "image_url": {"url": url}}
    return {"role": "user", "content": [{"type": "text", "text": "Look."}, shown]}


def test_the_oldest_images_give_way_then_the_oldest_words():
    messages = [SYSTEM, image(5000), {"role": "assistant", "content": "Nice."}, image(5000)]
    back = snapshot_from_json(json.loads(snapshot_to_json(Snapshot(1, messages), 8000))).messages
    assert back[1]["content"][1] == {"type": "text", "text": IMAGE_OMITTED}
    assert back[3] == messages[3]
    assert messages[1]["content"][1]["type"] == "image_url"  # the conversation itself is left alone

    many = [SYSTEM, *({"role": "user", "content": f"{i} " + "x" * 100} for i in range(100))]
    text = snapshot_to_json(Snapshot(1, many), 3000)
    back = snapshot_from_json(json.loads(text)).messages
    assert back[0] == SYSTEM
    assert back[1:] == many[-len(back) + 1 :]
    assert 10 < len(back) < 40


def test_settings_that_json_cannot_hold_are_left_out():
    values = {"a": 1, "b": object(), "c": {"x": [1]}, "d": float("nan"), "e": (1, 2)}
    assert recordable(values) == {"a": 1, "c": {"x": [1]}}


@pytest.mark.parametrize(
    ("journal", "heard", "words"),
    [
        ("It is", None, "It is"),
        ("It is noon", "It is", "It is"),
        ("It is", "It is noon", "It is noon"),
        ("It is ", "It is", "It is "),
        ("It is", "", ""),
        ("It is", "Hello", "It is"),
        ("It is", "It is" + "x" * (MAX_AHEAD + 1), "It is"),
    ],
)
def test_where_a_reply_was_cut(journal, heard, words):
    assert cut_point(journal, heard) == words


@given(reply=st.text(), one=st.integers(0, 40), two=st.integers(0, 40))
def test_what_the_caller_has_heard_of_a_reply_counts(reply, one, two):
    assert "".join(cut_point(reply[:one], reply[:two]).split()) == "".join(reply[:two].split())


def after(journal: Journal, started=None, fresh=(), messages=(SYSTEM, USER), **heard):
    snapshot = Snapshot(1, list(messages), opening_digests([USER]))
    return resume(snapshot, journal, started or {}, list(fresh), **heard)


def test_a_reply_that_was_cut_is_to_go_on():
    messages, past = after(Journal(1, "It is "))
    assert (messages, past.spoken_so_far, past.must_answer) == ([SYSTEM, USER], "It is ", True)


def test_nothing_said_is_answered_anew():
    assert after(Journal(1, ""))[1].must_answer
    assert after(Journal(1, "It is noon."), heard="")[1].spoken_so_far == ""


def test_what_was_heard_of_the_reply_before_says_nothing_of_this_one():
    before = {"role": "assistant", "content": "It is noon."}
    messages = (SYSTEM, USER, before, {"role": "user", "content": "And now?"})
    for journal in (Journal(1, ""), Journal(1, "Still noon")):
        past = after(journal, messages=messages, heard="It is noon.", ended=True)[1]
        assert (past.spoken_so_far, past.must_answer) == ("", True)


def test_nobody_has_heard_the_end_of_a_reply_of_which_no_word_was_said():
    assert after(Journal(1, ""), heard="", ended=True)[1].must_answer


def test_a_whole_reply_is_not_asked_for_again():
    for journal, heard in (
        (Journal(1, NOON, complete=True), {}),
        (Journal(1, NOON, complete=True), {"heard": NOON}),
        (Journal(1, NOON[:5]), {"heard": NOON, "ended": True}),
    ):
        messages, past = after(journal, **heard)
        assert messages[-1] == {"role": "assistant", "content": NOON}
        assert not past.must_answer


def test_a_whole_reply_of_which_a_part_was_heard_goes_on():
    messages, past = after(Journal(1, NOON, complete=True), heard=NOON[:10])
    assert (past.spoken_so_far, past.must_answer, messages[-1]) == (NOON[:10], True, USER)


def test_what_was_heard_of_the_reply_before_is_no_beginning_of_this_one():
    said = [SYSTEM, USER, {"role": "assistant", "content": NOON}, USER]
    for ended in (True, False):
        messages, past = after(Journal(1), messages=said, heard=NOON, ended=ended)
        assert (messages, past.spoken_so_far, past.must_answer) == (said, "", True)


def test_the_opening_is_dropped_and_new_words_are_not():
    new = {"role": "user", "content": "Are you there?"}
    greeting = {"role": "assistant", "content": "Hello!"}
    messages, past = after(Journal(1, "It is "), fresh=[SYSTEM, USER, greeting])
    assert (messages, past.spoken_so_far) == ([SYSTEM, USER], "It is ")
    messages, past = after(Journal(1, "It is "), fresh=[SYSTEM, greeting, new])
    assert messages[2:] == [{"role": "assistant", "content": "It is"}, new]
    assert (past.spoken_so_far, past.must_answer) == ("", True)


def test_calls_come_behind_the_words_and_have_a_result():
    started = {
        "aaaaaaaaa": Started("book", {"at": "8"}, 1, '"done"'),
        "bbbbbbbbb": Started("pay", {}, 1),
    }
    messages, past = after(Journal(1, "Let me see.", complete=True), started)
    assert past.must_answer
    assert messages[2] == {"role": "assistant", "content": "Let me see."}
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == list(started)
    assert messages[4]["content"] == '"done"'
    assert "pay was started" in messages[6]["content"]


def test_a_call_that_ran_when_the_turn_began_gets_its_result_in_its_place():
    call = {"id": "aaaaaaaaa", "type": "function", "function": {"name": "book", "arguments": "{}"}}
    waiting = [
        USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "IN_PROGRESS", "tool_call_id": "aaaaaaaaa"},
    ]
    started = {"aaaaaaaaa": Started("book", {}, 1, '"done"')}
    messages, past = after(Journal(1), started, messages=waiting)
    assert [m.get("content") for m in messages] == [USER["content"], None, '"done"']
    assert past.must_answer
    assert without_result(waiting, started, 2) == started
    assert without_result(messages, started, 2) == {}
    assert without_result([USER], started, 3) == {}


@given(words=st.text(st.sampled_from("ab .,"), min_size=2, max_size=30), at=st.integers(1, 29))
def test_the_rest_of_a_reply_joins_what_was_cut(words, at):
    words = words.strip()
    first, rest = words[:at], words[at:]
    if not first.strip() or not rest.strip():
        return
    context = LLMContext([USER])
    pending = PendingContext(context, context.get_messages()[-1], first)
    pending.on_continuation(rest)
    assert not pending.merge(final=False)
    context.add_message({"role": "assistant", "content": rest.strip()})
    assert pending.merge(final=False)
    (whole,) = context.get_messages()[1:]
    assert whole["content"].split() == words.split()


def test_a_rest_that_never_came_leaves_the_words_that_were_heard():
    context = LLMContext([dict(USER), {"role": "user", "content": "Stop."}])
    pending = PendingContext(context, context.get_messages()[0], "It is ")
    assert pending.merge(final=True)
    assert [m["content"] for m in context.get_messages()] == [USER["content"], "It is", "Stop."]


def test_a_ledger_goes_on_from_another():
    one, two = CallLedger(), CallLedger()
    call = ToolCall("aB3dE5gH7", "book", '{"at": "8"}')
    one.plan([call])
    context = [
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "aB3dE5gH7", "function": {"name": "book", "arguments": '{"at": "8"}'}}
            ],
        },
        {"role": "tool", "content": "done", "tool_call_id": "aB3dE5gH7"},
    ]
    one.learn(context)
    two.restore(json.loads(json.dumps(one.snapshot())))
    two.learn(context)
    two.learn([])
    assert two.plan([call]).calls[0].synthetic_result == "done"


def test_of_a_ledger_no_more_is_kept_than_fits():
    ledger = CallLedger()
    for n in range(1000):
        call = ToolCall(f"call{n:05}", "read", f'{{"page": {n}}}')
        ledger.plan([call])
        function = {"name": "read", "arguments": call.arguments}
        ledger.learn(
            [
                {"role": "assistant", "tool_calls": [{"id": call.id, "function": function}]},
                {"role": "tool", "content": f"{n} " * 1000, "tool_call_id": call.id},
            ]
        )
    ledger.learn([])  # none of it stands in the context any more
    kept = ledger.snapshot()
    assert len(kept) == 1000  # no call is forgotten, only what the oldest of them brought
    assert kept[-1]["result"].startswith("999 ")
    assert kept[0]["result"] is None
    assert len(json.dumps(kept)) < 300_000
