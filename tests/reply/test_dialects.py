"""Markup that arrives as text: what the caller hears, and which functions run."""

import json
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_service.reply.dialects import Event, MarkupReader
from mistral_service.reply.events import Text, Thought, ToolCall, Unreadable
from mistral_service.reply.markers import MARKERS, MAX_MARKUP, THOUGHT_ENDS

OFFERED = ("get_weather", "book")
OSLO = ("get_weather", {"city": "Oslo"})
HAND = ("book", {"day": "Monday", "note": 'a "b" {c} [d]'})

Said = tuple[str, str, list[tuple[str, object]], int]


def pieces(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def read(
    parts: list[str], offered: tuple[str, ...] = OFFERED, cut: bool = False, **options: bool
) -> Said:
    """The words, the thoughts, the calls, and how much was unreadable."""
    reader = MarkupReader(offered, **options)
    events: list[Event] = [event for part in parts for event in reader.feed(part)]
    events += reader.finish(cut=cut)
    assert all(event.text for event in events if isinstance(event, Text | Thought))
    return (
        "".join(event.text for event in events if isinstance(event, Text)),
        "".join(event.text for event in events if isinstance(event, Thought)),
        [(e.name, arguments(e.arguments)) for e in events if isinstance(e, ToolCall)],
        sum(isinstance(event, Unreadable) for event in events),
    )


def read_split(text: str, offered: tuple[str, ...] = OFFERED, **options: bool) -> Said:
    """The same, wherever the text is split."""
    said = read(list(text), offered, **options)
    for cut in range(len(text) + 1):
        assert read(pieces(text, [cut]), offered, **options) == said
    return said


def learned(text: str, **options: bool) -> bool | None:
    """What the reader has learned of how replies begin."""
    reader = MarkupReader(OFFERED, **options)
    reader.feed(text)
    reader.finish()
    return reader.begins_in_thought


def arguments(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def dumped(call: tuple[str, dict], key: str = "arguments", **more: object) -> str:
    return json.dumps({"name": call[0], key: call[1], **more})


def bare(call: tuple[str, dict]) -> str:
    return f"{call[0]}[ARGS]{json.dumps(call[1])}"


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
    "with its name in quotes": (f'[TOOL_CALLS]"book"[ARGS]{json.dumps(HAND[1])}', [HAND]),
    "with its arguments beside the function": (
        f'[TOOL_CALLS]{{"function": {{"name": "book"}}, "arguments": {json.dumps(HAND[1])}}}',
        [HAND],
    ),
    "behind the marker of its arguments": (f"[TOOL_CALLS][ARGS]{dumped(OSLO)}", [OSLO]),
    "between two markers": (f"[TOOL_CALLS][{dumped(OSLO)}][/TOOL_CALLS]", [OSLO]),
    "a list that is never closed": (f"[TOOL_CALLS][{dumped(OSLO)}, {dumped(HAND)}", [OSLO, HAND]),
    "with brackets too many": (f"[TOOL_CALLS][{dumped(OSLO)}}}, {dumped(HAND)}]}}]", [OSLO, HAND]),
    "with scraps between": (f"{newer(OSLO)}]}}, ;\n{newer(HAND)} ,;]}} </s>", [OSLO, HAND]),
    "of a function without parameters": ("<tool_call>book</tool_call>", [("book", {})]),
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
    "in a block of code with a blank": (f"``` json\n{dumped(OSLO)}\n```", [OSLO]),
    "several in a block": (f"```json\n{dumped(OSLO)}\n{dumped(HAND)}\n```\n", [OSLO, HAND]),
    "in a block behind a marker": (f"[TOOL_CALLS]```json\n{dumped(OSLO)}\n```", [OSLO]),
    "in bare JSON": (dumped(OSLO), [OSLO]),
    "in a bare list": (f"[{dumped(OSLO)}, {dumped(HAND)}]", [OSLO, HAND]),
    "with its arguments first": (
        json.dumps({"arguments": OSLO[1], "name": OSLO[0]}),
        [OSLO],
    ),
    "whose marker was swallowed": (f"book[ARGS]{json.dumps(HAND[1])}", [HAND]),
    "both of whose markers were swallowed": (f"book{json.dumps(HAND[1])}", [HAND]),
    "of both of whose markers a blank is left": (f"book {json.dumps(HAND[1])}", [HAND]),
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


@pytest.mark.parametrize(
    "markup",
    [m for m, _ in OFFERED_CALLS.values() if "[ARGS]" not in m and "[TOOL_CALLS]" not in m],
)
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
        '{"name": "book", "author": "Ibsen"}',
        '```json\n{"name": "book", "author": "Ibsen"}\n```',
        '{"name": "book", "author": "Ib',
        "[1, 2, 3]",
        "{",
        "[",
        "[IMG] and [AUDIO], [PREFIX], [MIDDLE], [SUFFIX], [TRANSCRIBE]",
        "Here are [TO",
        "a [T",
        "a <fun",
        "and ``",
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


@pytest.mark.parametrize(("begin", "end"), [("[THINK]", "[/THINK]"), ("<think>", "</think>")])
@pytest.mark.parametrize(
    "quoted",
    [
        'I call [TOOL_CALLS]book[ARGS]{"day": "Mon"}? No.',
        'Not <tool_call>{"name": "book"}</tool_call>, but <tool_call> and <function_call>.',
        "Which [TOOL_CALLS] is it? [TOOL_CALLS]",
    ],
)
def test_a_call_that_is_quoted_in_a_thought_does_not_run(begin: str, end: str, quoted: str):
    assert read_split(f"{begin}{quoted}{end}Hello.") == ("Hello.", quoted, [], 0)
    if end == "</think>":
        said = read_split(f"{quoted}{end}Hello.", begins_in_thought=True)
        assert said == ("Hello.", quoted, [], 0)


def test_another_model_s_end_that_is_quoted_in_a_thought_does_not_end_it():
    said = read_split("[THINK]They write </think>, so.[/THINK]Hello.")
    assert said == ("Hello.", "They write </think>, so.", [], 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f"<think>abc\n<tool_call>{dumped(OSLO)}</tool_call>",
            ("", "abc\n", [OSLO], 0),
        ),
        (
            f"[THINK]I need it.{newer(OSLO)}{newer(HAND)}",
            ("", "I need it.", [OSLO, HAND], 0),
        ),
        ("[THINK]x</think>Hello.", ("Hello.", "x", [], 0)),
        ("<think>x[/THINK]Hello.", ("Hello.", "x", [], 0)),
        ("[THINK]It is [TOOL_CALLS] Hello there.", ("Hello there.", "It is ", [], 0)),
        (
            "<|channel|>analysis<|message|>They greet.<|end|><|start|>assistant"
            "<|channel|>final<|message|>Hello.<|return|>",
            ("Hello.", "They greet.", [], 0),
        ),
        ("<|channel|>commentary<|message|>Hello.<|end|>", ("Hello.", "", [], 0)),
    ],
)
def test_a_thought_ends_at_its_own_end_or_at_the_first_other(text: str, said: Said):
    assert read_split(text) == said


