"""What the page tells the next machine: what was heard of the bot, and what the user asked."""

from typing import Any

import pytest
from browser_demo import idle_page
from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

__all__ = ["idle_page"]  # a fixture


def progress(status: str, said: str, rest: str) -> dict[str, Any]:
    parts = {"accumulated_text": said, "remaining_text": rest}
    return {"spoken_status": status, "spoken_progress": parts}


SAYS = progress("new", "", "A b.")
HALF = progress("in-progress", "A", " b.")
SAID = progress("completed", "A b.", "")


def output(how: dict[str, Any], segment: int = 1) -> tuple[str, dict[str, Any]]:
    return "bot-output", {"text": "A b.", "segment_id": segment, **how}


ASKED = ("user-input", {"final": True, "input_type": "transcription", "text": "And?"})
STARTED = ("bot-llm-started", {})
STOPPED = ("bot-llm-stopped", {})
SPEAKS = ("bot-started-speaking", {})
SILENT = ("bot-stopped-speaking", {})
CUT = ("bot-interrupted", {})
WHOLE = [STARTED, SPEAKS, output(SAYS), STOPPED, output(SAID), SILENT]
TOLD = [
    ([], None, False),
    ([CUT], None, False),  # the user speaks into the silence before the first word
    ([STARTED, SPEAKS, output(SAYS)], "", False),  # begun is not heard
    ([STARTED, SPEAKS, output(SAYS), output(HALF)], "A", False),
    ([STARTED, SPEAKS, output(SAID)], "A b.", False),  # the model may write more
    ([STARTED, SPEAKS, STOPPED, output(SAID), output(SAYS, 2), SILENT], "A b.", False),
    (WHOLE, "A b.", True),
    ([STARTED, SPEAKS, output(HALF), CUT], "A", True),  # it will not go on
    ([*WHOLE, ASKED], "", False),  # the answer to come
    ([*WHOLE, ("user-input", {**ASKED[1], "input_type": "backchannel"})], "A b.", True),
    ([*WHOLE, ("user-input", {**ASKED[1], "final": False})], "A b.", True),
    ([STARTED, SPEAKS, output(HALF), ASKED, CUT], "", False),  # either may come first
    ([STARTED, SPEAKS, output(HALF), CUT, ASKED], "", False),
    ([STARTED, SPEAKS, output(HALF), ASKED], "A", False),  # not interrupted: it goes on
    ([*WHOLE, ASKED, STARTED, SPEAKS, output(HALF, 2)], "A", False),
    ([*WHOLE, STARTED, STOPPED], "", False),  # a function was called; words are to come
    ([STARTED, ("bot-llm-text", {"text": "A "}), ("bot-llm-text", {"text": "b."})], "A b.", False),
    ([STARTED, ("bot-llm-text", {"text": "A b."}), STOPPED], "A b.", True),
]


@pytest.mark.parametrize(("messages", "words", "ended"), TOLD)
def test_what_was_heard(idle_page: Page, messages: list[Any], words: str | None, ended: bool):
    told = idle_page.evaluate(
        """async (messages) => {
          const heard = new (await import("./heard.js")).Heard();
          for (const [type, data] of messages) heard.note({ type, data });
          return [heard.words, heard.ended];
        }""",
        messages,
    )
    assert told == [words, ended]


def wrote(text: str) -> tuple[str, dict[str, Any]]:
    return "wrote", {"text": text}


def told_of(text: str) -> tuple[str, dict[str, Any]]:
    return "user-input", {"final": True, "input_type": "chat", "text": text}


def moved(asked: str | None) -> tuple[str, dict[str, Any]]:
    return "moved", {"asked": asked}


ASKS = [
    ([], None),
    (WHOLE, None),
    ([ASKED], "And?"),
    ([ASKED, ASKED], "And? And?"),  # nothing was answered in between
    ([*WHOLE, ("user-input", {**ASKED[1], "input_type": "backchannel"})], None),
    ([*WHOLE, ("user-input", {**ASKED[1], "final": False})], None),
    ([ASKED, *WHOLE], "And?"),  # its turn may not be written down yet
    ([ASKED, *WHOLE, told_of("So?")], "So?"),
    ([ASKED, wrote("So?")], "And? So?"),
    ([ASKED, *WHOLE, wrote("So?")], "So?"),
    ([wrote("So?"), wrote("Well?"), told_of("So?")], "So? Well?"),
    ([wrote("So?"), ASKED, STARTED], "So?"),  # which waits still
    ([wrote("So?"), moved("So?")], "So?"),
    ([wrote("So?"), moved("So?"), STARTED, ASKED], "And?"),
    ([ASKED, *WHOLE, wrote("So?"), moved("And?")], "And?"),  # given back to the user
    ([wrote("So?"), moved(None)], None),
    ([wrote("x" * 10_001)], None),  # the server takes no more
]


@pytest.mark.parametrize(("messages", "asked"), ASKS)
def test_what_was_asked(idle_page: Page, messages: list[Any], asked: str | None):
    told = idle_page.evaluate(
        """async (messages) => {
          const heard = new (await import("./heard.js")).Heard();
          for (const [type, data] of messages) {
            if (type === "wrote") heard.wrote(data.text);
            else if (type === "moved") heard.moved(data.asked);
            else heard.note({ type, data });
          }
          return heard.asked;
        }""",
        messages,
    )
    assert told == asked
