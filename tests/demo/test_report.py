"""The bug report, the settings that a page may send, and the image that it is shown."""

import base64
import io

import pytest
from PIL import Image

from mistral_service import MistralLLMService
from mistral_service.demo.changes import Refused, delta_of, value_of
from mistral_service.demo.looks import THUMBNAIL_SIDE, look_message, sent_image, sizes
from mistral_service.demo.report import MOST_STEPS, TurnTrace, bug_report, versions
from mistral_service.demo.secrets import without_secrets


def test_a_report_has_each_part():
    turn = TurnTrace(10.0, "mistral_service")
    turn.note(10.25, "first words")
    turn.count("attempts", 1)
    turn.count("attempts", 1)
    turn.count("cost", None)
    text = bug_report(
        engine="the local model",
        installed={"pipecat-ai": "1.14.0"},
        settings={"mistral_service": "Settings(temperature=0.3)"},
        faults=["mistral_service: Cut after 3 words → resumed"],
        turns=[turn],
    )
    assert "- pipecat-ai 1.14.0\n- answers come from the local model" in text
    assert "mistral_service:\n`Settings(temperature=0.3)`" in text
    assert "- mistral_service: Cut after 3 words" in text
    assert "turn on mistral_service (attempts 2)\n    0.250 s  first words" in text


def test_a_long_turn_keeps_its_last_steps():
    turn = TurnTrace(0.0, "s")
    for number in range(2 * MOST_STEPS):
        turn.note(number, f"step {number}")
    assert len(turn.lines()) == MOST_STEPS + 1
    assert turn.lines()[-1].endswith(f"step {2 * MOST_STEPS - 1}")


def test_versions_are_those_that_are_installed():
    found = versions()
    assert found["pipecat-ai"].startswith("1.")
    assert found["Python"].startswith("3.")


def test_no_secret_of_the_environment_is_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_API_KEY", "s3cr3t-value")
    monkeypatch.setenv("SHORT_KEY", "abc")
    assert without_secrets("key=s3cr3t-value abc") == "key=$SOME_API_KEY abc"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", " 0.5 ", 0.5),
        ("temperature", "warm", "warm"),
        ("temperature", "nan", pytest.approx(float("nan"), nan_ok=True)),
        ("max_tokens", "40", 40),
        ("max_tokens", "-1", -1),
        ("max_tokens", "4.5", "4.5"),
        ("max_tokens", "+-4", "+-4"),
        ("fallback_models", "a, b,,", ["a", "b"]),
        ("fallback_models", "", []),
        ("model", " m ", "m"),
        ("temperature", None, None),
    ],
)
def test_what_is_written_in_a_field(name: str, text: object, value: object):
    assert value_of(name, text) == value


def test_only_what_differs_changes():
    now = MistralLLMService.Settings.initial(
        None, MistralLLMService.Settings(temperature=0.3, max_tokens=100)
    )
    delta = delta_of({"temperature": "0.3", "max_tokens": "50", "api_key": "x"}, now)
    assert delta.given_fields() == {"max_tokens": 50}
    for sent in ({}, {"temperature": "0.3"}, {"api_key": "x"}, "temperature", ["temperature"]):
        with pytest.raises(Refused):
            delta_of(sent, now)


def jpeg(width: int, height: int) -> str:
    data = io.BytesIO()
    Image.new("RGB", (width, height), "orange").save(data, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def test_a_look_has_both_sizes_and_a_small_image():
    message = look_message(sizes((1920, 1080), 1920 * 1080 * 3), jpeg(1540, 866))
    assert message["before"] == {"width": 1920, "height": 1080, "bytes": 6_220_800}
    assert (message["after"]["width"], message["after"]["height"]) == (1540, 866)
    with Image.open(io.BytesIO(base64.b64decode(message["image"].partition(",")[2]))) as small:
        assert max(small.size) == THUMBNAIL_SIDE
    assert len(message["image"]) < 60_000  # what a data channel takes


@pytest.mark.parametrize("url", ["", "data:image/jpeg;base64,AAAA"])
def test_an_image_that_cannot_be_shown(url: str):
    message = look_message(sizes((10, 10), 300), url)
    assert "image" not in message


def test_the_image_of_the_last_messages_is_found():
    url = jpeg(20, 20)
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    assert sent_image([message, {"role": "assistant", "content": "Yes."}]) == url
    assert sent_image([{"role": "user", "content": "Hello."}]) is None
    assert sent_image([message, *[{"role": "user", "content": "Later."}] * 4]) is None
    elsewhere = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    assert sent_image([{"role": "user", "content": [elsewhere]}]) is None