def test_a_thought_leaves_at_once_up_to_what_may_be_a_quotation():
    reader = MarkupReader(OFFERED)
    assert reader.feed("[THINK]I could ") == [Thought("I could ")]
    assert reader.feed("[TOOL_CALLS]book") == []
    assert reader.holds == "thought"
    assert reader.feed(", but no.[/THINK]Hello.") == [
        Thought("[TOOL_CALLS]book, but no."),
        Text("Hello."),
    ]


def test_what_may_be_a_quotation_holds_a_bounded_text():
    reader = MarkupReader(OFFERED)
    events = reader.feed("[THINK]x</think>")
    while not any(isinstance(event, Text) for event in events):
        events += reader.feed("Hello there. ")
        assert len(reader._buffer) <= MAX_MARKUP + 100
    assert reader.feed("And on.") == [Text("And on.")]


def test_a_thought_without_its_opening_tag_is_known_as_far_as_it_was_not_given_away():
    assert read(["The user greets.</think>Hello."]) == ("Hello.", "The user greets.", [], 0)
    for text in ("The user greets.</think>Hello.", "The user greets.[/THINK] Hello."):
        for cut in range(len(text) + 1):
            said = read(pieces(text, [cut]), begins_in_thought=True)
            assert said == ("Hello.", "The user greets.", [], 0)


