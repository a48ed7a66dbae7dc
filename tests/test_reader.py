"""Captured streams to events: what the caller hears and which functions run."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_service.reply.events import Event, Finish, Text, Thought, ToolCall
from mistral_service.reply.reader import ReplyReader
from mistral_service.wire.chunks import Usage, parse_chunk
from mistral_service.wire.errors import MistralError, Reason
from mistral_service.wire.sse import SSEDecoder

CAPTURES = Path(__file__).parent / "captures"


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
