"""Where the transcript marks that a stream was cut."""

from typing import Any

import pytest
from browser_demo import idle_page
from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

__all__ = ["idle_page"]  # a fixture


def says(text: str, segment: int = 1, status: str = "new") -> list[Any]:
    return ["botSays", {"text": text, "segment_id": segment, "spoken_status": status}]


def hears(said: str, rest: str, segment: int = 1) -> list[Any]:
    progress = {"accumulated_text": said, "remaining_text": rest}
    heard = {"text": "", "segment_id": segment, "spoken_status": "in-progress"}
    return ["botSays", {**heard, "spoken_progress": progress}]


def cut(place: str, number: int = 1) -> list[Any]:
    return ["cutAfter", {"number": number, "place": place}]


FIRST, SECOND = "The moon is (so they say) round.", "It goes round the earth."
MARKED = "The moon is (so [cut here] they say) round."
MARKS = [
    ([says(FIRST), cut("moon is (so")], [MARKED]),
    ([cut("moon is (so"), says(FIRST)], [MARKED]),  # known before the sentence is in sight
    ([says(FIRST), cut("moon is (so"), cut("moon is (so")], [MARKED]),  # told again
    ([says(FIRST), cut("")], [FIRST]),
    ([says(FIRST), cut("quite another")], [FIRST]),
    ([says("The  moon\nis round."), cut("The moon is")], ["The moon is [cut here] round."]),
    ([says(FIRST), cut("The mo")], ["The mo [cut here] on is (so they say) round."]),
    ([says(FIRST), cut("say) round.")], [f"{FIRST} [cut here]"]),
    ([says(FIRST), cut("round. It goes"), says(SECOND, 2)],
     [f"{FIRST} It goes [cut here] round the earth."]),
    # It stays as the words are said, to the end.
    ([says(FIRST), cut("moon is (so"), hears("The moon", " is (so they say) round.")], [MARKED]),
    ([says(FIRST), cut("moon is (so"), hears(FIRST, "")], [MARKED]),
    ([says(FIRST), cut("moon is (so"), says(FIRST, status="completed")], [MARKED]),
    # Another turn has nothing to do with it.
    ([says(SECOND), cut("moon is (so"), ["userSays", "And?", True], says(FIRST, 2)],
     [SECOND, "And?", FIRST]),
    ([says(FIRST), cut("The"), says(FIRST, status="completed"), ["userSays", "And?", True],
      cut("The", 2), says(FIRST, 2)],
     ["The [cut here] moon is (so they say) round.", "And?",
      "The [cut here] moon is (so they say) round."]),
]  # fmt: skip


@pytest.mark.parametrize(("calls", "turns"), MARKS)
def test_the_place_of_a_cut_is_marked_once(idle_page: Page, calls: list[Any], turns: list[str]):
    shown = idle_page.evaluate(
        """async (calls) => {
          const { Transcript } = await import("./transcript.js");
          const box = document.createElement("div");
          const list = document.createElement("ol");
          box.append(list);
          const transcript = new Transcript(list);
          for (const [name, ...given] of calls) transcript[name](...given);
          transcript.end();
          for (const mark of list.querySelectorAll(".cut")) mark.textContent = " [cut here] ";
          return [...list.querySelectorAll("p")].map((p) => p.textContent);
        }""",
        calls,
    )
    assert [" ".join(text.split()) for text in shown] == turns