def test_a_reply_that_was_expected_to_begin_in_a_thought_and_did_not_is_spoken_at_its_end():
    words, _, calls, unreadable = read(["Hel", "lo."], begins_in_thought=True)
    assert (words, calls, unreadable) == ("Hello.", [], 0)


@pytest.mark.parametrize("begin", ["", "\n", "<s>", "<s>\n "])
def test_an_opening_tag_that_was_not_expected_opens_a_thought(begin: str):
    text = f"{begin}<think>They say </think> they greet."
    assert read_split(text, begins_in_thought=True)[:2] == ("they greet.", "They say ")
    text = f"{begin}[THINK]They write </think>.[/THINK]Hello."
    assert read_split(text, begins_in_thought=True)[:2] == ("Hello.", "They write </think>.")
    assert learned(text, begins_in_thought=True) is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hello.</s>", ("Hello.", [], 0)),
        ("Hello.</s>How are you?", ("Hello. How are you?", [], 0)),
        (f"```json\n{dumped(OSLO)}\n```", ("", [OSLO], 0)),
        (dumped(OSLO), ("", [OSLO], 0)),
        (bare(HAND), ("", [HAND], 0)),
        ('{"name": "bo', ("", [], 1)),
        ('{"html": "<s>x</s>"}</s>', ('{"html": "<s>x</s>"}', [], 0)),
    ],
)
def test_what_was_taken_for_a_thought_and_has_no_end_is_read_as_it_stands(text: str, said: tuple):
    assert learned(text, begins_in_thought=True) is False
    for cut in range(len(text) + 1):
        words, _, calls, unreadable = read(pieces(text, [cut]), begins_in_thought=True)
        assert (words, calls, unreadable) == said


def test_a_thought_that_a_limit_cut_stays_one():
    assert read_split("They greet, so", begins_in_thought=True, cut=True) == (
        "",
        "They greet, so",
        [],
        0,
    )


@pytest.mark.parametrize("cut", [False, True])
def test_a_call_ends_what_was_taken_for_a_thought(cut: bool):
    for markup in (newer(OSLO), f"<tool_call>{dumped(OSLO)}</tool_call>"):
        text = f"I need it.{markup}"
        said = read_split(text, begins_in_thought=True, cut=cut)
        assert said == ("", "I need it.", [OSLO], 0)
        assert learned(text, begins_in_thought=True) is None


@pytest.mark.parametrize(
    ("text", "expected", "begins"),
    [
        ("They greet.</think>Hello.", False, True),
        ("They greet.</think>Hello.", True, True),
        (f"They ask.</think>{newer(OSLO)}", False, True),
        (f"They ask.</think>{newer(OSLO)}", True, True),
        ("Hello there.</think>", False, None),
        ("Hello there.</think>\n...</s>", False, None),
        ("They greet.</think>", True, None),
        ("Hello there.", False, None),
        ("<think>They greet.</think>Hello.", False, False),
        ("Hello.<think>They greet.</think>", False, False),
        ("<think>They greet.</think>Hello.</think> And on.", False, False),
    ],
)
def test_what_a_reply_teaches_of_the_next_one(text: str, expected: bool, begins: bool | None):
    assert learned(text, begins_in_thought=expected) is begins
    reader = MarkupReader(OFFERED, begins_in_thought=expected)
    for char in text:
        reader.feed(char)
    reader.finish()
    assert reader.begins_in_thought is begins


def test_a_typed_thought_teaches_that_no_opening_tag_is_missing():
    reader = MarkupReader(begins_in_thought=True)
    reader.feed("Hello.</s>")
    assert reader.typed_thought() == [Text("Hello.")]
    assert reader.feed("How are you?</think>") == [Text(" How are you?")]
    assert reader.begins_in_thought is False


