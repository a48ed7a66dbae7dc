"""The rules: whatever a history is, what is sent is accepted by every judge, with nothing lost."""

import copy
import json
import re
from collections import Counter
from typing import Any

import pytest
from chat_templates import render, templates
from histories import histories, turns
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strict import EXAMPLES, refusal

from mistral_service.conversation.calls import NO_RESULT, STILL_RUNNING, WAS_CANCELLED, safe_name
from mistral_service.conversation.parts import EARLIER_IMAGE
from mistral_service.conversation.rules import (
    BRIDGE,
    CONTINUE_TEXT,
    INSTRUCTION,
    OPENING,
    RULES,
    Conversion,
    apply_rules,
)

many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
USER = {"role": "user", "content": "Hello."}
SAID = {"role": "assistant", "content": "Hi."}


def spoken(messages: list[dict]) -> list[str]:
    """The marked words of a history, in order of appearance."""
    return re.findall(r"w\d+w", json.dumps([m.get("content") or "" for m in messages]))


# --- properties ---------------------------------------------------------------------------------


@many
@given(histories, st.booleans())
def test_every_history_is_accepted_by_every_judge(history: list[dict], tools: bool):
    sent = apply_rules(history, Conversion(has_tools=tools))
    assert refusal(sent, tools=tools) is None
    for name in templates():
        assert render(name, sent) is None, name


@many
@given(histories, st.booleans())
def test_nothing_said_is_lost(history: list[dict], tools: bool):
    said, sent = Counter(spoken(history)), Counter(spoken(apply_rules(history, Conversion())))
    # A result that was told twice, word for word, is told once.
    assert set(said) == set(sent)
    assert all(sent[word] <= said[word] for word in said)


@many
@given(histories)
def test_what_is_said_keeps_its_order(history: list[dict]):
    """All but results, which move to their call."""
    plain = [message for message in history if message["role"] != "tool"]
    order = spoken(plain)
    if len(set(order)) < len(order):
        return
    results = {word for m in history if m["role"] == "tool" for word in spoken([m])}
    sent = [w for w in spoken(apply_rules(history)) if w in set(order) and w not in results]
    assert sent == [word for word in order if word not in results]


@many
@given(histories, st.booleans())
def test_running_the_rules_on_their_own_result_changes_nothing(history: list[dict], tools: bool):
    sent = apply_rules(history, Conversion(has_tools=tools))
    again = Conversion(has_tools=tools)
    assert apply_rules(sent, again) == sent
    assert again.changes == []


@many
@given(histories, st.booleans())
def test_the_history_itself_is_left_as_it_is(history: list[dict], tools: bool):
    before = copy.deepcopy(history)
    apply_rules(history, Conversion(has_tools=tools))
    assert history == before


@many
@given(histories, turns)
def test_a_turn_at_the_end_changes_nothing_before_the_last(history: list[dict], turn: list[dict]):
    """The prompt cache holds, unless a rule forces the change: images, and results come late."""
    late = any(message["role"] == "tool" for message in turn)
    system = any(message["role"] in ("system", "developer") for message in turn)
    if late or system or "image_url" in json.dumps(history + turn):
        return
    before = apply_rules(
        [{"role": "user", "content": "Hello."}, *history], Conversion(has_tools=True)
    )
    after = apply_rules(
        [{"role": "user", "content": "Hello."}, *history, *turn], Conversion(has_tools=True)
    )
    # The last message may be merged with what follows it, be the rules' own "go on", or be the
    # side of calls that another joins.
    kept = before[:-1]
    while kept and (kept[-1]["role"] == "tool" or kept[-1].get("tool_calls")):
        kept.pop()
    kept = kept[:-1]
    assert after[: len(kept)] == kept


