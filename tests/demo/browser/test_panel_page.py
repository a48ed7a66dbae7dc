"""The panel on the page: a written conversation with the offline model, broken and changed."""

import re
from collections.abc import Iterator

import pytest
from browser_demo import MICROPHONE, Demo, browser, film, greeted, state
from images import halves
from playwright.sync_api import Browser, Locator, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

SLOW = 90_000  # ms; the model is real, and a busy machine is slow with it
FAULTS = {
    "Answer 429": r"survived 429, the model is full → ministral-8b-latest answers after \d+",
    "Cut the stream": (
        r"survived Cut after 5 words → (resumed|.* goes on) in \d+\.\d+ s, nothing repeated"
    ),
    "Let it hang": r"survived The reply hangs → .* answers? after \d+\.\d+ s",
    "Answer 503": r"survived 503, the service is unavailable → .* after \d+\.\d+ s",
    "Empty reply": r"survived An empty reply → .* after \d+\.\d+ s",
    "Call as text": r"survived A function's call as text → read, and weather runs after \d+",
    "Kill the endpoint": r"survived The endpoint is down → .* after \d+\.\d+ s",
}
NO_CAMERA = """(() => {
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    if (wanted.video) throw new DOMException("none", "NotFoundError");
    return open(wanted);
  };
})()"""
ASKED = """(() => {
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  window.asked = [];
  navigator.mediaDevices.getUserMedia = (wanted) => asked.push(wanted) && open(wanted);
})()"""
COPIED = """navigator.clipboard.writeText = async (text) => { window.copied = text; }"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Demo, Browser]]:
    camera = film(tmp_path_factory.mktemp("camera") / "camera.y4m", halves(640, 480))
    with Demo() as demo, browser(True, camera) as chrome:
        yield demo, chrome
        assert demo.interrupt()[0] in (0, 130)
        assert "Traceback" not in demo.output


@pytest.fixture
def opened(stage: tuple[Demo, Browser]) -> Iterator[Page]:
    """The page, before a call."""
    demo, chrome = stage
    page = chrome.new_page(viewport={"width": 1440, "height": 900})
    page.add_init_script(MICROPHONE)  # nothing is said, and so nothing heard
    page.goto(demo.address)
    expect(page.locator("#panel")).to_be_visible()
    yield page
    page.close()


@pytest.fixture
def call(opened: Page) -> Page:
    """A call whose bot has greeted."""
    begin(opened)
    return opened


def begin(page: Page) -> None:
    page.get_by_role("button", name="Connect", exact=True).click()
    greeted(page)


def ask(page: Page, words: str) -> None:
    page.get_by_role("textbox", name="Or write").fill(words)
    page.get_by_role("button", name="Send").click()


def tab(page: Page, name: str) -> Locator:
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel", name=name)


def happened(page: Page) -> Locator:
    """The latest fault, once it is over."""
    latest = page.locator("#stories > li").first
    expect(latest).to_have_attribute(
        "data-state", re.compile("met|failed|silent|aloud|dropped"), timeout=SLOW
    )
    return latest


def answers(page: Page) -> Locator:
    return page.locator("#turns > .bot")


def test_each_fault_is_met_and_the_panel_says_how(call: Page):
    for count, (name, headline) in enumerate(FAULTS.items(), 1):
        call.get_by_role("button", name=name).click()
        expect(call.locator("#stories > li")).to_have_count(count)
        ask(call, "Tell me about the moon.")
        latest = happened(call)
        expect(latest.locator(".headline")).to_have_text(re.compile(headline))
        assert latest.locator(".steps li").count() >= 2
        # What is said is heard, to its end.
        expect(answers(call).last).to_contain_text(re.compile(r"\w+"), timeout=SLOW)
        state(call, "Listening")
    # Where the one stream was cut, its words go on after a mark.
    mark = call.locator("#turns .cut")
    expect(mark).to_have_text("cut here")
    before, after = mark.locator("xpath=ancestor::p").inner_text().split("cut here")
    assert len(before.split()) == 5
    assert after.strip()
    assert call.locator(".problem").all_inner_texts() == []


def test_on_pipecats_own_service_an_empty_reply_is_a_silence(call: Page):
    call.get_by_role("switch").check()
    expect(call.locator("#break-said")).to_contain_text("Pipecat’s own service answers")
    call.get_by_role("button", name="Empty reply").click()
    # The endpoint has the fault before the question comes.
    expect(call.locator("#stories > li")).to_have_attribute("data-state", "waiting")
    ask(call, "Tell me about the moon.")
    latest = happened(call)
    expect(latest.locator(".headline")).to_contain_text("silence An empty reply → not a word")
    expect(latest).to_contain_text("on Pipecat's own service")
    call.get_by_role("switch").uncheck()
    ask(call, "Are you there?")
    expect(answers(call).last).to_contain_text(re.compile(r"\w+"), timeout=SLOW)


def test_a_fault_without_a_call_is_one_sentence(opened: Page):
    opened.get_by_role("button", name="Cut the stream").click()
    expect(opened.locator("#fault-said")).to_have_text("No call is running: press Connect first.")
    expect(opened.locator("#stories > li")).to_have_count(0)


def test_what_is_asked_before_the_call_is_there_gets_one_sentence(opened: Page):
    not_yet = "The call is not there yet: wait for the bot’s greeting."
    opened.add_init_script(ASKED)
    opened.route("**/api/offer", lambda route: None)  # it is never answered
    opened.reload()
    opened.get_by_role("button", name="Connect", exact=True).click()
    state(opened, "Connecting")
    opened.get_by_role("button", name="Ask: Tell me about the moon.").click()
    expect(opened.locator("#break-said")).to_have_text(not_yet)
    panel = tab(opened, "Look")
    panel.get_by_role("button", name="What do you see?").click()
    expect(panel.locator("#look-said")).to_have_text(not_yet)
    assert opened.evaluate("asked.map(({ video }) => Boolean(video))") == [False]


def test_a_page_that_is_reloaded_leaves_no_fault_behind(call: Page):
    call.get_by_role("button", name="Answer 503").click()
    expect(call.locator("#stories > li")).to_have_attribute("data-state", "waiting")
    call.get_by_role("button", name="Empty reply").click()
    expect(call.locator("#fault-said")).to_contain_text("The last fault is still under way")
    call.reload()
    begin(call)
    ask(call, "Tell me about the moon.")
    tab(call, "What it took")
    expect(call.locator('[data-total="turns"]')).to_have_text("2", timeout=SLOW)
    expect(call.locator('[data-total="faults"]')).to_have_text("0")


def test_two_pages_break_their_own_calls(call: Page, stage: tuple[Demo, Browser]):
    demo, chrome = stage
    call.get_by_role("button", name="Answer 503").click()
    expect(call.locator("#stories > li")).to_have_attribute("data-state", "waiting")
    other = chrome.new_page()
    other.add_init_script(MICROPHONE)
    other.goto(demo.address)
    begin(other)
    ask(other, "Tell me about the moon.")
    tab(other, "What it took")
    expect(other.locator('[data-total="turns"]')).to_have_text("2", timeout=SLOW)
    expect(other.locator('[data-total="faults"]')).to_have_text("0")
    other.close()
    expect(call.locator("#stories > li")).to_have_attribute("data-state", "waiting")


def test_settings_change_and_a_refused_value_shows_its_sentence(call: Page):
    panel = tab(call, "Change it")
    said = panel.locator("output")
    expect(said).to_be_hidden()  # as long as it says nothing
    temperature = panel.get_by_label("Temperature")
    expect(temperature).to_have_value("0.3")
    temperature.fill("7")
    panel.get_by_role("button", name="Apply").click()
    expect(said).to_contain_text("temperature must be a number from 0 to 1.5, not 7.0")
    temperature.fill("0.9")
    panel.get_by_label("Model").fill("ministral-3b-latest")
    panel.get_by_label("Fallbacks").fill("ministral-8b-latest, mistral-large-latest")
    panel.get_by_role("button", name="Apply").click()
    expect(said).to_have_text("Changed: fallbacks, model, temperature.", timeout=SLOW)
    panel.get_by_role("button", name="Apply").click()
    expect(said).to_contain_text("Nothing changes")
    before = answers(call).count()
    ask(call, "Tell me about the moon.")
    expect(answers(call)).to_have_count(before + 1, timeout=SLOW)


def test_functions_do_something_on_the_page(call: Page):
    panel = tab(call, "Functions")
    expect(panel).to_contain_text("The offline model is too small to call functions")
    for question, shown in {
        "How is the weather in Port Amber?": r"Weather in Port Amber.*°C",
        "Take a note: buy milk.": r"Note.*buy milk",
        "Set a timer for ten seconds.": r"Timer.*0:(10|0\d)",
    }.items():
        panel.get_by_role("button", name=question).click()
        expect(panel.locator("#shown li").first).to_contain_text(re.compile(shown), timeout=SLOW)
    expect(panel.get_by_role("timer")).to_have_text("Time is up.", timeout=SLOW)


def test_a_look_shows_the_image_and_its_size_before_and_after(call: Page):
    panel = tab(call, "Look")
    panel.get_by_role("button", name="What do you see?").click()
    figure = panel.locator("figure").first
    expect(figure.locator("img")).to_be_visible(timeout=SLOW)
    expect(figure).to_contain_text(re.compile(r"From the camera: \d+ × \d+, .*B as pixels"))
    expect(figure).to_contain_text(re.compile(r"Sent: \d+ × \d+, .*B as JPEG"))
    assert figure.locator("img").evaluate("image => image.naturalWidth") > 100
    expect(answers(call).last).to_contain_text("This answer is scripted", timeout=SLOW)


def test_without_a_camera_a_look_is_one_sentence_and_the_call_goes_on(opened: Page):
    opened.add_init_script(NO_CAMERA)
    opened.reload()
    begin(opened)
    panel = tab(opened, "Look")
    panel.get_by_role("button", name="What do you see?").click()
    expect(panel.locator("#look-said")).to_contain_text("No camera was found. The bot hears you")
    expect(answers(opened).last).to_contain_text("That did not work", timeout=SLOW)


def test_the_report_is_copied_and_has_no_key(opened: Page):
    opened.add_init_script(COPIED)
    opened.reload()
    begin(opened)
    panel = tab(opened, "What it took")
    expect(panel.locator('[data-total="turns"]')).to_have_text("1", timeout=SLOW)
    expect(panel.locator("#chart")).to_have_attribute("aria-label", re.compile(r"by turn: \d+\.\d"))
    panel.get_by_role("button", name="Copy as a bug report").click()
    expect(panel.locator("#report-said")).to_contain_text("Copied.")
    text = opened.evaluate("window.copied")
    for part in ("pipecat-ai 1.", "temperature=0.3", "turn on mistral_service", "browser: Mozilla"):
        assert part in text, part
    assert "local-" not in text


def test_the_tabs_answer_to_the_keyboard(opened: Page):
    opened.get_by_role("tab", name="Break it").focus()
    opened.keyboard.press("ArrowRight")
    expect(opened.get_by_role("tab", name="Change it")).to_be_focused()
    expect(opened.get_by_role("tabpanel", name="Change it")).to_be_visible()
    opened.keyboard.press("End")
    expect(opened.get_by_role("tabpanel", name="What it took")).to_be_visible()
    opened.keyboard.press("ArrowRight")
    expect(opened.get_by_role("tab", name="Break it")).to_have_attribute("aria-selected", "true")
    opened.keyboard.press("ArrowLeft")
    expect(opened.get_by_role("tab", name="What it took")).to_be_focused()


@pytest.mark.parametrize("width", [360, 390, 768, 1024])
def test_nothing_is_wider_than_the_screen(opened: Page, width: int):
    opened.set_viewport_size({"width": width, "height": 800})
    for each in opened.get_by_role("tab").all():
        each.click()
        wide = opened.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, each.inner_text()
