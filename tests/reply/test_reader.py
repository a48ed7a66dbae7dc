"""Captured streams to events: what the caller hears and which functions run."""

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_service.reply.events import Event, Finish, Text, Thought, ToolCall, Unreadable
from mistral_service.reply.reader import ReplyReader
from mistral_service.wire.chunks import Chunk, Usage, read_payload
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.sse import SSEDecoder

CAPTURES = Path(__file__).parents[1] / "captures"


def parse_chunk(payload: bytes | str) -> Chunk:
    chunk, fault = read_payload(payload)
    if chunk is None or fault is not None:
        raise fault or AssertionError(payload)
    return chunk


def read(reads: list[bytes]) -> list[Event]:
    decoder, reader = SSEDecoder(), ReplyReader()
    events: list[Event] = []
    payloads = [payload for data in reads for payload in decoder.feed(data)]
    for payload in payloads + decoder.finish():
        if payload != b"[DONE]":
            events += reader.feed(parse_chunk(payload))
    return events + reader.finish()


def capture(name: str) -> list[Event]:
    return read([(CAPTURES / f"{name}.sse").read_bytes()])


def words(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def calls(events: list[Event]) -> list[tuple[str | None, str, str]]:
    return [(e.id, e.name, e.arguments) for e in events if isinstance(e, ToolCall)]


def test_words_come_in_order_then_the_end():
    events = capture("text")
    assert words(events) == "Bonjour, ça va\u2028?"
    assert events[-1] == Finish("stop", "mistral-small-latest", Usage(21, 12, 33))


def test_several_calls_in_one_delta_are_all_there():
    assert calls(capture("parallel_calls")) == [
        ("D681PevKs", "get_weather", '{"city": "Paris"}'),
        ("yvMh8fpWq", "get_weather", '{"city": "Rome"}'),
    ]


def test_calls_that_share_an_index_are_told_apart_by_id():
    events = capture("calls_same_index")
    assert words(events) == "Let me look. "
    assert calls(events) == [("aaaaaaaa1", "one", "{}"), ("aaaaaaaa2", "two", "{}")]


def test_calls_without_index_and_id_are_told_apart_by_name():
    assert calls(capture("calls_no_index_no_id")) == [
        (None, "one", '{"a": 1}'),
        (None, "two", '{"b": [2]}'),
    ]


def test_a_call_in_fragments_is_one_call_with_its_first_id():
    assert calls(capture("call_in_fragments")) == [
        ("chatcmpl-tool-9f", "get_weather", '{"city": "Paris"}')
    ]


@pytest.mark.parametrize("name", ["call_as_text", "call_as_text_newer", "call_name_twice"])
def test_a_call_that_a_server_sends_in_its_own_way_is_one_call(name: str):
    events = capture(name)
    assert [(name, arguments) for _, name, arguments in calls(events)] == [
        ("get_weather", '{"city": "Paris"}')
    ]
    assert words(events) in ("", "Let me look. ")


@pytest.mark.parametrize("name", ["thought_as_text", "thought_beside"])
def test_a_thought_that_a_server_sends_in_its_own_way_is_no_speech(name: str):
    events = capture(name)
    assert words(events) == "Hello there."
    assert "".join(e.text for e in events if isinstance(e, Thought)) == "The user greets."


def test_thinking_is_no_speech():
    events = capture("thinking")
    assert words(events) == "Hello there."
    assert [e.text for e in events if isinstance(e, Thought)] == ["The user ", "greets."]
    end = events[-1]
    assert isinstance(end, Finish)
    assert end.usage == Usage(21, 12, 33, cached_tokens=16, reasoning_tokens=7)


def test_a_thought_with_sources_is_a_thought_and_its_sources_are_no_words():
    events = capture("thought_with_sources")
    assert words(events) == "Hello there."
    assert "".join(e.text for e in events if isinstance(e, Thought)) == "The user greets."
    usage = Usage(21, 12, 33, cached_tokens=16, prompt_audio_seconds=4, service_tier="priority")
    assert events[-1] == Finish("stop", "mistral-medium-latest", usage)


def test_a_thought_that_only_cites_counts_as_thinking():
    reader = ReplyReader()
    cited = {"type": "tool_reference", "tool": "web_search", "title": "Hours"}
    delta = {"content": [{"type": "thinking", "thinking": [cited]}]}
    assert reader.feed(parse_chunk(json.dumps({"choices": [{"delta": delta}]}))) == []
    assert reader.thoughts == 1


def test_what_a_tool_of_mistrals_found_is_not_spoken_and_its_call_is_not_ours():
    events = capture("messages_of_a_tool")
    assert words(events) == "Let me look. We open at nine."
    assert calls(events) == []


def test_a_call_beside_one_that_mistral_answered_is_ours():
    made = [
        {"id": "Lib0aBcD1", "function": {"name": "document_library", "arguments": "{}"}},
        {"id": "weather01", "function": {"name": "weather", "arguments": "{}"}},
    ]
    deltas = [
        {"role": "assistant", "content": "", "tool_calls": made},
        {"role": "tool", "tool_call_id": "Lib0aBcD1", "content": "Nine to five."},
        {"content": " Closed on Sundays."},
        {"role": "assistant", "content": "One moment."},
    ]
    chunks = [json.dumps({"choices": [{"delta": delta}]}).encode() for delta in deltas]
    events = read([b"data: " + chunk + b"\n\n" for chunk in chunks])
    assert words(events) == "One moment."
    assert calls(events) == [("weather01", "weather", "{}")]


def test_several_messages_of_a_whole_reply_are_one():
    made = [{"id": "Lib0aBcD1", "function": {"name": "document_library", "arguments": "{}"}}]
    messages = [
        {"role": "assistant", "content": "Let me look.", "tool_calls": made},
        {"role": "tool", "tool_call_id": "Lib0aBcD1", "content": "Nine to five."},
        {"content": [{"type": "text", "text": "At nine."}, {"type": "resource_link", "uri": "x"}]},
    ]
    choice = {"index": 0, "messages": messages, "finish_reason": "stop", "logprobs": None}
    events = read([b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"])
    assert words(events) == "Let me look. At nine."
    assert calls(events) == []


def test_a_reply_of_thoughts_alone_has_no_words():
    events = capture("thinking_only")
    assert words(events) == ""
    assert calls(events) == []


def test_an_error_in_mid_stream_is_a_typed_error():
    with pytest.raises(MistralError, match="capacity exceeded") as raised:
        capture("error_in_mid_stream")
    assert raised.value.reason is Reason.CAPACITY
    assert raised.value.retryable


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"null", b"\xff", b'"text"'])
def test_what_is_no_chunk_is_a_typed_error(payload: bytes):
    with pytest.raises(MistralError):
        parse_chunk(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"choices": null}',
        b'{"choices": [null]}',
        b'{"choices": [{"delta": null}]}',
        b'{"choices": [{"delta": {"content": 7, "tool_calls": [null, {}]}}]}',
        b'{"choices": [{"delta": {"content": [null, 3, {"type": "thinking"}]}}], "usage": 1}',
    ],
)
def test_a_chunk_of_odd_shape_says_nothing_and_breaks_nothing(payload: bytes):
    events = read([b"data: " + payload + b"\n\n"])
    assert [event for event in events if not isinstance(event, Finish)] == []


