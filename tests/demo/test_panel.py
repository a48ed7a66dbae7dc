"""The panel of the demo's page, in a real pipeline on both services, without a browser."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from panel_call import FALLBACK, KEY, PanelCall, panel_call, serving

from mistral_service.demo.bots import load_bot
from mistral_service.local import Reply
from mistral_service.pipecat.turns import TurnEvents

EXAMPLES = Path(__file__).parents[2] / "examples"
SENTENCE = "The moon is a ball of rock that goes round the earth once in a month."
QUICK = {"first_token_timeout": 0.7, "stall_timeout": 0.7, "turn_timeout": 8.0, "hedging": False}


class Speaker:
    """Says one sentence, and goes on where it was cut."""

    def __init__(self, pause: float = 0.002) -> None:
        self._pause = pause

    async def answer(self, request: dict[str, Any]):
        last = request["messages"][-1]
        said = last["content"] if last["role"] == "assistant" else ""
        for piece in Reply(SENTENCE.removeprefix(said), pause=self._pause).pieces(0):
            yield piece

    async def close(self) -> None: ...


@contextlib.asynccontextmanager
async def calling(monkeypatch: pytest.MonkeyPatch, **down: float) -> AsyncIterator[PanelCall]:
    async with (
        serving(Speaker(), **down) as (_, address),
        panel_call(address, monkeypatch, tools=[bot().weather], **QUICK) as call,
    ):
        yield call


@pytest.fixture
async def call(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PanelCall]:
    async with calling(monkeypatch) as call:
        yield call


def bot() -> Any:
    return load_bot(EXAMPLES / "panel_bot.py")


async def broken(call: PanelCall, kind: str, *, pipecat: bool = False) -> dict[str, Any]:
    """Let a fault meet a turn; what the page shows of it at the end."""
    if pipecat:
        await call.ask("service", pipecat=True)
    answer = await call.ask("break", kind=kind)
    assert answer == {"number": 1}
    turns = len(call.sent("turn"))
    await call.say("What is the moon?")
    story = await call.story("met", "failed", "silent", "aloud")
    await call.until(lambda: len(call.sent("turn")) > turns)
    return call.sent("fault")[-1] if story else {}


SOON = r"after \d+\.\d+ s"
OURS = [
    ("cut", r"Cut after 5 words → resumed in \d+\.\d+ s, nothing repeated"),
    ("hang", rf"The reply hangs → {FALLBACK} answers {SOON}"),
    ("429", rf"429, the model is full → {FALLBACK} answers {SOON}"),
    ("503", rf"503, the service is unavailable → {FALLBACK} answers {SOON}"),
    ("empty", rf"An empty reply → 1 more request, the answer comes {SOON}"),
    ("text-call", rf"A function's call as text → read, and weather runs {SOON}"),
    ("down", rf"The endpoint is down → \d more requests, the answer comes {SOON}"),
]


@pytest.mark.parametrize(("kind", "headline"), OURS)
async def test_the_service_survives_the_fault(call: PanelCall, kind: str, headline: str):
    story = await broken(call, kind)
    assert story["state"] == "met"
    assert story["service"] == "mistral_service"

    assert re.fullmatch(headline, story["headline"]), story["headline"]
    assert story["lines"]
    assert story["lines"][0]["text"].startswith(("the endpoint", "the service"))
    if kind != "text-call":
        assert call.words == SENTENCE


async def test_a_fault_that_is_met_before_the_panel_hears_of_it_is_told_as_well(
    call: PanelCall, monkeypatch: pytest.MonkeyPatch
):
    post = aiohttp.ClientSession.post
    injected, met = asyncio.Event(), asyncio.Event()

    async def post_slowly(session: aiohttp.ClientSession, *asked: Any, **options: Any) -> Any:
        response = await post(session, *asked, **options)
        injected.set()
        await met.wait()
        return response

    monkeypatch.setattr(aiohttp.ClientSession, "post", post_slowly)
    await call.send("client-message", {"t": "break", "d": {"kind": "cut"}})
    await injected.wait()
    await call.say("What is the moon?")
    await call.until(lambda: call.words == SENTENCE and call.sent("turn"))
    met.set()
    story = await call.story("met")
    headline = r"Cut after 5 words → resumed in \d+\.\d+ s, nothing repeated"
    await call.until(lambda: re.fullmatch(headline, call.sent("fault")[-1]["headline"]))
    assert story["number"] == 1


async def test_a_cut_in_mid_reply_counts_what_was_said_before_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
):
    async with (
        serving(Speaker(pause=0.15)) as (_, address),
        panel_call(address, monkeypatch, **QUICK) as call,
    ):
        await call.say("What is the moon?")
        await call.until(lambda: len(call.words.split()) >= 3)
        await call.ask("break", kind="cut")
        story = await call.story("met")
        headline = r"Cut after (\d+) words → resumed in \d+\.\d+ s, nothing repeated"
        found = re.fullmatch(headline, story["headline"])
        assert found, story["headline"]
        words = int(found[1])
        assert words >= 3
        assert story["place"] == " ".join(SENTENCE.split()[:words][-8:])
        await call.until(lambda: call.words == SENTENCE)


THEIRS = [
    ("cut", "failed", r"Cut after 5 words → an error after .*"),
    ("429", "failed", r"429, the model is full → an error after .*"),
    ("503", "met", r"503, the service is unavailable → 1 more request, the answer .*"),
    ("empty", "silent", r"An empty reply → not a word, and no error"),
    ("text-call", "aloud", r"A function's call as text → spoken as it stands: \[TOOL_CALLS\].*"),
    ("down", "failed", r"The endpoint is down → an error after .*"),
]


@pytest.mark.parametrize(("kind", "state", "headline"), THEIRS)
async def test_what_pipecats_own_does_with_it(
    monkeypatch: pytest.MonkeyPatch, kind: str, state: str, headline: str
):
    async with calling(monkeypatch, down_s=600) as call:  # longer than it asks again
        story = await broken(call, kind, pipecat=True)
    assert (story["state"], story["service"]) == (state, "Pipecat's own")
    assert re.fullmatch(headline, story["headline"]), story["headline"]


async def test_pipecats_own_waits_for_a_reply_that_hangs_until_the_user_goes_on(call: PanelCall):
    await call.ask("service", pipecat=True)
    await call.ask("break", kind="hang")
    await call.say("What is the moon?")
    await call.story("struck")
    await call.say("Are you there?")
    story = await call.story("silent")
    assert re.fullmatch(
        r"The reply hangs → nothing for \d+\.\d+ s, until you went on", story["headline"]
    )
    await call.until(lambda: call.words == SENTENCE)


async def test_with_hedging_a_second_request_in_parallel_answers(monkeypatch: pytest.MonkeyPatch):
    settings = {"hedge_after": 0.3, "first_token_timeout": 5.0}
    async with (
        serving(Speaker()) as (_, address),
        panel_call(address, monkeypatch, **settings) as call,
    ):
        story = await broken(call, "hang")
        assert "a second request in parallel answers after" in story["headline"]
        assert call.sent("turn")[-1]["hedges_won"] == 1


# --- what else the panel does, and what it refuses ------------------------------------------------


async def test_a_fault_that_nothing_meets_waits_and_the_call_goes_on(call: PanelCall):
    await call.ask("break", kind="503")
    story = await call.story("waiting")
    assert story["headline"] == "503, the service is unavailable: waits for the next reply"
    second = await call.ask("break", kind="cut")
    assert second["error"] == "The last fault is still under way: speak, and it goes on."


async def test_faults_that_there_are_not_are_refused_in_a_sentence(call: PanelCall):
    for kind in ("flood", None, 7, ["cut"]):
        answer = await call.ask("break", kind=kind)
        assert answer["error"].startswith("There is no such fault: it is one of cut, hang, 429")
    assert (await call.ask("nonsense"))["error"] == "The panel knows no 'nonsense'."
    await call.say("What is the moon?")
    await call.until(lambda: call.words == SENTENCE)


async def test_without_the_local_endpoint_there_are_no_faults(monkeypatch: pytest.MonkeyPatch):
    async with (
        serving(Speaker()) as (_, address),
        panel_call(address, monkeypatch, faults=False) as call,
    ):
        state = await call.ask("panel")
        assert state["faults"] is False
        assert "without MISTRAL_API_KEY" in state["why"]
        assert "without MISTRAL_API_KEY" in (await call.ask("break", kind="cut"))["error"]


async def test_a_fault_while_the_endpoint_is_down_is_refused(call: PanelCall):
    await call.ask("break", kind="down")
    story = call.sent("fault")[-1]
    assert story["state"] == "struck"
    await call.say("What is the moon?")
    await call.story("met")
    assert (await call.ask("break", kind="503")).get("number") == 2


async def test_two_pages_break_their_own_calls(monkeypatch: pytest.MonkeyPatch):
    async with (
        serving(Speaker()) as (_, address),
        panel_call(address, monkeypatch) as one,
        panel_call(address, monkeypatch) as two,
    ):
        assert (await one.ask("break", kind="503")) == {"number": 1}
        await two.say("What is the moon?")
        await two.until(lambda: two.sent("turn"))
        assert two.words == SENTENCE
        assert two.sent("turn")[-1]["faults"] == 0
        assert one.sent("fault")[-1]["state"] == "waiting"
        await one.say("What is the moon?")
        await one.story("met")
        assert not two.sent("fault")


async def test_a_page_that_leaves_takes_its_fault_with_it(monkeypatch: pytest.MonkeyPatch):
    async with serving(Speaker()) as (endpoint, address):
        async with panel_call(address, monkeypatch) as call:
            await call.ask("break", kind="503")
            assert endpoint.layer.waiting
        await call.until(lambda: not endpoint.layer.waiting)


async def test_settings_change_in_mid_call(call: PanelCall):
    before = (await call.ask("panel"))["settings"]
    assert before["temperature"] == 0.3
    answer = await call.ask(
        "settings",
        temperature="0.9",
        max_tokens="40",
        fallback_models="ministral-3b-latest, ministral-8b-latest",
        system_instruction="Be a pirate.",
    )
    assert answer["changed"] == [
        *("fallback_models", "max_tokens", "system_instruction", "temperature"),
    ]
    assert answer["settings"]["fallback_models"] == ["ministral-3b-latest", "ministral-8b-latest"]
    assert (await call.ask("settings", model="ministral-3b-latest"))["changed"] == ["model"]
    await call.say("What is the moon?")
    await call.until(lambda: call.sent("turn"))
    assert call.sent("turn")[-1]["model"] == "ministral-3b-latest"


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"temperature": "7"}, "temperature must be a number from 0 to 1.5, not 7.0"),
        ({"temperature": "warm"}, "temperature must be a number from 0 to 1.5, not 'warm'"),
        ({"max_tokens": "0"}, "max_tokens must be a whole number from 1, not 0"),
        (
            {"max_tokens": "", "temperature": "1"},
            "max_tokens must be a whole number from 1, not ''",
        ),
        ({"model": " "}, "model must be the name of a model, not ''"),
        ({"temperature": "0.3"}, "Nothing changes: all of it is as it was."),
        ({"top_p": "0.3"}, "Nothing changes"),
        ({"system_instruction": "x" * 5000}, "A setting has 4,000 characters at most."),
    ],
)
async def test_a_refused_setting_shows_its_sentence(
    call: PanelCall, sent: dict[str, Any], sentence: str
):
    answer = await call.ask("settings", **sent)
    assert sentence in answer["error"]
    assert (await call.ask("panel"))["settings"]["temperature"] == 0.3
    await call.say("What is the moon?")
    await call.until(lambda: call.words == SENTENCE)


async def test_pipecats_own_takes_what_it_has(call: PanelCall):
    state = await call.ask("service", pipecat=True)
    assert state["service"] == "Pipecat's own"
    assert state["settings"]["fallback_models"] is None
    assert (await call.ask("settings", temperature="0.9"))["changed"] == ["temperature"]
    answer = await call.ask("settings", fallback_models="ministral-8b-latest")
    assert answer["error"] == "Nothing changes: this service has no fallback_models."
    assert (await call.ask("service", pipecat=False))["service"] == "mistral_service"


async def test_a_function_is_shown_with_what_it_returned(call: PanelCall):
    await call.say("How is the weather in Port Amber?")
    await call.until(lambda: "In Port Amber it is" in call.words)
    runs, returned = call.sent("function")
    assert (runs["name"], runs["arguments"]) == ("weather", {"town": "Port Amber"})
    assert set(returned["result"]) == {"town", "sky", "celsius"}


async def test_a_turn_is_shown_with_what_it_took(call: PanelCall):
    await call.say("What is the moon?")
    await call.until(lambda: call.sent("turn"))
    [turn] = call.sent("turn")
    assert turn["service"] == "mistral_service"
    assert (turn["attempts"], turn["hedges"], turn["faults"]) == (1, 0, 0)
    assert turn["prompt_tokens"] > 0
    assert turn["cost"] > 0
    assert turn["first_token"] <= turn["seconds"]


async def test_a_loop_that_stalls_makes_no_turn_shorter(
    call: PanelCall, monkeypatch: pytest.MonkeyPatch
):
    """What the panel watches, it watches later than it happens."""
    begin = TurnEvents.on_begin

    async def begin_and_stall(events: TurnEvents) -> None:
        await begin(events)
        time.sleep(0.3)  # noqa: ASYNC251

    monkeypatch.setattr(TurnEvents, "on_begin", begin_and_stall)
    await call.say("What is the moon?")
    await call.until(lambda: call.sent("turn"))
    [turn] = call.sent("turn")
    assert 0.3 <= turn["first_token"] <= turn["seconds"]


async def test_the_bug_report_has_versions_settings_and_turns_and_no_key(call: PanelCall):
    await broken(call, "503")
    text = (await call.ask("report"))["text"]
    for part in ("pipecat-ai 1.", "Python 3.", "temperature=0.3", "a script", "first words", "503"):
        assert part in text, part
    assert f"moved, request 2 to {FALLBACK}" in text
    assert KEY not in text
    assert "Be brief" in text
