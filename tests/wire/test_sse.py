"""Bytes to payloads: whatever the reads and the line ends, the same payloads come out."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_service.wire import sse
from mistral_service.wire.sse import EventTooLong, SSEDecoder


def decode(*reads: bytes) -> list[bytes]:
    decoder = SSEDecoder()
    payloads = [payload for data in reads for payload in decoder.feed(data)]
    return payloads + decoder.finish()


def test_each_event_gives_its_data():
    assert decode(b"data: one\n\ndata: two\n\n") == [b"one", b"two"]


def test_a_payload_comes_as_soon_as_its_event_is_closed():
    decoder = SSEDecoder()
    assert decoder.feed(b"data: one\n") == []
    assert decoder.feed(b"\n") == [b"one"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_of_the_standard_counts(end: bytes):
    decoder = SSEDecoder()
    assert decoder.feed(b"data: one" + end + end) == [b"one"]
    assert decoder.feed(b"data: two" + end + end) == [b"two"]


def test_no_other_character_ends_a_line():
    text = "one\u2028two\u2029three\x85four\x0bfive\x0csix"
    assert decode(f"data: {text}\n\n".encode()) == [text.encode()]


def test_a_cr_and_its_lf_may_come_in_two_reads():
    assert decode(b"data: one\r", b"\n\r", b"\ndata: two\r", b"\n\r", b"\n") == [b"one", b"two"]


def test_comments_and_other_fields_are_read_over():
    stream = b": keep-alive\nevent: x\nid: 7\nretry: 9\ndatabase: no\ndata: yes\n\n"
    assert decode(stream) == [b"yes"]


def test_several_data_lines_are_one_payload():
    assert decode(b"data: one\ndata:two\ndata\n\n") == [b"one\ntwo\n"]


def test_a_byte_order_mark_is_ignored_even_in_pieces():
    assert decode(b"\xef", b"\xbb", b"\xbf", b"data: one\n\n") == [b"one"]


def test_an_event_that_the_server_forgot_to_close_still_counts():
    assert decode(b"data: one\n\ndata: two") == [b"one", b"two"]


def test_a_stream_without_line_ends_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    with pytest.raises(EventTooLong, match="1000"):
        decode(*[b"x" * 100] * 100)


@given(
    payloads=st.lists(
        st.recursive(
            st.text(max_size=20) | st.integers(),
            lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3),
        ).map(lambda value: json.dumps(value, ensure_ascii=False)),
        max_size=6,
    ),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_where_the_reads_are_cut_changes_nothing(payloads: list[str], end: str, cuts: list[int]):
    stream = "".join(f"data: {payload}{end}{end}" for payload in payloads).encode()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reads = [stream[a:b] for a, b in pairwise(edges)]
    assert decode(*reads) == [payload.encode() for payload in payloads]


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_no_bytes_crash_the_decoder(reads: list[bytes]):
    assert all(isinstance(payload, bytes) for payload in decode(*reads))
