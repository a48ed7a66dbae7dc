"""Breaks a real call of the offline demo in every way, and writes what came of it into demo.md.

`python docs/demo_run.py` needs Chromium. It holds one conversation in writing, on this project's
service and then on Pipecat's own, and makes the images of the page at two widths, light and dark.
`python docs/demo_run.py FOLDER` makes the same images with Firefox, into a folder, and no more.
"""

import contextlib
import io
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
from browser_demo import MICROPHONE, Demo, browser, film, greeted
from firefox import firefox
from images import halves

DOCUMENT = Path(__file__).parent / "demo.md"
IMAGES = Path(__file__).parent / "images"
BEGIN, END = "<!-- run -->", "<!-- end of the run -->"
SLOW = 90_000  # ms
PATIENCE = 12_000  # ms that a caller hears nothing before they speak again
SILENCE = 30_000  # ms that a bot takes to begin to speak, on a busy machine
SIZES = ((1440, 900, "wide"), (390, 844, "phone"))
FAULTS = {
    "429": "Answer 429",
    "cut": "Cut the stream",
    "hang": "Let it hang",
    "503": "Answer 503",
    "empty": "Empty reply",
    "text-call": "Call as text",
    "down": "Kill the endpoint",
}
QUESTIONS = (
    "Tell me about the moon.",
    "Why is the sky blue?",
    "What is a river?",
    "Tell me about the sea.",
    "What do bees do?",
    "What is snow?",
    "How do birds fly?",
)


class Conversation:
    """A call on the page, which is written down."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.lines: list[str] = []
        self._seen = 0

    def hold(self, *, pipecat: bool) -> None:
        """Break one reply after the other."""
        self._take_down()
        if pipecat:
            self.page.get_by_role("switch").check()
            expect(self.page.locator("#break-said")).not_to_be_empty()
        for question, (_, name) in zip(QUESTIONS, FAULTS.items(), strict=True):
            self.lines.append(f"\n[{name}]")
            self.page.get_by_role("button", name=name).click()
            expect(self.page.locator("#stories > li").first).to_have_attribute(
                "data-state", re.compile("waiting|struck"), timeout=SLOW
            )
            turns = self._turns()
            self._ask(question)
            try:
                self._over(PATIENCE)
            except AssertionError:
                self._take_down()
                self._ask("Are you there?")
                self._over(SLOW)
            self._quiet(turns)
            self._take_down()
            self._what_happened()

    def _ask(self, words: str) -> None:
        self.page.get_by_role("textbox", name="Or write").fill(words)
        self.page.get_by_role("button", name="Send").click()

    def _over(self, timeout: int) -> None:
        latest = self.page.locator("#stories > li").first
        expect(latest).to_have_attribute(
            "data-state", re.compile("met|failed|silent|aloud|dropped"), timeout=timeout
        )

    def _turns(self) -> str:
        return self.page.locator('[data-total="turns"]').text_content() or ""

    def _quiet(self, turns: str) -> None:
        """Wait until the turn has ended, and the bot has said what it has to say."""
        expect(self.page.locator('[data-total="turns"]')).not_to_have_text(turns, timeout=SLOW)
        with contextlib.suppress(AssertionError):  # after a silence the page goes on thinking
            expect(self.page.locator("#state")).to_have_text("Listening", timeout=SILENCE)
        self.page.wait_for_timeout(1000)

    def _take_down(self) -> None:
        items = self.page.locator("#turns > li").all()
        for item in items[self._seen :]:
            said = " ".join(item.locator("p").inner_text().split())
            said = said.replace(" cut here ", " [cut here] ")
            self.lines.append(f"{item.locator('strong').inner_text()}: {said}")
        self._seen = len(items)

    def _what_happened(self) -> None:
        latest = self.page.locator("#stories > li").first
        headline = latest.locator(".headline").inner_text().strip()
        headline = headline.removesuffix(" on Pipecat's own service")
        self.lines.append(f"=> {headline}")
        for step in latest.locator(".steps li").all():
            self.lines.append(f"   {' '.join(step.inner_text().split())}")


@contextlib.contextmanager
def call(chrome: Browser, demo: Demo, **options: object) -> Iterator[Page]:
    """A call whose bot has greeted."""
    page = chrome.new_page(**options)  # pyright: ignore[reportArgumentType]
    page.add_init_script(MICROPHONE)  # a silent one
    page.goto(demo.address)
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.locator(".bot").first).to_contain_text(re.compile(r"\w"), timeout=SLOW)
    greeted(page)
    yield page
    page.get_by_role("button", name="Disconnect").click()
    page.close()


def images(page: Page) -> None:
    """The page as it is, at two widths, light and dark."""
    for width, height, name in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # pyright: ignore[reportArgumentType]
            page.wait_for_timeout(400)
            png = page.screenshot(full_page=name == "phone")
            small = Image.open(io.BytesIO(png)).convert("P", palette=Image.Palette.ADAPTIVE)
            small.save(IMAGES / f"demo-{name}-{scheme}.png", optimize=True)


def firefox_images(folder: Path) -> None:
    """The page in Firefox in the same way, after a reply that was cut."""
    with Demo() as demo, firefox() as window:
        window.open(demo.address)
        window.run(MICROPHONE)
        window.click("#connect")
        for state in ("Speaking", "Listening"):
            window.until_text("#state", state)
        window.click("[data-fault=cut]")
        window.until_text("#stories .headline", "waits for the next reply")
        window.click("#panel-break [data-say]")
        for state in ("Speaking", "Listening"):
            window.until_text("#state", state)
        for width, height, name in SIZES:
            window.resize(width, height)
            for scheme in ("light", "dark"):
                window.run("document.documentElement.style.colorScheme = arguments[0]", scheme)
                time.sleep(0.4)
                png = window.screenshot(full=name == "phone")
                (folder / f"firefox-{name}-{scheme}.png").write_bytes(png)
        demo.interrupt()


def summary(texts: Sequence[str]) -> str:
    """What came of each fault on either service, from both transcripts, as a table."""
    rows = [
        dict(re.findall(r"\n\[(.+)\]\n(?:[^\[=].*\n|\[TOOL.*\n)*=> (.+)", text)) for text in texts
    ]
    lines = ["| fault | this project's service | Pipecat's own |", "|---|---|---|"]
    for name in FAULTS.values():
        # The badge and the outcome, without the name of the fault between them.
        ours, theirs = (re.sub(r" (?=[A-Z\d]).*? → ", ": ", row[name], count=1) for row in rows)
        lines.append(f"| {name} | {ours} | {theirs} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Hold both conversations."""
    camera = film(Path("/tmp/demo-run-camera.y4m"), halves(640, 480))
    texts: list[str] = []
    with Demo() as demo, browser(True, camera) as chrome:
        for title, pipecat in (("This project's service", False), ("Pipecat's own service", True)):
            with call(chrome, demo, viewport={"width": 1440, "height": 900}) as page:
                conversation = Conversation(page)
                conversation.hold(pipecat=pipecat)
                if not pipecat:
                    images(page)
                words = "\n".join(conversation.lines)
                texts.append(f"### {title}\n\n```text\n{words}\n```\n")
                print(texts[-1])
        demo.interrupt()
    camera.unlink()
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    run = "\n".join([summary(texts), *texts])
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{run}\n{END}{after}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        firefox_images(Path(sys.argv[1]))
    else:
        main()
