"""The ledger: which call runs, and what becomes of those that may not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from mistral_service.conversation.calls import WAS_CANCELLED
from mistral_service.conversation.rules import apply_rules
from mistral_service.reply.calls import MAX_REMEMBERED, CallLedger
from mistral_service.reply.events import ToolCall

USER = {"role": "user", "content": "Hello."}


def made(call_id: str, name: str = "f", arguments: str = "{}") -> dict:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": call_id, "function": function}]}


def answered(call_id: str, content: str = "1") -> dict:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_a_new_call_runs_with_its_arguments():
    plan = CallLedger().plan([ToolCall("abcdefgh1", "f", '{"a": 1}')])
    [call] = plan.calls
    assert (call.id, call.name, call.arguments, call.synthetic_result) == (
        "abcdefgh1",
        "f",
        {"a": 1},
        None,
    )
    assert plan.continues


def test_the_same_id_twice_in_a_reply_runs_once():
    plan = CallLedger().plan([ToolCall("abcdefgh1", "f", "{}")] * 2)
    assert len(plan.calls) == 1


def test_two_calls_that_are_alike_but_for_the_id_both_run():
    plan = CallLedger().plan([ToolCall("abcdefgh1", "f", "{}"), ToolCall("abcdefgh2", "f", "{}")])
    assert [call.id for call in plan.calls] == ["abcdefgh1", "abcdefgh2"]


def test_one_id_for_two_different_calls_runs_both_under_ids_of_their_own():
    plan = CallLedger().plan([ToolCall("call_0", "f", "{}"), ToolCall("call_0", "g", "{}")])
    first, second = plan.calls
    assert (first.name, second.name) == ("f", "g")
    assert first.id == "call_0" != second.id


def test_calls_without_an_id_get_one_that_mistral_takes():
    plan = CallLedger().plan([ToolCall(None, "f", "{}"), ToolCall(None, "g", "{}")])
    ids = [call.id for call in plan.calls]
    assert all(len(i) == 9 and i.isalnum() for i in ids)
    assert len(set(ids)) == 2


def test_an_answered_call_is_repeated_and_does_not_run():
    ledger = CallLedger()
    ledger.learn([USER, made("abcdefgh1"), answered("abcdefgh1")])
    plan = ledger.plan([ToolCall("abcdefgh1", "f", "{}")])
    assert not plan.calls
    assert [call.id for call in plan.repeated] == ["abcdefgh1"]
    assert not plan.continues


def test_a_call_that_is_in_flight_is_waited_for():
    ledger = CallLedger()
    ledger.learn([USER, made("abcdefgh1"), answered("abcdefgh1", "IN_PROGRESS")])
    plan = ledger.plan([ToolCall("abcdefgh1", "f", "{}")], {"abcdefgh1"})
    assert not plan.calls
    assert plan.waiting
    assert plan.continues


@pytest.mark.parametrize(
    "state", ["IN_PROGRESS", '{"type": "async_tool", "status": "running", "tool_call_id": "x"}']
)
def test_a_call_that_only_looks_as_if_it_ran_is_not_waited_for(state: str):
    """A stored conversation, or an asynchronous call whose result came in another message."""
    ledger = CallLedger()
    ledger.learn([USER, made("abcdefgh1"), answered("abcdefgh1", state)])
    plan = ledger.plan([ToolCall("abcdefgh1", "f", "{}")])
    assert plan.repeated
    assert not plan.continues


def test_what_was_planned_and_not_started_is_forgotten():
    ledger = CallLedger()
    plan = ledger.plan([ToolCall("abcdefgh1", "f", "{broken")])
    ledger.forget(plan.calls)
    assert ledger.plan([ToolCall("abcdefgh1", "f", "{broken")]).error is None


def test_an_id_whose_result_stands_alone_is_not_used_again():
    ledger = CallLedger()
    ledger.learn([USER, answered("abcdefgh1"), USER])
    [call] = ledger.plan([ToolCall("abcdefgh1", "f", "{}")]).calls
    assert call.id != "abcdefgh1"


def test_a_server_that_counts_anew_may_call_the_same_on_a_later_turn():
    ledger = CallLedger()
    ledger.learn([USER, made("call_0"), answered("call_0"), USER])
    [call] = ledger.plan([ToolCall("call_0", "f", "{}")]).calls
    assert call.synthetic_result is None
    assert call.id != "call_0"


@pytest.mark.parametrize("state", ["CANCELLED", json.dumps(WAS_CANCELLED)])
def test_a_cancellation_is_no_result_to_use_again(state: str):
    ledger = CallLedger(repeated_calls="reuse")
    ledger.learn([USER, made("abcdefgh1"), answered("abcdefgh1", state)])
    assert ledger.plan([ToolCall("abcdefgh2", "f", "{}")]).calls[0].synthetic_result is None


def test_the_ledger_does_not_grow_for_ever():
    ledger = CallLedger()
    for n in range(MAX_REMEMBERED + 200):
        ledger.plan([ToolCall(f"{n:09}", "f", "{}")])
        ledger.learn([USER])
    assert len(ledger._entries) <= MAX_REMEMBERED


def test_a_call_stays_known_when_the_context_is_trimmed():
    """Its result is told again, since it stands nowhere any more; the function does not run."""
    ledger = CallLedger()
    ledger.learn([USER, made("abcdefgh1"), answered("abcdefgh1", "sunny")])
    ledger.learn([USER])
    [call] = ledger.plan([ToolCall("abcdefgh1", "f", "{}")]).calls
    assert call.synthetic_result == "sunny"


def test_a_server_that_counts_its_ids_anew_has_its_calls_run():
    ledger = CallLedger()
    ledger.learn([USER, made("call_0", "f", '{"a": 1}'), answered("call_0")])
    [call] = ledger.plan([ToolCall("call_0", "f", '{"a": 2}')]).calls
    assert call.arguments == {"a": 2}
    assert call.id != "call_0"


@pytest.mark.parametrize(
    "arguments",
    ["{broken", "[1, 2]", "7", '"x"', "null", '{"a": NaN}', '{"a": 1e999}', '{"a": [-1E+999]}'],
)
def test_arguments_that_are_no_object_are_told_once_then_given_up(arguments: str):
    ledger = CallLedger()
    [call] = ledger.plan([ToolCall("abcdefgh1", "f", arguments)]).calls
    assert "not a JSON object" in (call.synthetic_result or "")
    assert arguments in (call.synthetic_result or "")
    again = ledger.plan([ToolCall("abcdefgh2", "f", arguments)])
    assert not again.calls
    assert arguments in (again.error or "")


def test_a_large_number_that_a_float_can_hold_is_one():
    plan = CallLedger().plan([ToolCall("abcdefgh1", "f", '{"a": 1e308, "b": -0.5}')])
    assert plan.calls[0].arguments == {"a": 1e308, "b": -0.5}


WRITTEN = ToolCall(None, "wipe", '{"all": true}', written=True)


@pytest.mark.parametrize("offered", [["f", "g"], {"f": 1}, ()])
def test_a_call_in_the_text_of_a_function_that_is_not_offered_is_told_once(offered):
    ledger = CallLedger()
    ledger.learn([USER])
    [call] = ledger.plan([WRITTEN], offered=offered).calls
    assert (call.name, call.arguments) == ("wipe", {"all": True})
    assert (call.synthetic_result or "").startswith(
        "The function wipe did not run: it is not offered."
    )
    ledger.learn([USER, made(call.id, "wipe", '{"all": true}'), answered(call.id)])
    again = ledger.plan([WRITTEN], offered=offered)
    assert not again.calls
    assert "it is not offered" in (again.error or "")


@pytest.mark.parametrize(
    ("call", "offered"),
    [
        (WRITTEN, None),
        (WRITTEN, ["wipe"]),
        (ToolCall("abcdefgh1", "wipe", "{}"), ["f"]),
        (ToolCall("abcdefgh1", "wipe", "{}"), ()),
    ],
)
def test_any_other_call_runs(call: ToolCall, offered):
    assert CallLedger().plan([call], offered=offered).calls[0].synthetic_result is None


def test_with_reuse_a_call_that_is_not_offered_is_answered_from_no_result():
    ledger = CallLedger(repeated_calls="reuse")
    ledger.learn([USER, made("a", "wipe", '{"all": true}'), answered("a", "wiped")])
    [call] = ledger.plan([WRITTEN], offered=["f"]).calls
    assert "it is not offered" in (call.synthetic_result or "")


def test_a_call_that_is_right_at_last_begins_the_count_anew():
    ledger = CallLedger()
    ledger.plan([ToolCall("abcdefgh1", "f", "{broken")])
    assert ledger.plan([ToolCall("abcdefgh2", "f", "{}")]).calls[0].synthetic_result is None
    assert ledger.plan([ToolCall("abcdefgh3", "f", "{broken")]).error is None


def test_with_reuse_a_like_call_of_the_same_turn_is_answered_from_the_first():
    ledger = CallLedger(repeated_calls="reuse")
    [call] = ledger.plan([ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "f", '{"x":1}')]).calls
    assert call.id == "a"
    ledger.learn([USER, made("a", "f", '{"x": 1}'), answered("a", "sunny")])
    [told] = ledger.plan([ToolCall("c", "f", '{"x": 1}')]).calls
    assert told.synthetic_result == "sunny"
    ledger.learn([USER, made("a", "f", '{"x": 1}'), answered("a", "sunny"), USER])
    [again] = ledger.plan([ToolCall("d", "f", '{"x": 1}')]).calls
    assert again.synthetic_result is None


calls = st.builds(
    ToolCall,
    st.sampled_from(["abcdefgh1", "abcdefgh2", "call_0", None]),
    st.sampled_from(["f", "g"]),
    st.sampled_from(["{}", '{"a": 1}', "{broken", "[1]"]),
)


@given(st.lists(st.lists(calls, max_size=4), max_size=6), st.booleans())
def test_no_id_runs_twice_and_no_reply_is_without_a_way_out(replies, settle: bool):
    ledger = CallLedger()
    ran: list[str] = []
    for reply in replies:
        plan = ledger.plan(reply, () if settle else ran)
        ran += [call.id for call in plan.calls if call.synthetic_result is None]
        assert bool(reply) == bool(plan.continues or plan.repeated or plan.error)
    assert len(ran) == len(set(ran))
    assert all(json.dumps(call_id) for call_id in ran)


ODD = {
    "bytes": {"x": b"\xff"},
    "nan": {"x": float("nan")},
    "a set": {"x": {1, 2}},
    "an object in it": {"x": object()},
    "an object": object(),
    "bytes alone": b"{}",
    "itself": "itself",
}


@pytest.mark.parametrize("arguments", ODD.values(), ids=list(ODD))
def test_arguments_of_any_python_value_become_an_object_of_strict_json(arguments: Any):
    if arguments == "itself":
        arguments = {}
        arguments["x"] = arguments
    call = {"id": "abcdefgh1", "function": {"name": "f", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "abcdefgh1", "content": "ok"}
    sent = apply_rules([USER, {"role": "assistant", "tool_calls": [call]}, result])
    text = sent[1]["tool_calls"][0]["function"]["arguments"]
    assert isinstance(from_json(text, allow_inf_nan=False), dict)
