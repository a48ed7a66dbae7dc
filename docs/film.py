"""Films a sentence that is cut and goes on: the animation of the README, and its still.

`python docs/film.py` needs Chromium. It holds a real call of the offline demo, cuts the reply from
the panel while the model writes it, and keeps what the page shows, at the pace at which it happens.
"""

import base64
import io
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
from browser_demo import Demo, browser, connect, greeted, state

IMAGES = Path(__file__).parent / "images"
FILM, STILL = IMAGES / "cut-and-resumed.webp", IMAGES / "cut-and-resumed.png"
SIZE = ViewportSize(width=1312, height=860)  # the least width at which the panel is beside the talk
MARGIN = 12  # pixels around the two
SLOW = 90_000  # ms
SOON = 3000  # ms until a cut has met the reply under way
CALLS = 5  # at most
BEGINNING = 1500  # ms until the question
THINKING = (
    1000  # ms from the question to the cut: the model writes, and the voice is about to begin
)
END = 3000  # ms after the last word
STAYS = 4000  # ms for which the last image stays after that
EVERY = 10  # of the 60 images that a browser draws in a second


class Camera:
    """Keeps what a page draws, with the second at which it did."""

    def __init__(self, page: Page) -> None:
        self._session = page.context.new_cdp_session(page)
        self.frames: list[tuple[float, bytes]] = []

    def start(self) -> None:
        """Begin to keep."""
        self._session.on("Page.screencastFrame", self._keep)
        self._session.send("Page.startScreencast", {"format": "png", "everyNthFrame": EVERY})

    def stop(self) -> None:
        """Keep no more."""
        self._session.send("Page.stopScreencast")
        self._session.remove_listener("Page.screencastFrame", self._keep)

    def _keep(self, event: dict[str, Any]) -> None:
        self.frames.append((event["metadata"]["timestamp"], base64.b64decode(event["data"])))
        self._session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})


def record(page: Page) -> list[tuple[float, bytes]]:
    """Ask, and cut the answer while it is written; returns what the page drew.

    No image comes back where nothing shows a sentence that goes on: a short answer is written
    before it is heard, and a cut may fall between two sentences.
    """
    camera = Camera(page)
    camera.start()
    page.wait_for_timeout(BEGINNING)
    # By keyboard: the focus shows what is pressed.
    page.get_by_role("button", name="Ask: Tell me about the moon.").press("Enter")
    cut = page.get_by_role("button", name="Cut the stream")
    cut.focus()
    answer = page.locator("#turns > .bot").nth(1)
    page.wait_for_timeout(THINKING)
    cut.press("Enter")
    story = page.locator("#stories > li")
    try:
        expect(story).not_to_have_attribute("data-state", "waiting", timeout=SOON)
    except AssertionError:
        camera.stop()
        return []
    expect(story).to_have_attribute("data-state", "met", timeout=SLOW)
    expect(story).to_contain_text("nothing repeated")
    mark = answer.locator(".cut")
    expect(mark).to_be_visible(timeout=SLOW)
    said = mark.evaluate("mark => mark.previousSibling.previousSibling.textContent")
    state(page, "Listening")
    page.wait_for_timeout(END)
    camera.stop()
    if said.endswith((".", "!", "?")):
        return []
    print(story.locator(".headline").inner_text())
    return sorted(camera.frames)


def area(page: Page) -> tuple[int, int, int, int]:
    """Where the conversation and the panel are, in pixels."""
    talk, panel = (page.locator(each).bounding_box() for each in (".talk", ".panel"))
    if not talk or not panel:
        raise RuntimeError("The page shows no conversation or no panel.")
    right, bottom = panel["x"] + panel["width"], panel["y"] + panel["height"]
    left, top = round(talk["x"]) - MARGIN, round(talk["y"]) - MARGIN
    return left, top, round(right) + MARGIN, round(bottom) + MARGIN


def write(frames: list[tuple[float, bytes]], box: tuple[int, int, int, int]) -> None:
    """Write the film and its still: each image that differs from the one before, without loss."""
    kept: list[tuple[float, Image.Image]] = []
    for at, png in frames:
        image = Image.open(io.BytesIO(png)).convert("RGB").crop(box)
        if not kept or image.tobytes() != kept[-1][1].tobytes():
            kept.append((at, image))
    times = [at for at, _ in kept] + [frames[-1][0] + STAYS / 1000]
    first, *others = [image for _, image in kept]
    first.save(
        FILM,
        save_all=True,
        append_images=others,
        duration=[round((after - at) * 1000) for at, after in pairwise(times)],
        loop=0,
        lossless=True,
        quality=100,
        method=6,
        kmin=9998,  # no image is stored whole but the first
        kmax=9999,
    )
    still = others[-1].convert("P", palette=Image.Palette.ADAPTIVE)
    still.save(STILL, optimize=True)
    seconds = times[-1] - times[0]
    print(
        f"{len(kept)} images of {first.size}, {seconds:.1f} s, {FILM.stat().st_size / 1000:.0f} kB"
    )


def main() -> None:
    """Hold the call, and film it."""
    with Demo() as demo, browser(True) as chrome:
        for _ in range(CALLS):
            page = chrome.new_page(viewport=SIZE, color_scheme="light")
            connect(page, demo)
            greeted(page)
            if frames := record(page):
                write(frames, area(page))
                break
            page.close()
        demo.interrupt()


if __name__ == "__main__":
    main()
