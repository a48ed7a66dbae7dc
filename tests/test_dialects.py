"""Markup that arrives as text: what the caller hears, and which functions run."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_service.reply.dialects import MAX_MARKUP, Event, MarkupReader
from mistral_service.reply.events import Text, Thought, ToolCall, Unreadable
from mistral_service.reply.markers import MARKERS, THOUGHT_ENDS

OFFERED = ("get_weather", "book")
OSLO = ("get_weather", {"city": "Oslo"})
HAND = ("book", {"day": "Monday", "note": 'a "b" {c} [d]'})

Said = tuple[str, str, list[tuple[str, object]], int]


def pieces(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def read(parts: list[str], offered: tuple[str, ...] = OFFERED, **options: bool) -> Said:
    """The words, the thoughts, the calls, and how much was unreadable."""
    reader = MarkupReader(offered, **options)
    events: list[Event] = [event for part in parts for event in reader.feed(part)]
    events += reader.finish()
    assert all(event.text for event in events if isinstance(event, Text | Thought))
    return (
        "".join(event.text for event in events if isinstance(event, Text)),
        "".join(event.text for event in events if isinstance(event, Thought)),
        [(e.name, arguments(e.arguments)) for e in events if isinstance(e, ToolCall)],
        sum(isinstance(event, Unreadable) for event in events),
    )


def arguments(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def dumped(call: tuple[str, dict], key: str = "arguments", **more: object) -> str:
    return json.dumps({"name": call[0], key: call[1], **more})


def newer(call: tuple[str, dict], call_id: str = "") -> str:
    call_id = f"[CALL_ID]{call_id}" if call_id else ""
    return f"[TOOL_CALLS]{call[0]}{call_id}[ARGS]{json.dumps(call[1])}"


CALLS = {
    "a list": (f"[TOOL_CALLS] [{dumped(OSLO)}]", [OSLO]),
    "a list of two": (
        f"[TOOL_CALLS][{dumped(OSLO, id='abcdefghi')}, {dumped(HAND)}]",
        [OSLO, HAND],
    ),
    "arguments as text": (
        f"[TOOL_CALLS] [{json.dumps({'name': 'book', 'arguments': json.dumps(HAND[1])})}]",
        [HAND],
    ),
    "an object": (f"[TOOL_CALLS]{dumped(OSLO)}", [OSLO]),
    "objects in a row": (f"[TOOL_CALLS]{dumped(OSLO)}{dumped(HAND)}", [OSLO, HAND]),
    "a function in a function": (
        f'[TOOL_CALLS][{{"type": "function", "function": {dumped(OSLO, "parameters")}}}]',
        [OSLO],
    ),
    "the newer form": (newer(OSLO), [OSLO]),
    "the newer form, twice": (newer(OSLO) + newer(HAND), [OSLO, HAND]),
    "with an id": (newer(OSLO, "abc123def") + newer(HAND, "abc123deg"), [OSLO, HAND]),
    "without its marker for arguments": (f"[TOOL_CALLS]book{json.dumps(HAND[1])}", [HAND]),
    "with a name as Python writes it": ("[TOOL_CALLS]functions.book()[ARGS]{}", [("book", {})]),
    "of a function that was not offered": (
        newer(("fly", {"to": "Rome"})),
        [("fly", {"to": "Rome"})],
    ),
    "hermes": (f"<tool_call>\n{dumped(OSLO)}\n</tool_call>", [OSLO]),
    "hermes, twice": (
        f"<tool_call>{dumped(OSLO)}</tool_call>\n<tool_call>{dumped(HAND)}</tool_call>",
        [OSLO, HAND],
    ),
    "hermes, never closed": (f"<tool_call>{dumped(OSLO)}", [OSLO]),
}
OFFERED_CALLS = {
    "in a block of code": (f"```json\n{dumped(OSLO)}\n```", [OSLO]),
    "two in a block": (f"```\n[{dumped(OSLO)}, {dumped(HAND)}]\n```", [OSLO, HAND]),
    "in bare JSON": (dumped(OSLO), [OSLO]),
    "in a bare list": (f"[{dumped(OSLO)}, {dumped(HAND)}]", [OSLO, HAND]),
    "with its arguments first": (
        json.dumps({"arguments": OSLO[1], "name": OSLO[0]}),
        [OSLO],
    ),
    "whose marker was swallowed": (f"book[ARGS]{json.dumps(HAND[1])}", [HAND]),
    "both of whose markers were swallowed": (f"book{json.dumps(HAND[1])}", [HAND]),
}


@pytest.mark.parametrize(
    ("markup", "made"), (CALLS | OFFERED_CALLS).values(), ids=CALLS | OFFERED_CALLS
)
def test_a_call_that_arrives_as_text_is_called_and_not_spoken(markup: str, made: list):
    for cut in range(len(markup) + 1):
        assert read(pieces(markup, [cut])) == ("", "", made, 0)
    assert read(list(markup)) == ("", "", made, 0)


@pytest.mark.parametrize(("markup", "made"), CALLS.values(), ids=CALLS)
def test_words_around_a_call_are_spoken(markup: str, made: list):
    text = f"Let me look. {markup}"
    for cut in range(len(text) + 1):
        assert read(pieces(text, [cut])) == ("Let me look. ", "", made, 0)


@pytest.mark.parametrize("markup", [m for m, _ in OFFERED_CALLS.values() if "[ARGS]" not in m])
def test_what_is_a_call_only_by_its_name_is_text_where_no_function_is_offered(markup: str):
    assert read(list(markup), ()) == (markup, "", [], 0)


@pytest.mark.parametrize(
    "text",
    [
        "[laughs] Sure",
        "if 3 < 4",
        "<b>bold</b> and <i>more</i>",
        "[TOOL] and [ARG] and [TOOLS]",
        "a [ b",
        "x <",
        "1 <- 2",
        "`code` and ``more``",
        "```python\nprint({'a': 1})\n```",
        '```json\n{"name": "Oslo", "temperature": 3}\n```',
        '{"name": "Oslo", "temperature": 3}',
        '[{"city": "Oslo"}]',
        "[1, 2, 3]",
        "getting there",
        "book a table",
        "get_weather is what I call",
        "<thinker> and <|x|>",
        "bonjour </b>",
        "{curly} words",
    ],
)
@pytest.mark.parametrize("offered", [(), OFFERED])
def test_text_that_only_looks_alike_leaves_unchanged(text: str, offered: tuple[str, ...]):
    for cut in range(len(text) + 1):
        assert read(pieces(text, [cut]), offered) == (text, "", [], 0)


@pytest.mark.parametrize("text", ["Hello there", "[laughs] Sure", "if 3 < 4, ok", "<b>bold</b>."])
def test_a_character_is_held_back_only_as_long_as_it_can_become_a_marker(text: str):
    reader = MarkupReader()
    said = ""
    for count, char in enumerate(text, 1):
        said += "".join(event.text for event in reader.feed(char) if isinstance(event, Text))
        held = text[len(said) : count]
        assert held == "" or any(m.text.startswith(held) for m in MARKERS)


@pytest.mark.parametrize(("begin", "end"), [("[THINK]", "[/THINK]"), ("<think>", "</think>")])
def test_a_thought_is_not_spoken(begin: str, end: str):
    text = f"{begin}The user greets: a < b.{end}\n\nHello."
    for cut in range(len(text) + 1):
        assert read(pieces(text, [cut])) == ("Hello.", "The user greets: a < b.", [], 0)


def test_a_thought_that_never_ends_is_a_thought():
    text = "<think>The user greets."
    for cut in range(len(text) + 1):
        assert read(pieces(text, [cut])) == ("", "The user greets.", [], 0)


def test_a_call_ends_a_thought_that_was_never_closed():
    assert read(list(f"[THINK]I need it.{newer(OSLO)}")) == ("", "I need it.", [OSLO], 0)


def test_a_thought_without_its_opening_tag_is_known_as_far_as_it_was_not_given_away():
    assert read(["The user greets.</think>Hello."]) == ("Hello.", "The user greets.", [], 0)
    for text in ("The user greets.</think>Hello.", "The user greets.[/THINK] Hello."):
        for cut in range(len(text) + 1):
            said = read(pieces(text, [cut]), begins_in_thought=True)
            assert said == ("Hello.", "The user greets.", [], 0)


def test_a_reply_that_was_expected_to_begin_in_a_thought_and_did_not_is_spoken_at_its_end():
    words, _, calls, unreadable = read(["Hel", "lo."], begins_in_thought=True)
    assert (words, calls, unreadable) == ("Hello.", [], 0)


@pytest.mark.parametrize(
    "marker",
    ["</s>", "<s>", "[/INST]", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<end_of_turn>"],
)
def test_a_marker_of_an_end_is_nothing(marker: str):
    text = f"Hello there.{marker}"
    for cut in range(len(text) + 1):
        assert read(pieces(text, [cut])) == ("Hello there.", "", [], 0)
    assert read(list(f"{marker}Hello{marker}")) == ("Hello", "", [], 0)


@pytest.mark.parametrize(
    "text",
    [
        'Yes.[TOOL_RESULTS] {"content": 1}[/TOOL_RESULTS]',
        'Yes.[AVAILABLE_TOOLS][{"type": "function"}][/AVAILABLE_TOOLS]',
        "Yes.<|im_end|><|im_start|>user\nAnd you?<|im_end|><|im_start|>assistant",
        "Yes.[INST] And you? [/INST]",
        "Yes.[TOOL_RESULTS] never ends",
    ],
)
def test_what_is_no_part_of_the_reply_is_not_spoken(text: str):
    for cut in range(len(text) + 1):
        assert read(pieces(text, [cut])) == ("Yes.", "", [], 0)


@pytest.mark.parametrize(
    "text",
    [
        "[TOOL_CALLS]",
        "[TOOL_CALLS] [",
        '[TOOL_CALLS] [{"na',
        "[TOOL_CALLS] []",
        "[TOOL_CA",
        "<tool_call>",
        "<tool_call>hm</tool_call>",
        '[TOOL_CALLS][{"city": "Oslo"}]',
    ],
)
def test_markup_of_which_nothing_can_be_made_is_reported_and_not_spoken(text: str):
    for cut in range(len(text) + 1):
        assert read(pieces(text, [cut])) == ("", "", [], 1)
        assert read(pieces("Well. " + text, [cut])) == ("Well. ", "", [], 1)


@pytest.mark.parametrize(
    "text",
    [
        '[TOOL_CALLS] [{"name": "book", "argum',
        '[TOOL_CALLS]book[ARGS]{"day": "Mon',
        "[TOOL_CALLS]book",
    ],
)
def test_half_a_call_keeps_its_name_for_the_model_to_read(text: str):
    for cut in range(len(text) + 1):
        words, _, [(name, left)], unreadable = read(pieces(text, [cut]))
        assert (words, name, unreadable) == ("", "book", 0)
        assert isinstance(left, str)


def test_markup_that_never_ends_holds_a_bounded_text():
    reader = MarkupReader(OFFERED)
    events = reader.feed('[TOOL_CALLS][{"name": "book", "arguments": {"a": "')
    for _ in range(100):
        events += reader.feed("x" * 10_000)
        assert len(reader._held) <= MAX_MARKUP + 10_000
    events += reader.finish()
    assert [type(event) for event in events] == [Unreadable]
    assert len(events[0].markup) <= 200


def test_json_that_never_ends_becomes_text():
    reader = MarkupReader(OFFERED)
    text = '{"arguments": {"a": "' + "x" * 2 * MAX_MARKUP
    said = "".join(e.text for e in reader.feed(text) if isinstance(e, Text))
    assert said == text


MARKUP = st.sampled_from(
    [
        *(marker.text for marker in MARKERS),
        "```json\n",
        "```",
        "{",
        "}",
        '"',
        "[",
        "]",
        "<",
        " ",
        "\n",
    ]
    + ["Hello", "get_weather", "book", ".", "é", "…", dumped(OSLO), newer(HAND), '{"name": "']
)


@given(st.lists(MARKUP, max_size=8), st.lists(st.integers(0, 200), max_size=12), st.booleans())
def test_however_a_text_is_split_it_means_the_same(
    parts: list[str], cuts: list[int], offered: bool
):
    text = "".join(parts)
    names = OFFERED if offered else ()
    if any(end in text for end in THOUGHT_ENDS):
        return  # where an opening tag is missing, what was given away cannot be taken back
    assert read(pieces(text, cuts), names) == read([text], names)


@given(
    st.lists(st.sampled_from([OSLO, HAND]), min_size=1, max_size=3),
    st.sampled_from(["list", "newer", "hermes"]),
    st.sampled_from(["", "Let me see. ", "[THINK]hm[/THINK]", "<think>\nhm\n</think>\n"]),
    st.sampled_from(["", "</s>", "\n", "<|im_end|>"]),
    st.lists(st.integers(0, 300), max_size=20),
)
def test_calls_come_out_whole_whatever_stands_around_them(
    made: list, form: str, before: str, after: str, cuts: list[int]
):
    markup = {
        "list": f"[TOOL_CALLS] [{', '.join(map(dumped, made))}]",
        "newer": "".join(map(newer, made)),
        "hermes": "\n".join(f"<tool_call>\n{dumped(call)}\n</tool_call>" for call in made),
    }[form]
    words, _, calls, unreadable = read(pieces(before + markup + after, cuts))
    assert calls == made
    assert unreadable == 0
    assert words.strip() == ("Let me see." if before.startswith("Let") else "")


@given(st.text(st.characters(exclude_characters="[<`{", exclude_categories=["Cs"]), max_size=40))
def test_text_without_a_first_character_of_a_marker_is_never_held(text: str):
    reader = MarkupReader()
    assert "".join(event.text for event in reader.feed(text) if isinstance(event, Text)) == text
