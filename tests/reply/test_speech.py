"""What a voice can say, and when it has something to say."""

import pytest
from pipecat.utils.string import match_endofsentence

from mistral_service.reply.speech import Sentences, has_words


@pytest.mark.parametrize(
    "text",
    ["", " ", "...", "…", "*", "🙂👍", "<break time='1s'/>", "—", "&nbsp;"]
    + ["&#x200B;", "&AMP;", "<!-- note -->", "<!-- note", "<?xml a?>", "<![CDATA[]]>"]
    + ["```json\n```", "\u200b", "\u0301"],
)
def test_there_is_nothing_to_say(text: str):
    assert not has_words(text)


@pytest.mark.parametrize(
    "text", ["a", "5", "は", "ё", "۵", "<b>x</b>", "3 < 4", "…ok", "AT&T; a", "1 <! b"]
)
def test_there_is_something_to_say(text: str):
    assert has_words(text)


def sentences_of(within: float = 4.0, silence: float = 30.0) -> Sentences:
    return Sentences(within, match_endofsentence, silence=silence)


def fed(words: list[str], gap: float, begins: float = 0.0, **options: float) -> str:
    sentences = sentences_of(**options)
    return "".join(sentences.feed(word, begins + gap * count) for count, word in enumerate(words))


def test_a_sentence_that_comes_in_time_leaves_unchanged():
    words = [f"word{n} " for n in range(40)]
    assert fed(words, 0.09) == "".join(words)


@pytest.mark.parametrize("spaced", ["{} ", " {}"])
def test_an_end_is_set_between_two_words(spaced: str):
    said = fed([spaced.format(word) for word in ["sorry", "did", "you", "mean", "the", "one"]], 1.2)
    first, *_ = said.split(".")
    assert first.split() == ["sorry", "did", "you"]
    assert said.replace(".", "").split() == ["sorry", "did", "you", "mean", "the", "one"]


def test_the_end_comes_before_the_time_is_over_where_the_next_word_would_come_after():
    sentences = sentences_of()
    assert sentences.feed("one ", 0.0) == "one "
    assert sentences.feed("two ", 2.9) == ". two "


def test_a_later_sentence_has_the_time_that_the_voice_needs_for_those_before_it():
    sentences = sentences_of()
    assert sentences.feed("This sentence of ten words keeps a voice busy now. And ", 0.0)
    assert sentences.feed("this ", 3.0) == "this "
    assert sentences.feed("one ", 5.0) == "one "
    assert "." in sentences.feed("goes ", 8.0)


def test_a_word_that_comes_letter_by_letter_is_cut_only_when_it_has_taken_twice_as_long():
    said = fed(list("Hippopotamuses"), 1.0)
    assert said.startswith("Hippopo")
    assert said.replace(". ", "") == "Hippopotamuses"
    assert ". " in said


def test_a_long_sentence_that_comes_as_fast_as_it_is_spoken_has_twice_the_time():
    words = [f"word{number} " for number in range(16)]
    assert fed(words, 0.4) == "".join(words)
    assert "." in fed(words * 2, 0.4)


def test_a_script_without_blanks_is_cut_anywhere():
    assert "。" in fed(list("今日はとてもいい天気"), 1.2)


@pytest.mark.parametrize(
    "text",
    [
        "At 7.30 or 8.15 or 9.45 or 10.30 or so",
        "With Dr. Jones or Dr. Smith or Dr. Who",
        "ok?yes ok?no ok?yes ok?no ok?maybe",
        "v1.2 v1.3 v1.4 v1.5 v1.6 v1.7",
    ],
)
def test_a_point_that_ends_no_sentence_gives_no_more_time(text: str):
    words = [f"{word} " for word in text.split()]
    sentences, said = sentences_of(), ""
    for count, word in enumerate(words):
        said += sentences.feed(word, 1.2 * count)
        if length := match_endofsentence(said):
            break
    assert 0 < length < len(said)
    assert 1.2 * count <= 4.0


@pytest.mark.parametrize("word", ["No", "Mr", "St", "vs", "etc", "Jan"])
def test_the_end_that_is_set_is_one_for_the_voice(word: str):
    said = fed([word, " and", " so"], 2.8)
    assert match_endofsentence(said)


def test_no_sentence_takes_longer_than_the_caller_may_hear_nothing():
    words = ["sorry ", "did ", "you ", "mean "]
    assert fed(words, 1.0, begins=6.0, silence=9.0).startswith("sorry . did you")
    assert 0 < match_endofsentence(fed(list("Hippopotamus"), 1.0, begins=6.0, silence=9.0)) < 5


def test_what_is_no_word_gets_no_end_before_it():
    assert fed(["Sure", ".", ".", ".", ".", "."], 2.0) == "Sure....."
    assert fed(["Sure", " ", " ", " "], 3.0) == "Sure   "


def test_where_something_else_than_words_comes_the_voice_gets_what_there_is():
    sentences = sentences_of()
    sentences.feed("One moment, please.", 0.0)
    assert sentences.overdue(3.9) == ""
    said = "One moment, please." + sentences.overdue(4.0)
    assert said[: match_endofsentence(said)] == "One moment, please."
    assert sentences.overdue(9.0) == ""
    assert sentences.silent_since > 4.0
    sentences.feed("Sorry ", 10.0)
    end = sentences.overdue(14.0)
    assert match_endofsentence("Sorry " + end)
    assert sentences_of().overdue(100.0) == ""


def test_the_caller_hears_nothing_since_the_last_sentence_was_said():
    sentences = sentences_of()
    assert sentences.silent_since == 0.0
    sentences.feed("Hello there. ", 1.0)
    assert sentences.silent_since == 0.0  # the voice waits for what follows
    sentences.feed("And ", 2.0)
    assert sentences.silent_since > 2.5


def test_a_stream_that_brings_words_is_not_cut_by_what_comes_between_them():
    sentences = sentences_of()
    for count in range(20):
        sentences.feed("word ", 0.3 * count)
        assert sentences.overdue(0.3 * count + 0.1) == ""


def test_points_behind_a_sentence_are_not_what_a_voice_waits_for():
    sentences = sentences_of()
    for count in range(20):
        sentences.feed("." if count else "Sure thing, my friend. ", float(count))
    assert sentences.silent_since == 0.0


def test_sentences_are_looked_for_only_where_it_makes_a_difference():
    looked: list[str] = []

    def first_sentence(text: str) -> int:
        looked.append(text)
        return match_endofsentence(text)

    sentences = Sentences(4.0, first_sentence, silence=9.0)
    for count in range(150):
        sentences.feed(f"at {count}.5 o'clock. ", 0.02 * count)
    assert looked == []
    assert sentences.silent_since > 3.0