@pytest.mark.parametrize("path", sorted(CAPTURES.glob("*.sse")), ids=lambda path: path.stem)
def test_a_cut_at_any_byte_between_two_reads_changes_nothing(path: Path):
    if path.stem == "error_in_mid_stream":
        return
    stream = path.read_bytes()
    whole = read([stream])
    for cut in range(len(stream)):
        assert read([stream[:cut], stream[cut:]]) == whole


@settings(max_examples=150)
@given(
    st.sampled_from(sorted(CAPTURES.glob("*.sse"))),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    st.lists(st.integers(0, 2000), max_size=6),
)
def test_a_capture_cut_anywhere_into_any_reads_gives_the_same_and_a_broken_one_never_crashes(
    path: Path, flips: list[tuple[int, int]], cuts: list[int]
):
    """Random cuts change nothing; flipped bytes lead to events or a typed error."""
    stream = path.read_bytes()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]

    def reads(data: bytes) -> list[bytes]:
        return [data[a:b] for a, b in pairwise(edges)]

    if path.stem != "error_in_mid_stream":
        assert read(reads(stream)) == read([stream])
    broken = bytearray(stream)
    for place, byte in flips:
        broken[place % len(broken)] = byte
    try:
        events = read(reads(bytes(broken)))
    except MistralError:
        return
    assert isinstance(events[-1], Finish)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "content", "tool_calls", "function", "name", "arguments", "id"]
                + ["index", "type", "text", "thinking", "usage", "finish_reason", "model", "p"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.lists(JSON, max_size=4))
