"""What the panel's modules work out, without a call."""

from typing import Any

import pytest
from browser_demo import idle_page
from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

__all__ = ["idle_page"]  # a fixture


def worked_out(page: Page, module: str, name: str, *given: Any) -> Any:
    call = "async ([module, name, given]) => (await import(module))[name](...given)"
    return page.evaluate(call, [module, name, list(given)])


def test_the_totals_of_a_call(idle_page: Page):
    turns = [
        {"attempts": 2, "hedges": 0, "faults": 1, "prompt_tokens": 30, "cost": 0.001},
        {"prompt_tokens": 12},  # Pipecat's own service counts tokens, and no requests
        {"attempts": 1, "hedges": 1, "faults": 0, "prompt_tokens": 8, "cost": 0.002},
    ]
    sum_ = worked_out(idle_page, "./took.js", "totals", turns)
    assert (sum_["turns"], sum_["attempts"], sum_["hedges"], sum_["faults"]) == (3, 3, 1, 1)
    assert sum_["prompt_tokens"] == 50
    assert sum_["cost"] == pytest.approx(0.003)
    assert "resumes" not in sum_ or sum_["resumes"] is None


@pytest.mark.parametrize(
    ("bytes_", "text"),
    [(0, "0 B"), (999, "999 B"), (9_800, "9.8 kB"), (284_000, "284 kB"), (2_764_800, "2.8 MB")],
)
def test_bytes_in_words(idle_page: Page, bytes_: int, text: str):
    assert worked_out(idle_page, "./looks.js", "inBytes", bytes_) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (9, "0:09"), (65, "1:05")])
def test_seconds_as_a_clock(idle_page: Page, seconds: int, text: str):
    assert worked_out(idle_page, "./functions.js", "inClock", seconds) == text


@pytest.mark.parametrize(("value", "text"), [(None, ""), (0.3, "0.3"), (["a", "b"], "a, b")])
def test_a_setting_as_text(idle_page: Page, value: Any, text: str):
    assert worked_out(idle_page, "./changes.js", "written", value) == text


def test_what_is_being_edited_outlives_the_settings_of_the_service(idle_page: Page):
    """They come late where the bot is slow."""
    values = idle_page.evaluate("""async () => {
      const { Changes } = await import("./changes.js");
      const form = document.querySelector("#change").cloneNode(true);
      const { temperature, max_tokens } = form.elements;
      const asked = [];
      const changes = new Changes(form, (sent) => new Promise((done) => asked.push([sent, done])));
      const settings = { temperature: 0.3, max_tokens: 100 };
      const values = [];
      const note = () => values.push([temperature.value, max_tokens.value]);
      temperature.value = "0.90";
      changes.show(settings);
      note();
      form.dispatchEvent(new Event("submit", { cancelable: true }));
      max_tokens.value = "50";
      const [sent, answer] = asked[0];
      answer({ changed: ["temperature"], settings: { ...settings, temperature: 0.9 } });
      await new Promise((done) => setTimeout(done));
      note();
      changes.clear();
      note();
      return [sent, ...values];
    }""")
    assert values == [{"temperature": "0.90"}, ["0.90", "100"], ["0.9", "50"], ["0.9", "100"]]


@pytest.mark.parametrize(
    ("status", "offered"),
    [
        ({}, [False, False, False, False]),
        ({"panel": True, "camera": True}, [True, False, False, True]),
        ({"panel": True, "functions": True, "scripted": True}, [True, True, True, False]),
    ],
)
def test_what_a_demo_offers(idle_page: Page, status: dict[str, Any], offered: list[bool]):
    found = worked_out(idle_page, "./panel.js", "offered", status)
    assert [found[name] for name in ("panel", "functions", "scripted", "look")] == offered