@many
@given(histories)
def test_every_change_is_told_with_its_rule_and_place(history: list[dict]):
    conversion = Conversion()
    sent = apply_rules(history, conversion)
    if sent == history:
        assert conversion.changes == []
    else:
        assert conversion.changes
    for change in conversion.changes:
        assert re.fullmatch(r"R\d+", change.rule)
        assert 0 <= change.index < max(len(history), 1)
        assert change.reason


@many
@given(histories, st.integers(1, 5))
def test_unchanged_messages_are_shared_not_copied(history: list[dict], turns_before: int):
    plain = [dict(m) for _ in range(turns_before) for m in (USER, SAID)]
    sent = apply_rules([*plain, *history])
    # The last of them may be merged with what follows.
    assert all(new is old for new, old in zip(sent, plain[:-1], strict=False))


# --- rule by rule -------------------------------------------------------------------------------


def call(call_id: str = "abcdefgh1", name: str = "f", arguments: str = "{}") -> dict:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def called(*calls: dict) -> dict:
    return {"role": "assistant", "tool_calls": list(calls) or [call()]}


def result(content: str = "1", call_id: str = "abcdefgh1") -> dict:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_a_plain_conversation_is_sent_as_it_is():
    history = [{"role": "system", "content": "Be brief."}, USER, SAID, USER]
    conversion = Conversion()
    sent = apply_rules(history, conversion)
    assert sent == history
    assert all(new is old for new, old in zip(sent, history, strict=True))
    assert conversion.changes == []


def test_r1_a_later_instruction_keeps_its_place_as_the_users():
    later = {"role": "system", "content": "Speak French."}
    assert apply_rules([USER, SAID, later, USER]) == [
        USER,
        SAID,
        {"role": "user", "content": f"{INSTRUCTION}Speak French.\n\nHello."},
    ]


@pytest.mark.parametrize(
    "after",
    [
        [],
        [{"role": "developer", "content": ""}],
        [{"role": "assistant", "content": "For which day?"}, USER],
        [called(), result(), USER],
    ],
)
def test_r14_the_last_of_several_instructions_is_what_is_asked(after: list):
    """So are the messages of a flow that resets the context in mid-call: no one greets again."""
    role = {"role": "system", "content": "You are a waiter."}
    task = {"role": "developer", "content": "Ask for the day."}
    asked = {"role": "user", "content": "[Instruction] Ask for the day."}
    assert apply_rules([role, task, *after])[:2] == [role, asked]


def test_r14_a_single_instruction_is_the_system_message():
    task = {"role": "developer", "content": "Ask for the day."}
    assert apply_rules([task])[0] == {"role": "system", "content": "Ask for the day."}


def test_r14_a_leading_developer_message_joins_the_system_block():
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Greet."},
        USER,
    ]
    assert apply_rules(history)[0] == {"role": "system", "content": "Be brief.\n\nGreet."}


def test_r2_a_bridge_stands_between_a_result_and_the_user():
    sent = apply_rules([USER, called(), result(), USER])
    assert sent[3] == {"role": "assistant", "content": BRIDGE}
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "assistant", "user"]


def test_r2_a_turn_that_ends_with_results_goes_out_as_it_is():
    history = [
        USER,
        called(call("abcdefgh1"), call("abcdefgh2")),
        result(),
        result("2", "abcdefgh2"),
    ]
    assert apply_rules(history) == history


def test_r3_a_late_result_moves_to_its_call():
    sent = apply_rules([USER, called(), USER, SAID, result("late")])
    assert sent[1:3] == [called(), result("late")]


def test_r3_an_orphan_result_becomes_the_users_text():
    sent = apply_rules([USER, result("42")])
    assert sent == [{"role": "user", "content": "Hello.\n\n[Result of a function call] 42"}]


def test_r4_a_missing_result_is_stated():
    assert apply_rules([USER, called(), USER])[2] == result(NO_RESULT)


@pytest.mark.parametrize(
    ("state", "words"),
    [("IN_PROGRESS", STILL_RUNNING), ("CANCELLED", WAS_CANCELLED), ("COMPLETED", "COMPLETED")],
)
def test_r4_pipecats_states_are_said_in_words(state: str, words: str):
    assert apply_rules([USER, called(), result(state)])[2] == result(words)