def test_an_end_of_a_thought_behind_the_whole_answer_does_not_swallow_it():
    words, thoughts, calls, unreadable = read(["Hello there.</think>"])
    assert (words, calls, unreadable) == ("Hello there.", [], 0)
    assert thoughts in ("", "Hello there.")
    assert read(["They greet.</think>"], cut=True) == ("", "They greet.", [], 0)


def test_an_end_of_a_thought_that_was_over_is_nothing():
    said = read_split("<think>hm</think>Hello.</think> And on.")
    assert said == ("Hello. And on.", "hm", [], 0)
    assert read(["hm</think>Hello.</think> And on."]) == ("Hello. And on.", "hm", [], 0)


@pytest.mark.parametrize(
    "marker",
    ["</s>", "<s>", "[/INST]", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<end_of_turn>"]
    + ["<|eot|>", "<|eom|>", "<|EOT|>", "<EOT>", "<|endofturn|>", "<|end_of_sentence|>"]
    + ["<|end_of_utterance|>", "[/TOOL_CALLS]", "<|channel|>final<|message|>"],
)
def test_a_marker_of_an_end_is_nothing(marker: str):
    text = f"Hello there.{marker}"
    for cut in range(len(text) + 1):
        assert read(pieces(text, [cut])) == ("Hello there.", "", [], 0)
    assert read(list(f"{marker}Hello{marker}")) == ("Hello", "", [], 0)


@pytest.mark.parametrize("end", [".", "!", "?", "…"])
def test_words_between_which_only_markup_stood_are_kept_apart(end: str):
    assert read_split(f"Hello{end}</s>How")[0] == f"Hello{end} How"
    assert read_split(f"Hello{end}<think>hm</think>How")[0] == f"Hello{end} How"
    assert read_split(f"Hello{end}</s> How")[0] == f"Hello{end} How"
    assert read_split(f"3{end}</s>5, Hel</s>lo")[0] == f"3{end}5, Hello"


@pytest.mark.parametrize(
    ("cut", "unreadable"),
    [
        *((cut, 1) for cut in ("[TOOL_", "[TOOL_CALLS", "<tool_", "<tool_call", "<funct")),
        *((cut, 0) for cut in ("</", "</s", "<|", "<|im_e", "[/I", "[INST", "</thi", "[TH", "<th")),
        *((cut, 0) for cut in ("[TOOL_R", "[AVAIL", "<|channel|>fin", "[/TOOL_CALL", "</tool_")),
    ],
)
def test_a_marker_that_was_cut_is_not_spoken(cut: str, unreadable: int):
    assert read_split(f"Hello. {cut}") == ("Hello. ", "", [], unreadable)


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
        '{"name": "bo',
        '[{"name": "get_wea',
        '{"arguments": {"day": "Mon',
        '```json\n{"name": "bo',
        '```\n[{"na',
        '[TOOL_CALLS]{"name": "book", "author": "Ibsen"}',
        '[TOOL_CALLS][ARGS]{"day": "Monday"}',
        '[TOOL_CALLS] "',
        "[TOOL_CALLS]</s>",
        "[TOOL_CALLS][TOOL_CALLS]",
        "[TOOL_CALLS]\n...",
    ],
)
def test_what_was_meant_for_a_machine_is_not_spoken(text: str):
    words, _, calls, unreadable = read_split(text)
    assert (words.strip("."), calls, unreadable) == ("", [], 1)


@pytest.mark.parametrize(
    "text",
    [
        "[TOOL_CALLS] Hello there.",
        "[TOOL_CALLS]Hello there.",
        "[TOOL_CALLS] Hello",
        "[TOOL_CALLS] [laughs] Sure.",
        '[TOOL_CALLS] "Hello," she said.',
        "[TOOL_CALLS] She <b>loves</b> it.",
        '[TOOL_CALLS] She "loves" it.',
        "[TOOL_CALLS] [1, 2, 3]",
        "[TOOL_CALLS] 5",
        "[TOOL_CALLS]</s>Hello.",
    ],
)
@pytest.mark.parametrize("offered", [(), OFFERED])
def test_words_behind_a_stray_marker_of_calls_are_spoken(text: str, offered: tuple[str, ...]):
    words = text.replace("[TOOL_CALLS]", "").replace("</s>", "").strip()
    assert read_split(text, offered) == (words, "", [], 0)


