"""The conversation in a real Firefox: it connects, hears, reads, and interrupts."""

import pytest
from browser_demo import AUDIBLE, LISTEN, MICROPHONE, Demo, spoken
from firefox import Firefox, firefox

from mistral_service.local import LocalMistral, Reply, Script

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

GREETING = "Good morning, this is the demo. How may I help you today?"
STORY = (
    "This is a long story of a river that flows through green hills and quiet towns. "
    "In the first town there lives a miller, who has a donkey, and the donkey has a bell. "
    "The bell rings every morning, when the sun comes up over the hills and the fields. "
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