def test_no_json_at_any_level_crashes_the_reader(values: list):
    payloads = [json.dumps({"choices": [{"delta": value}], "usage": value}) for value in values]
    reader = ReplyReader()
    events = [event for payload in payloads for event in reader.feed(parse_chunk(payload))]
    assert all(event.text for event in events if isinstance(event, Text | Thought))
    assert isinstance(reader.finish()[-1], Finish)


ARGUMENTS = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=6), max_size=3)


@settings(max_examples=60)
@given(
    made=st.lists(st.tuples(st.sampled_from(["one", "two"]), ARGUMENTS), min_size=1, max_size=4),
    size=st.integers(1, 9),
    later_id=st.sampled_from([None, "", "null", "same", "other"]),
)
def test_however_calls_are_fragmented_they_come_out_whole(
    made: list[tuple[str, dict]], size: int, later_id: str | None
):
    reader = ReplyReader()
    for index, (name, arguments) in enumerate(made):
        call_id, text = f"id{index}", json.dumps(arguments)
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        later = {"same": call_id, "other": f"x{index}"}.get(later_id or "", later_id)
        for number, piece in enumerate(pieces):
            function = {"name": "" if number else name, "arguments": piece}
            call = {"index": index, "id": later if number else call_id, "function": function}
            chunk = {"choices": [{"delta": {"tool_calls": [call]}}]}
            assert list(reader.feed(parse_chunk(json.dumps(chunk)))) == []
    assert calls(reader.finish()) == [
        (f"id{i}", name, json.dumps(arguments)) for i, (name, arguments) in enumerate(made)
    ]


# --- calls in pieces ------------------------------------------------------------------------------


def call_piece(
    name: str = "", arguments: str = "", call_id: str | None = None, index: int | None = None
) -> dict:
    return {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}


def of_deltas(
    *deltas: dict, finish_reason: object = "stop", offered: tuple[str, ...] = (), **options: bool
) -> list[Event]:
    """The events of a reply whose chunks have these deltas."""
    reader = ReplyReader(offered, **options)
    events: list[Event] = []
    for delta in deltas:
        events += reader.feed(parse_chunk(json.dumps({"choices": [{"delta": delta}]})))
    end = {"choices": [{"delta": {}, "finish_reason": finish_reason}]}
    return [*events, *reader.feed(parse_chunk(json.dumps(end))), *reader.finish()]


def of_pieces(*pieces: dict) -> list[tuple[str, object]]:
    """The calls that these pieces are, one in each delta."""
    made = calls(of_deltas(*({"tool_calls": [piece]} for piece in pieces)))
    return [(name, json.loads(arguments)) for _, name, arguments in made]


MONDAY, OSLO = '{"day": "Monday"}', '{"city": "Oslo"}'
BOOKED, WEATHER = ("book", {"day": "Monday"}), ("get_weather", {"city": "Oslo"})