def test_a_stray_marker_is_no_call():
    reader = MarkupReader(OFFERED)
    reader.feed("[TOOL_CALLS]")
    assert reader.calling
    reader.feed(" Hello there.")
    assert not reader.calling


@pytest.mark.parametrize("behind", ["]}", "]}]", "}"])
def test_brackets_behind_a_call_are_no_words(behind: str):
    said = read_split(f"{newer(OSLO)}{behind} I am on it, ok]}}.")
    assert said == ("I am on it, ok]}.", "", [OSLO], 0)


def test_other_words_behind_a_call_are_as_they_stand():
    assert read_split(f"{newer(OSLO)}, and on.")[0] == ", and on."


def test_a_list_of_calls_is_read_as_it_comes():
    made = [("book", {"day": str(n), "note": "x" * 50}) for n in range(2000)]
    reader = MarkupReader(OFFERED)
    text = f"[TOOL_CALLS] [{', '.join(map(dumped, made))}]"
    assert len(text) > MAX_MARKUP
    found: list[Event] = []
    for part in pieces(text, list(range(0, len(text), 100))):
        found += reader.feed(part)
        assert len(reader._buffer) < 300
    assert len(found) == 2000
    assert read([text])[2:] == (made, 0)
    assert read([text.removeprefix("[TOOL_CALLS] ")])[2:] == (made, 0)  # its marker swallowed


def test_half_a_call_in_a_list_is_reported_beside_the_others():
    assert read_split(f'[TOOL_CALLS] [{dumped(OSLO)}, {{"na') == ("", "", [OSLO], 1)


@pytest.mark.parametrize(
    "text",
    [
        '[TOOL_CALLS] [{"name": "book", "argum',
        '[TOOL_CALLS]book[ARGS]{"day": "Mon',
        "[TOOL_CALLS]book",
        '{"name": "book"',
        '{"name": "book", "argum',
        '[{"name": "book", "arguments": {"day": "Mon',
        '```json\n{"name": "book", "arguments": {',
        'book[ARGS]{"day": "Mon',
        "book[ARGS",
    ],
)
def test_half_a_call_keeps_its_name_for_the_model_to_read(text: str):
    for cut in range(len(text) + 1):
        words, _, [(name, left)], unreadable = read(pieces(text, [cut]))
        assert (words, name, unreadable) == ("", "book", 0)
        assert isinstance(left, str)


@pytest.mark.parametrize(
    "text",
    [
        "[TOOL_CALLS]book",
        "[TOOL_CALLS]book[ARGS]",
        "[TOOL_CALLS]book[CALL_ID]abc",
        '[TOOL_CALLS]"book"',
    ]
    + [
        "[TOOL_CALLS]book</s>",
        "[TOOL_CALLS]book[ARGS]</s>",
        "[TOOL_CALLS]book[ARG",
        "<tool_call>book",
    ],
)
def test_a_call_that_is_written_without_arguments_has_none(text: str):
    assert read_split(text) == ("", "", [("book", "")], 0)


@pytest.mark.parametrize("text", ["[TOOL_CALLS]get_time", "[TOOL_CALLS]fly[ARGS]"])
def test_a_function_that_was_not_offered_is_a_call_in_a_call_s_form(text: str):
    words, _, [(_, left)], unreadable = read_split(text)
    assert (words, left, unreadable) == ("", "", 0)


def test_calls_that_were_read_from_text_say_so():
    for text, _ in (CALLS | OFFERED_CALLS).values():
        reader = MarkupReader(OFFERED)
        found = [*reader.feed(text), *reader.finish()]
        assert all(event.written for event in found if isinstance(event, ToolCall))


