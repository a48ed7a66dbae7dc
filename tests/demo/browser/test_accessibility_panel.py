"""axe-core finds nothing in the panel beside the conversation, before a call and in one."""

import re

import pytest
from accessibility import needs_npm, violations
from browser_demo import MICROPHONE, Demo, browser, film, greeted, state
from images import halves
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300), needs_npm]

TABS = ("Break it", "Change it", "Functions", "Look", "What it took")
SLOW = 90_000  # ms; the model is real, and a busy machine is slow with it


def accessible(page: Page) -> None:
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tabpanel", name=name)).to_be_visible()
        found = violations(page)
        assert not found, f"{name}:\n" + "\n".join(found)


def ask(page: Page, words: str) -> None:
    page.get_by_role("textbox", name="Or write").fill(words)
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#turns > .user").last).to_contain_text(words, timeout=SLOW)
    expect(page.locator("#turns > .bot").last).to_contain_text(re.compile(r"\w"), timeout=SLOW)
    state(page, "Listening")


def test_the_panel_before_a_call_and_in_one(tmp_path):
    camera = film(tmp_path / "camera.y4m", halves(640, 480))
    with Demo() as demo, browser(True, camera) as chrome:
        page = chrome.new_page(viewport={"width": 1440, "height": 900})
        page.add_init_script(MICROPHONE)  # Chromium's own beeps, which are heard as words
        page.goto(demo.address)
        expect(page.locator("#panel")).to_be_visible()
        accessible(page)

        page.get_by_role("button", name="Connect", exact=True).click()
        greeted(page)
        page.get_by_role("tab", name="Break it").click()
        page.get_by_role("button", name="Cut the stream").click()
        # The endpoint has the fault before the question comes.
        expect(page.locator("#stories > li").first).to_have_attribute("data-state", "waiting")
        ask(page, "Tell me about the moon.")
        expect(page.locator("#turns .cut")).to_be_visible()
        expect(page.locator("#stories > li").first).to_be_visible(timeout=SLOW)
        ask(page, "Take a note: buy milk.")
        ask(page, "How is the weather in Port Amber?")
        page.get_by_role("tab", name="Look").click()
        page.locator("#see").click()
        expect(page.locator("#looks")).not_to_be_empty(timeout=SLOW)
        state(page, "Listening")
        page.get_by_role("tab", name="Change it").click()
        page.get_by_role("textbox", name="Temperature").fill("7")
        page.get_by_role("button", name="Apply").click()
        accessible(page)