@pytest.mark.parametrize("index", [None, 0])
def test_pieces_with_an_id_find_their_call(index: int | None):
    assert of_pieces(
        call_piece("book", "", "a1", index),
        call_piece("get_weather", "", "b1", index),
        call_piece("", MONDAY, "a1", index),
        call_piece("", OSLO, "b1", index),
    ) == [BOOKED, WEATHER]
    assert of_pieces(
        call_piece("book", "", "a1", index),
        call_piece("get_weather", "", "b1", index),
        call_piece("", MONDAY[:7], "a1", index),
        call_piece("", MONDAY[7:], None, index),
        call_piece("", OSLO[:3], "b1", index),
        call_piece("", OSLO[3:], None, index),
    ) == [BOOKED, WEATHER]


@pytest.mark.parametrize("again", [MONDAY, '{"day":"Monday"}', "{}", "", " "])
@pytest.mark.parametrize("name", ["book", ""])
@pytest.mark.parametrize("call_id", ["a1", None])
def test_what_brings_nothing_to_a_whole_call_is_no_other_call(again: str, name: str, call_id):
    assert of_pieces(call_piece("book", MONDAY, "a1", 0), call_piece(name, again, call_id, 0)) == [
        BOOKED
    ]


def test_a_whole_call_that_was_encoded_twice_may_come_again():
    twice = json.dumps(MONDAY)
    for name in ("book", ""):
        pieces = (call_piece("book", twice, "a1", 0), call_piece(name, twice, None, 0))
        assert of_pieces(*pieces) == [BOOKED]


@pytest.mark.parametrize("name", ["book", ""])
@pytest.mark.parametrize("call_id", ["a1", None])
@pytest.mark.parametrize("text", [MONDAY, json.dumps(MONDAY), " " + MONDAY])
def test_arguments_that_come_each_time_anew_are_the_last(name: str, call_id, text: str):
    for step in (1, 2, 5):
        grown = [text[:end] for end in range(2, len(text), step)]
        pieces = [call_piece(name, each, call_id, 0) for each in [*grown, text]]
        assert of_pieces(call_piece("book", text[:1], "a1", 0), *pieces) == [BOOKED]


@pytest.mark.parametrize(
    "text",
    ['{"a":{"a":1}}', '{"{": 0}', '{"a": {}}', '{"a": [{}, {}, {"a": {}}]}', '{"": {"": 0}}'],
)
def test_arguments_that_repeat_themselves_are_whole_in_any_pieces(text: str):
    for first in range(1, len(text)):
        for second in range(first, len(text)):
            parts = [text[:first], text[first:second], text[second:]]
            pieces = [
                call_piece("" if n else "book", part, None, 0) for n, part in enumerate(parts)
            ]
            assert of_pieces(*pieces) == [("book", json.loads(text))]


@pytest.mark.parametrize(
    "pieces",
    [
        # the name again, while the arguments have no end
        [call_piece("book", '{"day":', "a1", 0), call_piece("book", ' "Monday"}', None, 0)],
        # a name that comes each time anew
        [
            call_piece("b", "", "a1", 0),
            call_piece("boo", "", "a1", 0),
            call_piece("book", MONDAY, "a1", 0),
        ],
        [call_piece("b", "", None, 0), call_piece("book", MONDAY, None, 0)],
        # a name in pieces
        [call_piece("bo", "", "a1", 0), call_piece("ok", MONDAY, "a1", 0)],
        # arguments that were still to come
        [call_piece("book", "{}", "a1", 0), call_piece("", MONDAY, None, 0)],
    ],
)
def test_pieces_of_one_call_are_one_call(pieces: list[dict]):
    assert of_pieces(*pieces) == [BOOKED]


@pytest.mark.parametrize("index", [None, 0])
def test_one_id_for_every_call_does_not_make_them_one(index: int | None):
    assert of_pieces(
        call_piece("book", MONDAY, "x", index), call_piece("get_weather", OSLO, "x", index)
    ) == [BOOKED, WEATHER]


def test_long_arguments_are_looked_at_once():
    value = {"items": [{"n": {}}] * 8_000}
    text = json.dumps(value)
    reader = ReplyReader()
    began = time.process_time()
    for at in range(0, len(text), 4):
        piece = call_piece("book", text[at : at + 4], "a1", 0)
        reader.feed(parse_chunk(json.dumps({"choices": [{"delta": {"tool_calls": [piece]}}]})))
    [(_, _, arguments)] = calls(reader.finish())
    assert json.loads(arguments) == value
    assert time.process_time() - began < 3