@pytest.mark.parametrize("offered", [(), OFFERED])
@pytest.mark.parametrize("begin", ["", "\n", "<s>", "<think>hm</think>"])
@pytest.mark.parametrize(
    "data",
    [
        '{"html": "<s>x</s>", "mine": ["[INST]", {"a": "[TOOL_CALLS]{\\""}]}',
        '{"a": {}, "b": "```json\\n{}```"}',
        "{}",
    ],
)
def test_data_is_left_alone(data: str, begin: str, offered: tuple[str, ...]):
    words, _, calls, unreadable = read_split(f"{begin}{data}</s>", offered)
    assert (words.lstrip(), calls, unreadable) == (data, [], 0)


def test_data_streams():
    reader = MarkupReader()
    text = '{"a": "<s>, [INST]'
    said = [event for char in text for event in reader.feed(char)]
    assert "".join(event.text for event in said if isinstance(event, Text)) == text
    assert reader.feed("x")[0] == Text("x")


def test_braces_that_are_no_data_hide_no_markup():
    assert read_split("{curly} words</s>", ()) == ("{curly} words", "", [], 0)
    assert read_split("{ hello <|im_end|>", ()) == ("{ hello ", "", [], 0)


@pytest.mark.parametrize(
    "begin", ["[TOOL_CALLS]book[ARGS]", "[TOOL_CALLS]", "", "```json\n", "[THINK][TOOL_CALLS]"]
)
def test_what_is_long_is_read_once(begin: str):
    reader = MarkupReader(OFFERED)
    call = dumped(("book", {"note": "x y " * 16_000}))
    value = json.dumps({"note": "x y " * 16_000}) if "[ARGS]" in begin else call
    text = begin + value
    began = time.process_time()
    for at in range(0, len(text), 4):
        reader.feed(text[at : at + 4])
    assert len([e for e in reader.finish() if isinstance(e, ToolCall)]) <= 1
    assert time.process_time() - began < 1


def test_what_is_held_back_has_a_name():
    reader = MarkupReader(OFFERED)
    holds = []
    for text in ("Hello", " [TOOL_", "CALLS]", "book", '[ARGS]{"day":', '"Mon"}', ", "):
        reader.feed(text)
        holds.append(reader.holds)
    assert holds == ["", "", "", "call", "call", "", ""]
    reader = MarkupReader(OFFERED)
    reader.feed('{"name": "bo')
    assert reader.holds == "call"


def test_markup_that_never_ends_holds_a_bounded_text():
    reader = MarkupReader(OFFERED)
    events = reader.feed('[TOOL_CALLS][{"name": "book", "arguments": {"a": "')
    for _ in range(100):
        events += reader.feed("x" * 10_000)
        assert len(reader._buffer) <= MAX_MARKUP + 10_000
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
    + [
        "Hello",
        "get_weather",
        "book",
        ".",
        "]}",
        ", ",
        "</",
        bare(HAND),
        "[TOOL_",
        "``` json",
        "é",
        "…",
        dumped(OSLO),
        newer(HAND),
        '{"name": "',
    ]
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
    st.sampled_from(["[THINK]", "<think>", "<|channel|>analysis<|message|>"]),
    st.lists(MARKUP, max_size=8),
    st.lists(st.integers(0, 200), max_size=12),
    st.booleans(),
)
def test_however_a_thought_is_split_it_means_the_same(
    begin: str, parts: list[str], cuts: list[int], expected: bool
):
    text = begin + "".join(parts)
    whole = read([text], begins_in_thought=expected)
    assert read(pieces(text, cuts), begins_in_thought=expected) == whole


@given(st.lists(MARKUP, max_size=8), st.lists(st.integers(0, 200), max_size=12), st.booleans())
def test_however_what_was_taken_for_a_thought_is_split_it_means_the_same(
    parts: list[str], cuts: list[int], cut: bool
):
    text = "".join(parts)
    (words, _, *rest), (words_too, _, *rest_too) = (
        read(each, cut=cut, begins_in_thought=True) for each in (pieces(text, cuts), [text])
    )
    assert (words, rest) == (words_too, rest_too)


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
