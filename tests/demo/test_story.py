"""What became of a fault, in words, whichever report comes first."""

from typing import Any

import pytest

from mistral_service.demo.story import Story, repeated


def story(kind: str = "cut") -> Story:
    return Story(1, kind, "mistral_service")


def test_a_cut_that_is_resumed():
    fault = story()
    fault.spoke(9.8, "The moon is ")
    fault.struck(10.0, 3)
    fault.handled(10.1, "resumed", 2, "mistral-small-latest", "the stream broke")
    fault.spoke(10.3, "a ball of rock.")
    fault.ended(10.5)
    assert fault.state == "met"
    assert fault.headline == "Cut after 3 words → resumed in 0.30 s, nothing repeated"
    message = fault.message(11.0)
    assert message["place"] == "The moon is"
    assert [line["at"] for line in message["lines"]] == [0.0, 0.1, 0.3]
    assert message["age"] == 1.0


def test_words_that_come_twice_are_counted():
    fault = story()
    fault.spoke(9.8, "The moon is ")
    fault.struck(10.0, 3)
    fault.handled(10.1, "resumed", 2, "m", "")
    fault.spoke(10.3, "moon is a ball.")
    assert fault.headline.endswith("resumed in 0.30 s, 2 words repeated")


def test_a_place_is_named_once_no_word_can_come_before_it_and_only_of_a_cut():
    fault = story()
    fault.spoke(9.8, "One two three four five six ")
    fault.struck(10.0, 9)
    assert fault.place == ""
    fault.spoke(10.05, "seven eight ni")  # on its way when the stream was cut
    fault.handled(10.1, "resumed", 2, "m", "")
    assert fault.place == ""
    fault.spoke(10.3, "ne ten.")
    assert fault.place == "two three four five six seven eight ni"
    other = story("503")
    other.spoke(9.8, "One two.")
    other.struck(10.0, 0)
    other.spoke(10.3, "Yes.")
    assert other.place == ""


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        ("The moon is", "a ball of rock", 0),
        ("The moon is", "The moon is a ball", 3),
        ("on and on", "on it goes", 0),  # a single word may come twice by chance
        ("", "The moon", 0),
        ("The moon", "", 0),
    ],
)
def test_repeated_words(before: str, after: str, count: int):
    assert repeated(before, after) == count


def test_what_follows_from_a_fault_may_be_seen_before_its_report():
    fault = story("empty")
    fault.ended(10.2)
    fault.struck(10.1, 0)
    assert fault.state == "silent"
    assert fault.headline == "An empty reply → not a word, and no error"


def test_what_came_before_the_fault_does_not_follow_from_it():
    fault = story("503")
    fault.spoke(9.0, "Good morning.")
    fault.ended(9.5)
    fault.failed(9.6, "something else")
    fault.struck(10.0, 0)
    assert fault.state == "struck"


def test_the_service_may_report_the_fault_before_the_endpoint_does():
    fault = story("503")
    fault.handled(10.05, "moved", 2, "ministral-8b-latest", "unavailable")
    fault.struck(10.0, 0)
    fault.spoke(10.2, "Yes.")
    assert fault.headline.endswith("ministral-8b-latest answers after 0.20 s")


MET: list[tuple[str, Any, str]] = [
    ("hang", lambda s: (s.spoke(12.5, "Yes."), s.ended(13, True)), "parallel answers after 2.5 s"),
    ("down", lambda s: s.handled(11, "retried", 3, "m", ""), "1 more request, the answer comes"),
    ("empty", lambda s: s.request(10.1, "m"), "1 more request, the answer comes after"),
    ("text-call", lambda s: s.called_function(10.4, "weather"), "read, and weather runs after"),
    ("text-call", lambda s: s.spoke(10.4, "[TOOL_CALLS]"), "spoken as it stands: [TOOL_CALLS]"),
]


@pytest.mark.parametrize(("kind", "happens", "outcome"), MET)
def test_how_a_fault_is_met(kind: str, happens: Any, outcome: str):
    fault = story(kind)
    fault.struck(10.0, 0)
    happens(fault)
    fault.spoke(13.0, " Yes.")
    assert fault.state == ("aloud" if "as it stands" in outcome else "met")
    assert outcome in fault.headline


def test_silence_ends_when_the_user_goes_on():
    fault = story("hang")
    fault.struck(10.0, 0)
    fault.interrupted(24.0)
    assert fault.state == "silent"
    assert fault.headline == "The reply hangs → nothing for 14.0 s, until you went on"
    fault.spoke(25.0, "Yes?")
    assert fault.state == "silent"


def test_an_error_is_shown_with_its_sentence():
    fault = story("503")
    fault.struck(10.0, 0)
    fault.failed(11.6, "Mistral is unavailable.")
    assert fault.state == "failed"
    assert fault.headline.endswith("→ an error after 1.6 s: Mistral is unavailable.")
    fault.spoke(12.0, "Yes?")
    assert fault.state == "failed"


def test_a_fault_that_nothing_meets_is_dropped():
    fault = story()
    assert fault.headline == "Cut: waits for the next reply"
    fault.dropped("nothing was asked")
    assert fault.is_over
    assert fault.headline == "Cut → nothing was asked"
