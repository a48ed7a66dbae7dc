"""A bot that looks through a real browser's camera, and one that cannot."""

import os
import sys
from pathlib import Path

import pytest
from browser_demo import FIRST_WORDS, Demo, browser, connect, film, greeted, say, state
from images import halves, opened, urls_in
from PIL import Image
from playwright.sync_api import expect

from mistral_service.local import LocalMistral

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

EXAMPLES = Path(__file__).parents[3] / "examples"
BOT = EXAMPLES / "vision_bot.py"
ARTIFACTS = Path(os.environ.get("ARTIFACTS_DIR", "artifacts"))
# One sentence: on a busy machine a pause between two may pass for the end of the turn.
QUESTION = "What do you see through the camera?"

sys.path.append(str(EXAMPLES))
from offline_eyes import Eyes  # noqa: E402


def test_the_bot_tells_what_the_browsers_camera_shows(tmp_path: Path):
    camera = film(tmp_path / "camera.y4m", halves(640, 480))
    with (
        LocalMistral(Eyes()) as mistral,
        Demo(
            "--bot",
            str(BOT),
            environ={"MISTRAL_API_KEY": "any", "MISTRAL_BASE_URL": mistral.base_url},
        ) as demo,
        browser(True, camera) as chrome,
    ):
        page = chrome.new_page(viewport={"width": 1200, "height": 760})
        connect(page, demo)
        expect(page.locator("#camera")).to_be_visible(timeout=60_000)
        greeted(page)
        say(page, QUESTION)
        answer = page.locator(".bot").filter(has_text="I see red on the left and blue on the right")
        expect(answer.first).to_be_visible(timeout=60_000)
        page.wait_for_timeout(500)
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=ARTIFACTS / "vision.png")
        assert page.locator(".problem").all_inner_texts() == []

        # Switched off, the camera shows the bot nothing, and it says so.
        page.get_by_role("button", name="Camera off").click()
        expect(page.get_by_role("button", name="Camera on")).to_be_visible()
        state(page, "Listening")
        say(page, QUESTION)
        blind = page.locator(".bot").filter(has_text="I cannot see you")
        expect(blind.first).to_be_visible(timeout=60_000)
        status, _, left = demo.interrupt()

    assert status in (0, 130)
    assert not left
    assert [exchange.refused for exchange in mistral.exchanges] == [None] * len(mistral.exchanges)
    looked = [e.request for e in mistral.exchanges if urls_in(e.request)]
    seen = opened(urls_in(looked[0])[-1])
    assert seen.format == "JPEG"
    assert isinstance(seen, Image.Image)
    assert max(seen.size) <= 640
    assert "Traceback" not in demo.output


def test_a_bot_that_does_not_look_is_not_offered_the_camera(tmp_path: Path):
    camera = film(tmp_path / "camera.y4m", halves(640, 480))
    with (
        LocalMistral(Eyes()) as mistral,
        Demo(
            "--bot",
            str(EXAMPLES / "voice_bot.py"),
            environ={"MISTRAL_API_KEY": "any", "MISTRAL_BASE_URL": mistral.base_url},
        ) as demo,
        browser(True, camera) as chrome,
    ):
        page = chrome.new_page()
        connect(page, demo)
        expect(page.locator(".bot").first).to_contain_text("Hello", timeout=FIRST_WORDS)
        expect(page.locator("#camera")).to_be_hidden()
        expect(page.get_by_role("button", name="Camera off")).to_be_hidden()
        assert page.evaluate("document.querySelector('#camera').srcObject") is None