# --- calls that are written and sent --------------------------------------------------------------


def test_arguments_that_were_encoded_twice_are_unwrapped_once():
    sent = call_piece("book", json.dumps(MONDAY), "a1", 0)
    assert calls(of_deltas({"tool_calls": [sent]})) == [("a1", "book", MONDAY)]
    written = f"[TOOL_CALLS]book[ARGS]{json.dumps(MONDAY)}"
    assert calls(of_deltas({"content": written})) == [(None, "book", MONDAY)]
    other = json.dumps(json.dumps(MONDAY))
    sent = call_piece("book", other, "a1", 0)
    assert calls(of_deltas({"tool_calls": [sent]})) == [("a1", "book", other)]


@pytest.mark.parametrize(
    "written",
    [
        f"[TOOL_CALLS]book[ARGS]{MONDAY}",
        f"[TOOL_CALLS]book[ARGS]{json.dumps(MONDAY)}",
        "[TOOL_CALLS]book",
        '[TOOL_CALLS]book[ARGS]{"day": "Mo',
        f"[TOOL_CALLS]book[TOOL_CALLS]book[ARGS]{MONDAY}",
    ],
)
def test_a_call_that_is_written_and_sent_is_one(written: str):
    other = call_piece("get_weather", OSLO, "b1", 1)
    sent = {"tool_calls": [call_piece("book", MONDAY, "a1", 0), other]}
    events = of_deltas({"content": written}, sent, offered=("book", "get_weather"))
    made = [(name, arguments) for _, name, arguments in calls(events)]
    assert made[-2:] == [("book", MONDAY), ("get_weather", OSLO)]
    assert made[:-2] == ([("book", "")] if written.count("book") == 2 else [])


def test_each_written_call_needs_a_sent_one_of_its_own():
    written = f"[TOOL_CALLS]book[TOOL_CALLS]book[ARGS]{MONDAY}"
    events = of_deltas(
        {"content": written},
        {"tool_calls": [call_piece("book", MONDAY, "a1", 0)]},
        {"tool_calls": [call_piece("book", '{"day": "Tuesday"}', "a2", 1)]},
    )
    assert [arguments for _, _, arguments in calls(events)] == [MONDAY, '{"day": "Tuesday"}']


@pytest.mark.parametrize("finish_reason", ["stop", "tool_calls", "length"])
def test_a_written_call_without_arguments_has_none_to_run_with(finish_reason: str):
    text = {"content": "[TOOL_CALLS]book"}
    events = of_deltas(text, offered=("book",), finish_reason=finish_reason)
    assert calls(events) == [(None, "book", "")]
    text = {"content": "<tool_call>book</tool_call>"}
    assert calls(of_deltas(text, offered=("book",))) == [(None, "book", "{}")]


def test_what_is_written_is_told_from_what_is_sent():
    events = of_deltas(
        {"content": f"[TOOL_CALLS]fly[ARGS]{OSLO}"},
        {"tool_calls": [call_piece("book", MONDAY, "a1", 0)]},
    )
    made = {e.name: e.written for e in events if isinstance(e, ToolCall)}
    assert made == {"fly": True, "book": False}


# --- what counts as progress ----------------------------------------------------------------------


def counts(*deltas: dict, offered: tuple[str, ...] = ("book",), **options: bool) -> list[tuple]:
    """After each delta, how much has come: all, thoughts, pieces of calls."""
    reader = ReplyReader(offered, **options)
    found: list[tuple[int, int, int]] = []
    for delta in deltas:
        reader.feed(parse_chunk(json.dumps({"choices": [{"delta": delta}]})))
        found.append((reader.progress, reader.thoughts, reader.call_progress))
    return found


@pytest.mark.parametrize(
    "text", ["...", "…", "🙂", "\u200b", "\n ", "—", "*", "</s>", "<|im_end|>"]
)
def test_what_no_voice_can_say_is_no_progress(text: str):
    assert counts({"content": text}, {"content": text}) == [(0, 0, 0)] * 2
    assert counts({"content": [{"type": "text", "text": text}]}) == [(0, 0, 0)]