def test_r4_a_result_told_twice_is_told_once_and_a_different_one_is_kept():
    sent = apply_rules([USER, called(), result("1"), result("1"), result("2")])
    assert sent[2] == result("1")
    assert sent[-1]["content"] == "[Later result of f] 2"
    assert json.dumps(sent).count('"1"') == 1


def test_r4_pipecats_one_message_a_call_stays_as_it_is():
    history = [USER, called(call("abcdefgh1")), result(), called(call("abcdefgh2"))]
    history.append(result("2", "abcdefgh2"))
    assert apply_rules(history) == history


def test_r4_calls_side_by_side_become_one_message():
    history = [USER, called(call("abcdefgh1")), called(call("abcdefgh2"))]
    history += [result("2", "abcdefgh2"), result("1", "abcdefgh1")]
    sent = apply_rules(history)
    assert sent[1] == called(call("abcdefgh1"), call("abcdefgh2"))
    assert [m["content"] for m in sent[2:]] == ["1", "2"]


def test_r4_an_id_that_a_server_uses_again_names_the_latest_call():
    history = [USER, called(call("call_0")), result("a", "call_0"), SAID, USER]
    history += [called(call("call_0")), result("b", "call_0")]
    assert [m["content"] for m in apply_rules(history) if m["role"] == "tool"] == ["a", "b"]


def test_r5_a_last_assistant_message_is_a_prefix_where_no_functions_are_offered():
    assert apply_rules([USER, SAID])[-1] == {**SAID, "prefix": True}


def test_r13_with_functions_the_user_says_go_on_instead():
    sent = apply_rules([USER, {**SAID, "prefix": True}], Conversion(has_tools=True))
    assert sent == [USER, SAID, {"role": "user", "content": CONTINUE_TEXT}]


def test_r5_an_old_prefix_is_none_any_more():
    assert apply_rules([USER, {**SAID, "prefix": True}, USER]) == [USER, SAID, USER]


def test_r6_foreign_ids_become_nine_characters_the_same_on_every_turn():
    first = apply_rules([USER, called(call("call_A")), result("1", "call_A")])
    conversion = Conversion()
    history = [USER, called(call("call_A")), result("1", "call_A"), USER]
    history += [called(call("toolu_B")), result("2", "toolu_B")]
    later = apply_rules(history, conversion)
    sent_id = first[1]["tool_calls"][0]["id"]
    assert re.fullmatch(r"[a-zA-Z0-9]{9}", sent_id)
    assert later[1:3] == first[1:3]
    assert conversion.call_ids[sent_id] == "call_A"
    assert set(conversion.call_ids.values()) == {"call_A", "toolu_B"}


def test_r6_ids_that_mistral_takes_stay():
    assert apply_rules([USER, called(), result()])[1] == called()


def test_r7_an_assistant_that_says_nothing_goes():
    assert apply_rules([USER, {"role": "assistant", "content": ""}, SAID, USER]) == [
        USER,
        SAID,
        USER,
    ]


def test_r8_words_and_a_call_stand_apart():
    sent = apply_rules([USER, {**SAID, **called()}, result()])
    assert sent == [USER, SAID, {"role": "user", "content": CONTINUE_TEXT}, called(), result()]


def test_r9_fields_outside_the_schema_are_left_out():
    history = [
        {**USER, "name": "anna", "metadata": {}},
        {**SAID, "reasoning_content": "x", "refusal": None, "tool_calls": []},
        USER,
    ]
    assert apply_rules(history) == [USER, SAID, USER]


def test_r9_a_refusal_is_what_was_said():
    refused = {"role": "assistant", "content": None, "refusal": "I may not."}
    assert apply_rules([USER, refused, USER])[1]["content"] == "I may not."


