"""What a voice can say, and when it has something to say."""

import pytest

from mistral_service.reply.speech import Sentences, has_words


@pytest.mark.parametrize(
    "text", ["", " ", "...", "…", "*", "🙂👍", "<break time='1s'/>", "—", "&nbsp;"]
)
def test_there_is_nothing_to_say(text: str):
    assert not has_words(text)


@pytest.mark.parametrize("text", ["a", "5", "は", "ё", "۵", "<b>x</b>", "3 < 4", "…ok"])
def test_there_is_something_to_say(text: str):
    assert has_words(text)


def fed(words: list[str], gap: float, within: float = 4.0) -> str:
    sentences = Sentences(within)
    return "".join(sentences.feed(word, gap * count) for count, word in enumerate(words))


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
    sentences = Sentences(4.0)
    assert sentences.feed("one ", 0.0) == "one "
    assert sentences.feed("two ", 2.9) == ". two "


def test_a_later_sentence_has_the_time_that_the_voice_needs_for_those_before_it():
    sentences = Sentences(4.0)
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