def test_what_is_skipped_is_no_progress():
    deltas = [{"content": text} for text in ("[TOOL_RESULTS]", "a lot", " of words")]
    assert counts(*deltas) == [(0, 0, 0)] * 3


@pytest.mark.parametrize("text", ["5", "да", "はい", "é", "۵", "- a"])
def test_a_letter_or_a_digit_in_any_script_is_progress(text: str):
    assert counts({"content": text}) == [(1, 0, 0)]


@pytest.mark.parametrize(
    "deltas",
    [
        [{"reasoning_content": "They "}, {"reasoning": "greet"}],
        [{"content": "<think>They "}, {"content": "greet"}],
        [{"content": "[THINK]a</think>"}, {"content": "They greet"}],
        [{"content": [{"type": "thinking", "thinking": ["They "]}]}, {"reasoning": ["greet"]}],
        [{"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}] * 2,
        [{"content": [{"type": "redacted_thinking", "data": "x"}]}] * 2,
    ],
)
def test_thoughts_are_counted(deltas: list[dict]):
    found = counts(*deltas)
    assert found[1][0] > found[0][0]
    assert all(all_ == thoughts and not made for all_, thoughts, made in found)


@pytest.mark.parametrize(
    "deltas",
    [
        [{"tool_calls": [call_piece("book")]}, {"tool_calls": [call_piece("", '{"day"')]}],
        [{"content": "[TOOL_CALLS]book"}, {"content": '[ARGS]{"day": "M'}, {"content": 'on"}'}],
        [{"content": '```json\n{"name": "bo'}, {"content": 'ok", "argu'}, {"content": "ments"}],
        [{"content": '{"name": "bo'}, {"content": 'ok", "argu'}, {"content": "ments"}],
    ],
)
def test_pieces_of_calls_are_counted(deltas: list[dict]):
    found = counts(*deltas)
    assert all(later[2] > earlier[2] for earlier, later in pairwise(found))
    assert all(all_ == made and not thoughts for all_, thoughts, made in found)


def test_blanks_in_a_call_are_no_progress():
    deltas = [{"content": text} for text in ('[TOOL_CALLS]book[ARGS]{"day":', "  ", "\n")]
    assert len(set(counts(*deltas))) == 1
    assert counts({"tool_calls": [call_piece("", "  ")]}) == [(0, 0, 0)]


# --- thinking, ends, errors -----------------------------------------------------------------------


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "reasoning_text", "thinking"])
@pytest.mark.parametrize(
    "value",
    [
        "They greet.",
        ["They ", "greet."],
        [{"text": "They "}, {"content": "greet."}],
        [{"type": "summary_text", "summary": "They "}, {"reasoning": "greet."}],
        {"text": "They greet."},
        {"content": [{"type": "text", "text": "They "}, {"text": "greet."}]},
        {"summary": [{"type": "summary_text", "text": "They greet."}]},
    ],
)
def test_thinking_beside_the_content_is_read_in_any_form(field: str, value: object):
    events = of_deltas({field: value}, {"content": "Hello."})
    assert [e for e in events if isinstance(e, Thought)] == [Thought("They greet.")]
    assert words(events) == "Hello."


@pytest.mark.parametrize(
    "details",
    ["They greet.", ["They greet."], {"text": "They greet."}, [{"summary": "They greet."}]],
)
def test_details_of_reasoning_are_read_in_any_form(details: object):
    assert of_deltas({"reasoning_details": details})[0] == Thought("They greet.")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "reasoning", "text": "They greet."},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "They greet."}]},
        {"type": "thinking", "thinking": ["They ", "greet."]},
        {"type": "thinking", "thinking": "They greet."},
    ],
)
def test_a_part_of_thinking_is_read_in_any_form(part: dict):
    events = of_deltas({"content": [part, {"type": "text", "text": "Hello."}]})
    assert events[:2] == [Thought("They greet."), Text("Hello.")]