def test_r9_files_and_sound_take_mistrals_form():
    pdf = "data:application/pdf;base64,AA=="
    content = [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": pdf}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "text", "text": "Look."},
    ]
    assert apply_rules([{"role": "user", "content": content}])[0]["content"] == [
        {"type": "document_url", "document_url": pdf, "document_name": "a.pdf"},
        {"type": "input_audio", "input_audio": "UklGRg=="},
        {"type": "text", "text": "Look."},
    ]


def test_r9_parts_lose_the_fields_of_others():
    content = [
        {"type": "document_url", "document_url": {"url": "https://a/b.pdf"}, "cache_control": {}},
        {"type": "thinking", "thinking": "x", "signature": "s"},
        {"type": "reference", "reference_ids": [1], "extra": 1},
        {"type": "text", "text": "Look.", "cache_control": {}},
    ]
    assert apply_rules([{"role": "user", "content": content}])[0]["content"] == [
        {"type": "document_url", "document_url": "https://a/b.pdf"},
        {"type": "reference", "reference_ids": [1]},
        {"type": "text", "text": "Look."},
    ]


PAGE = {"type": "resource", "uri": "file://a", "content": {"type": "text", "text": "Page one."}}
LINK = {"type": "resource_link", "uri": "file://b"}


def test_r9_resources_are_kept_as_mistral_knows_them():
    content = [
        PAGE,
        {"type": "resource", "resource": {"uri": "file://a", "text": "Page one.", "mimeType": "x"}},
        {"type": "resource", "resource": {"uri": "file://b", "blob": "AA=="}},
        {**LINK, "name": "b", "metadata": {"page": 1, "tags": ["x"]}},
        {"type": "resource_link", "uri": None},
    ]
    linked = {**LINK, "metadata": {"page": 1}}
    sent = apply_rules([{"role": "user", "content": content}])
    assert sent[0]["content"] == [PAGE, PAGE, LINK, linked]


def test_r15_resources_of_others_than_the_user_are_words():
    history = [USER, called(call()), {**result(), "content": [PAGE, LINK]}, SAID, USER]
    assert apply_rules(history)[2]["content"] == "Page one.\nfile://b"


def test_r10_an_image_in_a_resource_is_an_image():
    url = "https://example.com/{}.png"
    images = [{"type": "image_url", "image_url": {"url": url.format(n)}} for n in range(9)]
    held = [{"type": "resource", "uri": f"file://{n}", "content": i} for n, i in enumerate(images)]
    [sent] = apply_rules([{"role": "user", "content": held}])
    assert sent["content"] == [{"type": "text", "text": EARLIER_IMAGE}, *held[1:]]


def test_thoughts_keep_their_sources_and_what_seals_them():
    thought = {
        "type": "thinking",
        "thinking": [
            {"type": "text", "text": "I look."},
            {
                "type": "tool_reference",
                "tool": "web_search",
                "title": "Hours",
                "url": "https://a/b",
            },
            {"type": "reference", "reference_ids": [1, "a"]},
        ],
        "closed": True,
        "signature": "s",
    }
    said = {"role": "assistant", "content": [thought, {"type": "text", "text": "At nine."}]}
    extra = {**thought, "thinking": [*thought["thinking"], LINK], "cache": 1}
    given = {**said, "content": [extra, said["content"][1]]}
    assert apply_rules([USER, given, USER], Conversion(takes_thoughts=True))[1] == said


def test_r10_the_newest_eight_images_stay():
    def image(n: int) -> dict:
        return {"type": "image_url", "image_url": {"url": f"https://example.com/{n}.png"}}

    history = [
        message
        for n in range(10)
        for message in (
            {"role": "user", "content": [{"type": "text", "text": f"See {n}."}, image(n)]},
            SAID,
        )
    ]
    sent = apply_rules([*history, USER])
    shown = json.dumps(sent)
    assert shown.count("image_url") == 16  # the type and the field
    assert "0.png" not in shown
    assert "9.png" in shown
    assert sent[0]["content"] == f"See 0.\n{EARLIER_IMAGE}"


