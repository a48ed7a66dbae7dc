"""The examples, run as a user would run them."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from bots import EXAMPLES, evaluate_example, printed
from ports import free_port


@pytest.mark.timeout(400)
def test_the_restaurant_holds_its_call_with_functions_and_an_interruption(tmp_path: Path):
    mistral = evaluate_example("function_calling", tmp_path)
    assert [exchange.refused for exchange in mistral.exchanges] == [None] * 6
    story = next(e for e in mistral.exchanges if "story" in str(e.request["messages"][-1]))
    assert story.left  # the caller interrupted it, and its connection was closed


def test_the_bot_that_sees_runs_offline_and_offers_the_camera():
    port = free_port()
    bot = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "vision_bot.py"), "--offline", "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert bot.stdout is not None
        assert any(f"http://127.0.0.1:{port}/" in line for line in bot.stdout)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=60) as answer:
            assert json.load(answer)["camera"] is True
        bot.send_signal(signal.SIGINT)
        assert bot.wait(60) == 0
    finally:
        bot.kill()


def test_settings_change_in_mid_call():
    said = printed("update_settings.py")
    assert "Arr, I be the captain." in said
    assert '{"colour": "orange"}' in said
    assert "temperature must be a number from 0 to 1.5, not 7.0." in said
    assert "Still here." in said


def test_two_providers_hold_one_call_and_one_steps_in_for_the_other():
    said = printed("switching.py")
    for city in ("Paris", "Rome", "Oslo"):
        assert said.count(f"(temperature of {city})") == 1
    assert "Eighteen degrees in Paris, twenty-four in Rome." in said
    assert "openai:   (temperature of Oslo)\nNine degrees in Oslo." in said
    assert "(the other takes over) In Oslo, at nine." in said


def test_a_call_is_reported_to_opentelemetry():
    said = printed("observability.py")
    assert '"mistral.rules": ["R5"]' in said  # a sentence that was cut goes on
    assert "'mistral.correlation_id': '0123abcd', 'mistral.handled': 'retried'" in said
    assert "mistral.faults {'gen_ai.request.model': 'mistral-small-latest'}: 2" in said
    assert "mistral.cost {'gen_ai.request.model': 'mistral-small-latest'}: " in said
    assert "gen_ai.server.time_to_first_token" in said