def test_thinking_that_comes_under_two_names_is_told_once():
    both = {"reasoning": "Hm.", "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]}
    assert of_deltas(both)[:-1] == [Thought("Hm.")]


@pytest.mark.parametrize("value", [True, 7, {}, [], [None, 3], {"text": 5}, [[[[[[["x"]]]]]]]])
def test_thinking_of_odd_shape_says_nothing(value: object):
    assert (
        len(of_deltas({"reasoning": value}, {"content": [{"type": "reasoning", "text": 5}]})) == 1
    )


def test_half_of_a_surrogate_pair_in_a_thought_waits_for_the_other():
    halves = [{"reasoning_content": "Hi \ud83d"}, {"reasoning_content": "\ude00 you"}]
    thoughts = [e.text for e in of_deltas(*halves) if isinstance(e, Thought)]
    assert thoughts == ["Hi ", "😀 you"]
    alone = of_deltas(halves[0], {"content": "Hello."})
    assert alone[:3] == [Thought("Hi "), Thought("\ufffd"), Text("Hello.")]
    assert of_deltas(halves[0])[:2] == [Thought("Hi "), Thought("\ufffd")]


@pytest.mark.parametrize("reason", [{}, [], 0, False, 7, {"type": "x"}])
def test_an_end_that_is_no_word_is_a_break(reason: object):
    reader = ReplyReader()
    reader.feed(parse_chunk(json.dumps({"choices": [{"delta": {}, "finish_reason": reason}]})))
    assert reader.broken == json.dumps(reason)


@pytest.mark.parametrize("reason", [None, ""])
def test_no_end_is_no_break(reason: object):
    end = of_deltas({"content": "Hello."}, finish_reason=reason)[-1]
    assert isinstance(end, Finish)
    assert end.reason is None


def test_a_break_stays_one():
    reader = ReplyReader()
    for reason in ("abort", "stop"):
        reader.feed(parse_chunk(json.dumps({"choices": [{"finish_reason": reason}]})))
    assert reader.broken == "abort"


@pytest.mark.parametrize("form", ["delta", "message"])
def test_an_error_in_a_delta_is_an_error(form: str):
    delta = {"content": "Hel", "error": {"code": 429, "message": "Slow down"}}
    with pytest.raises(MistralError, match="Slow down") as raised:
        parse_chunk(json.dumps({"choices": [{form: delta}]}))
    assert raised.value.reason is Reason.RATE_LIMIT
    assert parse_chunk(json.dumps({"choices": [{form: {"content": "Hi", "error": None}}]})).text


# --- what is read otherwise -----------------------------------------------------------------------


def test_code_that_is_filled_in_is_left_alone():
    code = "[INST] <s>x</s> <think> [TOOL_CALLS] ```json\n{"
    events = of_deltas(*({"content": char} for char in code), markup=False)
    assert words(events) == code
    assert [e for e in events if not isinstance(e, Text | Finish)] == []
    assert counts({"content": "}"}, {"content": "\n"}, markup=False) == [(1, 0, 0)] * 2


@pytest.mark.parametrize("finish_reason", ["length", "model_length", "stop", None])
def test_a_thought_that_was_expected_and_was_cut_stays_one(finish_reason: str | None):
    events = of_deltas(
        {"content": "They greet"}, finish_reason=finish_reason, begins_in_thought=True
    )
    cut = finish_reason in ("length", "model_length")
    assert words(events) == ("" if cut else "They greet")
    assert events[0] == Thought("They greet")


def test_a_typed_thought_gives_back_what_was_taken_for_one():
    events = of_deltas(
        {"content": "Hello."}, {"reasoning": "Hm."}, {"content": " You?"}, begins_in_thought=True
    )
    assert words(events) == "Hello. You?"


def test_a_stray_marker_of_calls_is_reported_where_nothing_follows():
    assert Unreadable("[TOOL_CALLS]") in of_deltas({"content": "Well.[TOOL_CALLS]"})
    assert words(of_deltas({"content": "[TOOL_CALLS] Well."})) == "Well."
