"""Text in clauses: a voice has every sentence at the same moment as without, in fewer pieces."""

import asyncio
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipecat.utils.string import SENTENCE_ENDING_PUNCTUATION, match_endofsentence
from pipecat.utils.text.simple_text_aggregator import SimpleTextAggregator

from mistral_service.reply.clauses import CLAUSE_TIMEOUT, Clauses

TEXT = (
    "The city has two main stations, and most trains to the south leave from the older one. "
    "If you travel in the morning, there is a fast train at 8.15 that takes two hours. "
    "It stops only once, in Dijon, so you should reserve a seat early! Dr. Martin told me that "
    'the restaurant car opens at nine. "Is that so?" Yes: it has room for twelve, and it costs '
    "less…\n\nAnything else?"
)
FRAGMENTS = (
    *(" the", " train", "Dr", "Mr", " e.g", " I", " Albert", " Did", " it", " 8", "15", "$"),
    *(".", ".", ".", "!", "?", ";", "…", ",", ":", '"', "'", ")", "(", "—", " ", "\n", "\n\n"),
    *("今天", "天气", "很好", "。", "？", "，", "नमस्ते", "।", "مرحبا", "؟", "။", "🙂", "_", "*"),
)
WORDS = st.lists(st.sampled_from(FRAGMENTS), max_size=60)
PAUSES = st.floats(0, 0.3)


def tokens_of(text: str) -> list[str]:
    return re.findall(r"\s*\w+|\s*[^\w\s]", text)


def in_pieces(tokens: list[str], seconds: float, within: float = CLAUSE_TIMEOUT) -> list[str]:
    """The pieces in which tokens leave that come at a pace."""
    clauses, pieces = Clauses(match_endofsentence, within), list[str]()
    for number, token in enumerate(tokens):
        if clauses.feed(token, number * seconds):
            pieces.append(clauses.take())
    return [*pieces, clauses.take()]


@given(WORDS, PAUSES)
def test_no_character_is_lost_or_moved(tokens: list[str], pause: float):
    assert "".join(in_pieces(tokens, pause)) == "".join(tokens)


@given(WORDS, st.lists(PAUSES, min_size=60, max_size=60))
def test_a_voice_has_every_sentence_with_the_same_token(tokens: list[str], pauses: list[float]):
    async def compare() -> None:
        at_once, gathered = SimpleTextAggregator(), SimpleTextAggregator()
        clauses, now = Clauses(match_endofsentence), 0.0
        for token, pause in zip(tokens, pauses, strict=False):
            now += pause
            expected = [each.text async for each in at_once.aggregate(token)]
            piece = clauses.take() if clauses.feed(token, now) else ""
            assert [each.text async for each in gathered.aggregate(piece)] == expected

    asyncio.run(compare())


@pytest.mark.parametrize("seconds", [0.02, 0.01, 0.001, 0.0])
def test_the_first_sentence_leaves_token_by_token(seconds: float):
    first = tokens_of("The city has two stations, Dr. Martin says. Most")
    assert in_pieces([*first, " trains", " leave"], seconds)[: len(first)] == first


def test_the_tokens_behind_it_are_gathered():
    tokens = tokens_of(TEXT)
    for seconds, most in ((0.02, 0.6), (0.01, 0.5), (0.001, 0.45)):
        assert len(in_pieces(tokens, seconds)) <= most * len(tokens)


@pytest.mark.parametrize("pause", [0.005, 0.02, 0.03, 0.09])
def test_no_word_waits_for_another_that_comes_too_late(pause: float):
    clauses = Clauses(match_endofsentence)
    came: list[float] = []
    for number, token in enumerate(tokens_of(TEXT)):
        now = number * pause
        came.append(now)
        if clauses.feed(token, now):
            came.clear()
            clauses.take()
        assert not came or now + pause < came[0] + CLAUSE_TIMEOUT + 1e-9
        assert not came or clauses.due == came[0] + CLAUSE_TIMEOUT


def test_a_stream_that_is_slower_is_never_held_up():
    tokens = tokens_of(TEXT)
    assert in_pieces(tokens, 1.1 * CLAUSE_TIMEOUT) == [*tokens, ""]


def test_a_clause_ends_a_piece_that_has_waited():
    begun = tokens_of("Hello there. The")
    rest = tokens_of(" fast train stops in Dijon, and then it goes on to Lyon")
    pieces = in_pieces(begun + rest, 0.012)[len(begun) :]
    assert pieces[0] == " fast train stops in Dijon,"


def test_of_token_every_token_leaves():
    tokens = tokens_of(TEXT)
    assert in_pieces(tokens, 0.001, 0.0) == [*tokens, ""]


def test_a_reply_without_an_end_is_gathered_at_last():
    tokens = [" and so on"] * 1_000
    pieces = in_pieces(tokens, 0.01)
    assert pieces[:50] == tokens[:50]
    assert max(map(len, pieces)) > len(tokens[0])
    assert len(pieces) < len(tokens) / 4


def test_every_mark_at_which_a_voice_looks_for_an_end_is_known():
    for mark in SENTENCE_ENDING_PUNCTUATION:
        begun = tokens_of("Hello there. Most trains go")
        pieces = in_pieces([*begun, mark, "Then", " more"], 0.001)
        assert f"{mark}Then" in "".join(a + b for a, b in pairwise(pieces))
        assert any(piece.endswith("Then") for piece in pieces), mark


def test_a_number_is_not_searched_for_the_end_of_a_sentence():
    searched: list[str] = []

    def first_sentence(text: str) -> int:
        searched.append(text)
        return 0

    clauses = Clauses(first_sentence)
    for at, text in enumerate(("It is ", "12.5 ", "degrees ", "at ", "20.15 ")):
        clauses.feed(text, at * 0.02)
    assert not searched