@pytest.mark.parametrize("name", ["server.tool", "a b", "é", "", "x" * 65])
def test_r11_a_function_name_is_respelled(name: str):
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", safe_name(name))
    assert safe_name(name) == safe_name(name)
    assert safe_name("weather") == "weather"
    assert len({safe_name("a.b"), safe_name("a b"), safe_name("a_b")}) == 3


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ("", "{}"),
        ("{broken", '{"arguments": "{broken"}'),
        ("[1]", '{"arguments": "[1]"}'),
        ({"a": 1}, '{"a": 1}'),
    ],
)
def test_r11_arguments_are_a_json_object(arguments, sent: str):
    made = apply_rules([USER, called(call(arguments=arguments)), result()])
    assert made[1]["tool_calls"][0]["function"]["arguments"] == sent


def test_an_image_is_sent_as_an_object_which_every_server_takes():
    bare = {"type": "image_url", "image_url": "https://example.com/a.png"}
    sent = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    [message] = apply_rules([{"role": "user", "content": [bare]}])
    assert message["content"] == [sent]


def test_r12_two_users_in_a_row_become_one_with_all_their_parts():
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    history = [{"role": "user", "content": "One."}, {"role": "user", "content": [image]}]
    assert apply_rules(history) == [
        {"role": "user", "content": [{"type": "text", "text": "One."}, image]}
    ]


def test_r12_a_greeting_gets_an_opening_before_it():
    assert apply_rules([SAID, USER]) == [{"role": "user", "content": OPENING}, SAID, USER]


@pytest.mark.parametrize("history", [[], [{"role": "system", "content": "Be brief."}]])
def test_r5_somebody_speaks_even_where_nobody_has(history: list[dict]):
    assert apply_rules(history)[-1] == {"role": "user", "content": OPENING}


def test_r15_what_a_result_shows_the_user_shows():
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    shown = {**result(), "content": [{"type": "text", "text": "The chart:"}, image]}
    assert apply_rules([USER, called(), shown]) == [
        USER,
        called(),
        result("The chart:"),
        {"role": "assistant", "content": BRIDGE},
        {"role": "user", "content": [image]},
    ]


def test_every_rule_says_what_it_is_for():
    for rule in RULES:
        assert re.match(r"R\d+(, R\d+)*: ", rule.__doc__ or ""), rule
        assert "revents" in (rule.__doc__ or ""), rule


KINDS = frozenset({"text", "image_url"})


@pytest.mark.parametrize(
    ("part", "sent"),
    [
        (
            {"type": "document_url", "document_url": "https://x.org/a.pdf"},
            "[document https://x.org/a.pdf that you cannot read]",
        ),
        (
            {"type": "document_url", "document_url": "data:x,y", "document_name": "Menu"},
            "[document Menu that you cannot read]",
        ),
        ({"type": "file", "file_id": "f-1"}, "[file f-1 that you cannot read]"),
        ({"type": "input_audio", "input_audio": "AAAA"}, "[sound that you cannot read]"),
        ({"type": "resource_link", "uri": "https://x.org/"}, "https://x.org/"),
        ({"type": "reference", "reference_ids": [1]}, None),
    ],
)
def test_r9_what_a_server_does_not_know_is_restated_for_it(part: Any, sent: str | None):
    history = [{"role": "user", "content": [{"type": "text", "text": "Look:"}, part]}]
    [message] = apply_rules(history, Conversion(parts=KINDS))
    assert message["content"] == "\n".join(filter(None, ["Look:", sent]))
    assert apply_rules(history)[0]["content"][1] == part


@many
@given(histories)
def test_only_parts_that_a_server_knows_are_sent_to_it(history: Any):
    for message in apply_rules(history, Conversion(parts=KINDS)):
        if isinstance(message.get("content"), list):
            assert {part["type"] for part in message["content"]} <= KINDS
