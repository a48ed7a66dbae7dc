"""The page in a real Firefox: connect, hear, read, interrupt; break a call, and change it."""

import re

import pytest
from browser_demo import AUDIBLE, LISTEN, MICROPHONE, Demo, spoken
from firefox import END, RIGHT, TAB, Firefox, firefox

from mistral_service.local import LocalMistral, Reply, Script

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

GREETING = "Good morning, this is the demo. How may I help you today?"
STORY = (
    # A long sentence: between two, a busy machine is silent while it makes the next.
    "This is a long story of a river that flows through green hills and quiet towns, and in the "
    "first town there lives a miller, who has a donkey, and the donkey has a bell, and the bell "
    "rings every morning, when the sun comes up over the hills and the fields. "
) * 2
QUESTION = "Wait, please. Why is the sky blue?"


def key_of(mistral: LocalMistral) -> dict[str, str]:
    return {"MISTRAL_API_KEY": "any", "MISTRAL_BASE_URL": mistral.base_url}


def connect(window: Firefox, demo: Demo) -> None:
    """Call the demo's bot, with a microphone that hears what `say` says."""
    window.open(demo.address)
    window.run(MICROPHONE)
    window.click("#connect")


def test_firefox_hears_and_shows_the_greeting():
    with (
        LocalMistral(Script(Reply(GREETING, times=None))) as mistral,
        Demo(environ=key_of(mistral)) as demo,
        firefox() as window,
    ):
        connect(window, demo)
        window.until_text("#state", "Speaking")
        window.run(f"({LISTEN})()")
        loud = "window.heard.filter((level) => level > arguments[0]).length >= arguments[1]"
        window.until(loud, AUDIBLE, 11)  # half a second of voice
        window.until_text("#state", "Listening")
        window.until_text(".bot", GREETING)
        assert window.text("#problem") == window.text("#silent") == ""
        window.click("#connect")
        window.until_text("#state", "Ready")
        demo.interrupt()
    assert "Traceback" not in demo.output


def test_a_user_of_firefox_can_interrupt_the_bot():
    spoken(QUESTION)  # made ready, for the bot speaks no longer than its story
    script = Script(
        Reply("Air scatters blue light most.", when="sky", times=None), Reply(STORY, times=None)
    )
    with (
        LocalMistral(script) as mistral,
        Demo(environ=key_of(mistral)) as demo,
        firefox() as window,
    ):
        connect(window, demo)
        window.until_text("#state", "Speaking")
        window.run("return window.say(arguments[0])", spoken(QUESTION))
        window.until_text(".bot.interrupted", "interrupted")
        unsaid = "return [...document.querySelectorAll('.bot.interrupted i')].at(-1).textContent"
        assert window.run(unsaid)
        window.until_text(".bot:last-of-type", "Air scatters")


TABS = ("break", "change", "functions", "look", "took")


def tab_by_keyboard(window: Firefox) -> None:
    """Go to the tabs from the first button of the page, and through them."""
    stands_on = "return document.activeElement.id"
    window.run("document.querySelector('#connect').focus()")
    presses = 0
    while not window.run(stands_on).startswith("tab-"):
        window.press(":focus", TAB)
        presses += 1
        assert presses < 15
    window.press(":focus", RIGHT)
    assert window.run(stands_on) == "tab-change"
    window.until_text("#panel-change", "Settings change while the call goes on")
    window.press(":focus", END)
    assert window.run(stands_on) == "tab-took"
    window.until_text("#panel-took", "Copy as a bug report")


def nothing_is_wider(window: Firefox, width: int) -> None:
    for tab in TABS:
        window.click(f"#tab-{tab}")
        assert window.run("return document.documentElement.scrollWidth") <= width, tab


def test_the_panel_breaks_and_changes_a_call_in_firefox_on_a_narrow_screen():
    with Demo() as demo, firefox() as window:
        window.open(demo.address)
        window.run(MICROPHONE)
        window.resize(390, 844)
        window.until_text("#panel-break", "Choose a fault")
        tab_by_keyboard(window)

        window.click("#connect")
        window.until_text("#state", "Speaking")
        window.click("#tab-change")
        for temperature, sentence in {
            "7": "temperature must be a number from 0 to 1.5, not 7.0",
            "0.9": "Changed: temperature.",
        }.items():
            window.fill("#change [name=temperature]", temperature)
            window.click("#change button")
            window.until_text("#change output", sentence)

        window.until_text("#state", "Listening")
        window.click("#tab-break")
        window.click("[data-fault=cut]")
        window.until_text("#stories .headline", "waits for the next reply")
        window.click("#panel-break [data-say]")
        window.until_text("#stories .badge", "survived")
        headline = window.text("#stories .headline")
        assert re.search(r"Cut after 5 words → .* in \d\S* s, nothing repeated", headline)
        window.until_text("#turns .cut", "cut here")
        assert "the endpoint cuts the stream" in window.text("#stories .steps")
        window.click("#stories summary")
        assert window.text("#stories .steps") == window.text("#problem") == ""
        nothing_is_wider(window, 390)
        window.click("#connect")
        window.until_text("#state", "Ready")
        demo.interrupt()
    assert "Traceback" not in demo.output
