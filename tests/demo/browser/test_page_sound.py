"""The page notices sound that the browser has suspended, and asks for the click that starts it."""

import pytest
from browser_demo import MICROPHONE, Demo, browser
from call_servers import Line, Machines
from firefox import firefox
from pipecat.frames.frames import InputAudioRawFrame
from playwright.sync_api import Page, expect

from mistral_service.local import LocalMistral, Reply, Script

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

BLOCKED = "The browser has suspended the sound."

# Keeps every AudioContext of the page at hand, and may suspend each as it begins.
CONTEXTS = """(suspended) => {
  const contexts = (window.contexts = []);
  window.AudioContext = class extends AudioContext {
    constructor(options) {
      super(options);
      contexts.push(this);
      if (suspended) this.suspend();
    }
  };
}"""


async def listens(line: Line) -> None:
    await line.tell("bot-ready")
    await line.left()


def sounds(line: Line) -> int:
    """How many pieces of sound the bot has heard."""
    return sum(isinstance(frame, InputAudioRawFrame) for frame in line.heard)


def call(page: Page, address: str, *, suspended: bool) -> None:
    page.add_init_script(f"({CONTEXTS})({str(suspended).lower()})")
    page.goto(address)
    page.get_by_role("button", name="Connect").click()
    expect(page.get_by_role("status")).to_have_text("Listening")


def hears_more(page: Page, line: Line) -> None:
    """Wait until the bot hears something new, a minute at most."""
    before = sounds(line)
    for _ in range(600):
        if sounds(line) > before:
            return
        page.wait_for_timeout(100)
    raise AssertionError("the bot hears nothing")


def test_a_call_that_begins_without_sound_asks_for_a_click():
    machines = Machines([listens])
    with machines.running() as address, browser(True) as chrome:
        page = chrome.new_page()
        call(page, address, suspended=True)
        notice = page.get_by_role("alert").filter(has_text=BLOCKED)
        expect(notice).to_be_visible()
        assert sounds(machines.lines[0]) == 0
        page.get_by_role("button", name="Turn the sound on").click()
        expect(notice).to_be_hidden()
        hears_more(page, machines.lines[0])


def test_sound_that_is_suspended_in_mid_call_comes_back():
    """As a telephone suspends it for another call."""
    machines = Machines([listens])
    with machines.running() as address, browser(True) as chrome:
        page = chrome.new_page()
        call(page, address, suspended=False)
        hears_more(page, machines.lines[0])
        notice = page.get_by_role("alert").filter(has_text=BLOCKED)
        page.wait_for_timeout(2000)  # longer than a context may take to start
        expect(notice).to_be_hidden()
        page.evaluate("Promise.all(contexts.map((context) => context.suspend()))")
        expect(notice).to_be_visible()
        page.get_by_role("button", name="Turn the sound on").click()
        expect(notice).to_be_hidden()
        hears_more(page, machines.lines[0])

        # A call that has ended needs no sound.
        page.evaluate("Promise.all(contexts.map((context) => context.suspend()))")
        expect(notice).to_be_visible()
        page.get_by_role("button", name="Disconnect").click()
        expect(notice).to_be_hidden()


def test_a_machine_without_a_sound_device_says_so_and_shows_the_words():
    no_device = {"media.cubeb.force_mock_context": False, "media.cubeb.force_null_context": True}
    with (
        LocalMistral(Script(Reply("Good morning.", times=None))) as mistral,
        Demo(environ={"MISTRAL_API_KEY": "any", "MISTRAL_BASE_URL": mistral.base_url}) as demo,
        firefox(no_device) as window,
    ):
        window.open(demo.address)
        window.run(MICROPHONE)
        window.click("#connect")
        window.until_text("#silent", BLOCKED)
        window.click("#unblock")
        window.until_text("#silent", "see whether this machine has a loudspeaker or headphones")
        window.until_text(".bot", "Good morning.")
