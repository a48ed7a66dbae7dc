"""A real conversation: a spoken question in, a spoken answer out, through a real browser."""

import os
import re
from pathlib import Path

import pytest
from browser_demo import (
    AUDIBLE,
    FIRST_WORDS,
    LISTEN,
    Demo,
    browser,
    connect,
    say,
    speaks,
    spoken,
    state,
)
from playwright.sync_api import Locator, Page, expect

from mistral_service.local import LocalMistral, Reply, Script

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

ARTIFACTS = Path(os.environ.get("ARTIFACTS_DIR", "artifacts"))
QUESTION = "Why is the sky blue?"
PARTS = ["stt", "turn", "llm", "sentence", "tts", "rest"]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def hears(page: Page, seconds: float) -> None:
    """Wait until the loudspeaker has been audible for some seconds."""
    page.wait_for_function(
        "([audible, times]) => window.heard.filter((level) => level > audible).length >= times",
        arg=[AUDIBLE, seconds / 0.05],
        timeout=60_000,
    )


def the_question(page: Page) -> Locator:
    """The turn in which the question was recognised, once there is one."""
    return page.locator(".user").filter(has_text=re.compile("sky.*blue", re.IGNORECASE)).first


def test_a_spoken_question_gets_a_spoken_answer():
    with Demo() as demo, browser(True) as chrome:
        page = chrome.new_page(viewport={"width": 1200, "height": 760})
        connect(page, demo)

        # The bot greets.
        speaks(page)
        page.evaluate(LISTEN)
        expect(page.locator(".bot").first).to_contain_text(re.compile(r"\w+ \w+"))
        state(page, "Listening")

        # The question is recognised, and answered after it.
        page.evaluate("window.heard.length = 0")
        say(page, QUESTION)
        expect(the_question(page)).to_be_visible(timeout=60_000)
        answer = the_question(page).locator("xpath=following-sibling::li[@class='bot'][1]")
        expect(answer).to_contain_text(re.compile(r"\w+ \w+"), timeout=60_000)
        hears(page, 0.55)  # the track carries a voice
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=ARTIFACTS / "demo.png")

        # Read: most of the question's words, and words of an answer.
        recognised = words(the_question(page).locator("p").inner_text())
        assert len(set(words(QUESTION)) & set(recognised)) >= 4, recognised
        assert len(words(answer.locator("p").inner_text())) >= 3

        # Measured: every part of the turn, and they add up.
        parts = {part: page.locator(f"dd[data-part={part}]") for part in [*PARTS, "total"]}
        for part in parts.values():
            expect(part).to_contain_text(re.compile(r"\d"), timeout=30_000)
        shown = {name: part.inner_text() for name, part in parts.items()}
        seconds = {part: float(text.removesuffix(" s")) for part, text in shown.items()}
        assert all(seconds[part] > 0 for part in ("stt", "llm", "tts", "total"))
        assert sum(seconds[part] for part in PARTS) == pytest.approx(seconds["total"], abs=0.05)
        assert page.locator(".problem").all_inner_texts() == []

        # Ctrl-C ends it, and the page says so.
        status, took, left = demo.interrupt()
        expect(page.locator("#problem")).to_contain_text("The demo ended the call")
        turns = page.locator("#turns > li").all_inner_texts()
    assert status in (0, 130)
    assert not left
    assert not re.search("Traceback|Task was destroyed|ERROR|WARNING", demo.output), demo.output
    assert "it shows the plumbing, not the wisdom" in demo.output

    report = "\n".join(
        [turn.replace("\n\n", ": ") for turn in turns]
        + [f"{part}: {text}" for part, text in shown.items()]
        + [f"loaded in {demo.start_seconds:.1f} s, ended in {took:.1f} s"]
    )
    (ARTIFACTS / "demo.txt").write_text(report + "\n")
    print(report)


def test_the_user_can_interrupt_the_bot():
    story = (
        "This is a long story of a river that flows through green hills and quiet towns, and in "
        "the first town there lives a miller, who has a donkey, and the donkey has a bell, and "
        "the bell rings every morning, when the sun comes up over the hills and the fields. "
    ) * 2
    words_between = f"Wait, please. {QUESTION}"
    spoken(words_between)  # made ready, for the bot speaks no longer than its story
    script = Script(
        Reply("Air scatters blue light most.", when="sky", times=None), Reply(story, times=None)
    )
    with (
        LocalMistral(script) as mistral,
        Demo(environ={"MISTRAL_API_KEY": "key", "MISTRAL_BASE_URL": mistral.base_url}) as demo,
        browser(True) as chrome,
    ):
        page = chrome.new_page()
        connect(page, demo)
        speaks(page)
        say(page, words_between)
        interrupted = page.locator(".bot.interrupted").first
        expect(interrupted).to_contain_text("interrupted", timeout=60_000)
        assert interrupted.locator("i").last.inner_text()  # words that were not said
        expect(page.locator(".bot").last).to_contain_text("Air scatters", timeout=60_000)


def test_a_refused_key_is_told_in_words_and_the_bot_goes_on():
    with (
        LocalMistral(Script(), api_key="the right key") as mistral,
        Demo(
            environ={"MISTRAL_API_KEY": "s3cr3t-wr0ng", "MISTRAL_BASE_URL": mistral.base_url}
        ) as demo,
        browser(True) as chrome,
    ):
        page = chrome.new_page()
        connect(page, demo)
        problems = page.locator(".problem")
        expect(problems.first).to_contain_text("check MISTRAL_API_KEY", timeout=FIRST_WORDS)
        state(page, "Listening")
        # The next turn is heard, and refused in its turn.
        say(page, QUESTION)
        expect(the_question(page)).to_be_visible(timeout=60_000)
        expect(problems).to_have_count(2)
        expect(page.locator("#state")).to_have_text("Listening")
        assert "s3cr3t" not in page.content()
        status, _, _ = demo.interrupt()
    assert status in (0, 130)
    assert "s3cr3t" not in demo.output
    assert "Traceback" not in demo.output


def test_without_a_microphone_the_page_says_what_to_do():
    with Demo() as demo, browser() as chrome:
        page = chrome.new_page()
        connect(page, demo)
        expect(page.locator("#problem")).to_contain_text("No microphone was found")
        expect(page.get_by_role("button", name="Connect")).to_be_enabled()
        assert demo.interrupt()[0] in (0, 130)
