"""axe-core finds nothing in any state of the page."""

import asyncio
import queue
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from accessibility import needs_npm, violations
from browser_demo import SLOW_CLOCK, browser, film
from call_servers import Line, Machines
from fastapi import WebSocket
from images import halves
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300), needs_npm]

Step = Callable[[Line], Awaitable[None]]
HANG = "navigator.mediaDevices.getUserMedia = () => new Promise(() => undefined);"


def state(page: Page, name: str) -> None:
    expect(page.get_by_role("status")).to_have_text(name)


def accessible(page: Page, name: str) -> None:
    """Wait for a state, and judge it."""
    state(page, name)
    found = violations(page)
    assert not found, "\n".join(found)
    state(page, name)


def connect(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("button", name="Connect").click()


class ScriptedBot:
    """A bot that does what a test says, one step after the other, and then hangs up."""

    def __init__(self) -> None:
        self._steps: queue.Queue[Step | None] = queue.Queue()

    async def hold(self, line: Line) -> int:
        while step := await asyncio.to_thread(self._steps.get):
            await step(line)
        return 1000

    def send(self, kind: str, **data: object) -> None:
        self._steps.put(lambda line: line.tell(kind, **data))

    def output(self, said: str, rest: str) -> None:
        self._steps.put(lambda line: line.output(1, said, rest))

    def end(self) -> None:
        self._steps.put(None)


@contextmanager
def in_call(bot: ScriptedBot, **options: object) -> Iterator[Page]:
    """A page in a call with a bot that does what a test says."""
    with (
        Machines([bot.hold], **options).running() as address,
        browser(not options.get("text")) as chrome,
    ):
        page = chrome.new_page()
        page.add_init_script("""
          const contexts = (window.contexts = []);
          window.AudioContext = class extends AudioContext {
            constructor(options) { super(options); contexts.push(this); }
          };
        """)
        connect(page, address)
        try:
            yield page
        finally:
            bot.end()


def test_before_a_call():
    with Machines([]).running() as address, browser() as chrome:
        page = chrome.new_page()
        page.goto(address)
        accessible(page, "Ready")
        page.get_by_role("button", name="First token").focus()
        expect(page.get_by_role("tooltip").filter(has_text="language model")).to_be_visible()
        accessible(page, "Ready")
        page.get_by_role("button", name="Connect").click()
        expect(page.get_by_role("alert").filter(has_text="No microphone")).to_be_visible()
        accessible(page, "Ready")


def test_while_the_microphone_is_asked_for():
    with Machines([]).running() as address, browser(True) as chrome:
        page = chrome.new_page()
        page.add_init_script(HANG)
        connect(page, address)
        accessible(page, "Waiting for the microphone")


def test_while_it_connects_with_a_camera(tmp_path: Path):
    camera = film(tmp_path / "camera.y4m", halves(640, 480))
    status = {"transport": "webrtc", "camera": True}
    with Machines([], **status).running() as address, browser(True, camera) as chrome:
        page = chrome.new_page()
        page.route("**/api/offer", lambda route: None)  # it is never answered
        connect(page, address)
        expect(page.locator("#camera")).to_be_visible()
        accessible(page, "Connecting")


def test_while_the_bot_loads():
    async def says_nothing(websocket: WebSocket) -> None:
        while True:
            await websocket.receive_bytes()

    machines = Machines([], pipeline=says_nothing)
    with machines.running() as address, browser(True) as chrome:
        page = chrome.new_page()
        connect(page, address)
        accessible(page, "Loading")


def test_while_both_speak():
    bot = ScriptedBot()
    with in_call(bot) as page:
        accessible(page, "Listening")

        bot.send("user-started-speaking")
        bot.send("user-input", text="Why is the sky", final=False, input_type="transcription")
        expect(page.locator(".user p")).to_have_text("Why is the sky")
        accessible(page, "Listening")

        words = {"text": "Why is the sky blue?", "input_type": "transcription"}
        bot.send("user-input", final=True, **words)
        bot.send("user-stopped-speaking")
        accessible(page, "Thinking")

        bot.send("bot-llm-started")
        bot.send("bot-started-speaking")
        bot.output("Air scatters", " blue light most.")
        expect(page.locator(".bot b")).to_have_text("Air scatters")
        accessible(page, "Speaking")

        bot.send("bot-interrupted")
        bot.send("bot-stopped-speaking")
        expect(page.locator(".bot")).to_contain_text("interrupted")
        seconds = {"stt": 0.4, "turn": 0.2, "llm": 0.3, "sentence": 0.2, "tts": 0.1, "total": 1.2}
        bot.send("server-message", type="latency", seconds=seconds)
        expect(page.locator("dd[data-part=total]")).to_have_text("1.20 s")
        accessible(page, "Listening")

        bot.send("error", error="Mistral's server failed (500).", fatal=False)
        expect(page.locator(".problem")).to_be_visible()
        page.get_by_role("button", name="Mute").click()
        accessible(page, "Listening")


def test_while_the_sound_is_suspended():
    with in_call(ScriptedBot()) as page:
        state(page, "Listening")
        page.wait_for_function("contexts.some(({ state }) => state === 'running')")
        page.evaluate("Promise.all(contexts.map((context) => context.suspend()))")
        expect(page.get_by_role("button", name="Turn the sound on")).to_be_visible()
        accessible(page, "Listening")


def test_while_one_writes_and_the_bot_answers():
    bot = ScriptedBot()
    with in_call(bot, text=True) as page:
        accessible(page, "Listening")
        bot.send("bot-llm-started")
        bot.send("bot-llm-text", text="Air scatters blue")
        expect(page.locator(".bot p")).to_have_text("Air scatters blue")
        accessible(page, "Writing")


def test_while_the_call_moves_and_when_it_is_lost():
    async def breaks(line: Line) -> int:
        return 1012

    machines = Machines([breaks], away=600)
    with machines.running() as address, browser(True) as chrome:
        page = chrome.new_page()
        page.clock.install()
        page.add_init_script(SLOW_CLOCK)  # axe-core takes long on a busy machine
        connect(page, address)
        accessible(page, "Reconnecting: the call moves to another machine.")
        page.clock.fast_forward(5 * 30_000)
        expect(page.get_by_role("alert").filter(has_text="lost")).to_be_visible()
        accessible(page, "Ready")
