"""The page on a machine without a network: it says so where it needs one, before the first call."""

import pytest
from browser_demo import idle_page
from playwright.sync_api import Browser, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

__all__ = ["idle_page"]  # a fixture

OFFLINE = "Object.defineProperty(navigator, 'onLine', { get: () => false, configurable: true })"
ONLINE = OFFLINE.replace("false", "true", 1) + "; dispatchEvent(new Event('online'))"


@pytest.fixture
def offline(idle_page: Page):
    """Open the page of a demo of this status in a browser that sees no network."""

    def open_page(**status: object) -> Page:
        page.route("**/api/status", lambda route: route.fulfill(json={"engine": "it", **status}))
        page.goto(idle_page.url)
        expect(page.locator("#engine")).to_contain_text("Answers come from it.")
        return page

    chrome = idle_page.context.browser
    assert isinstance(chrome, Browser)
    page = chrome.new_page()
    page.add_init_script(OFFLINE)
    yield open_page
    page.close()


def test_the_local_model_needs_none_but_the_browser_may(offline):
    page = offline(local=True)
    problem = page.locator("#problem")
    expect(problem).to_contain_text("no network. The demo needs none, but most browsers")
    page.evaluate(ONLINE)
    expect(problem).to_be_hidden()


def test_mistrals_api_needs_one(offline):
    page = offline(local=False)
    expect(page.locator("#problem")).to_contain_text("start the demo without MISTRAL_API_KEY")


def test_a_call_by_websocket_on_this_machine_needs_none(offline):
    page = offline(local=False, transport="websocket")
    expect(page.locator("#problem")).to_be_hidden()
