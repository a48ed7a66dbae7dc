"""The page calls by WebSocket, and finds its way back by itself when the line breaks."""

import asyncio
import math
import os
import threading
import wave
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_demo import SLOW_CLOCK, browser, idle_page
from call_servers import TONE_HZ, Line, Machines
from fastapi import WebSocket
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    TextFrame,
    TranscriptionFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.websocket.fastapi import (
    FastAPIWebsocketParams,
    FastAPIWebsocketTransport,
)
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
from pipecat.workers.runner import WorkerRunner
from playwright.sync_api import Page, Route, expect

from mistral_service import MistralLLMService
from mistral_service.local import LocalMistral, Reply, Script

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

__all__ = ["idle_page"]  # a fixture

ARTIFACTS = Path(os.environ.get("ARTIFACTS_DIR", "artifacts"))
MOVING = "Reconnecting: the call moves to another machine."

# How loud the loudspeaker is, and when, in seconds; it is asked as often as the machine can.
LISTEN = """() => {
  const watch = setInterval(() => {
    const stream = document.querySelector("audio").srcObject;
    if (!stream) return;
    clearInterval(watch);
    const context = new AudioContext();
    const analyser = new AnalyserNode(context, { fftSize: 256 });
    context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    window.levels = [];
    setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      window.levels.push([performance.now() / 1000, Math.max(...samples.map(Math.abs))]);
    }, 10);
  }, 5);
}"""


# When something arrives, in seconds, and how many bytes it has: sound has more than a thousand.
ARRIVALS = """
  window.arrivals = [];
  window.WebSocket = class extends WebSocket {
    constructor(...given) {
      super(...given);
      this.addEventListener("message", ({ data }) => {
        arrivals.push([performance.now() / 1000, data.byteLength ?? 0]);
      });
    }
  };
"""
RATE = 24000  # Hz, of what the bot says
HEAD_START = 0.08  # s, for which a piece waits where there was nothing to play, as in worklets.js

# Takes down how long the page means to wait between its attempts, in milliseconds: what is shorter
# than the five seconds that it waits for an answer.
PAUSES = """
  const wait = window.setTimeout;
  const pauses = (window.pauses = []);
  window.setTimeout = (then, ms, ...given) => {
    if (document.body?.dataset.state === "moving" && ms < 5000) pauses.push(ms);
    return wait(then, ms, ...given);
  };
"""


# Lets the page wait longer for the answer of a machine that holds it on the line: as long as a test
# needs to look at the page and to write into it, on a busy machine as well.
PATIENT = """
  const soon = window.setTimeout;
  window.setTimeout = (then, ms = 0, ...given) => soon(then, ms < 5000 ? ms : 50 * ms, ...given);
"""


def unavoidable(arrivals: list[tuple[float, int]]) -> float:
    """Seconds of silence in a sound whose pieces arrive then: a busy machine sends some late."""
    silent, (end, _) = 0.0, arrivals[0]
    for number, (at, size) in enumerate(arrivals):
        begin = end if number and at < end else at + HEAD_START
        silent += begin - end if number else 0
        end = begin + size / (2 * RATE)
    return silent


def in_a_thread(work: Coroutine[Any, Any, Any]) -> Any:
    """What comes of it; Playwright's own loop runs in the thread of the tests."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@pytest.fixture
def microphone(tmp_path: Path) -> Path:
    """Twenty seconds of a tone."""
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48000)
        angles = np.arange(20 * 48000) * 2 * math.pi * TONE_HZ / 48000
        file.writeframes((np.sin(angles) * 12000).astype(np.int16).tobytes())
    return tmp_path / "tone.wav"


def until(page: Page, condition: Callable[[], bool]) -> None:
    """Wait for something that a machine notices, a minute at most."""
    for _ in range(600):
        if condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError("waited in vain")


def call(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("button", name="Connect").click()


async def begins(line: Line) -> int:
    """Say a sentence, and the half of another one, and be gone."""
    await line.tell("bot-llm-started")
    await line.tell("bot-started-speaking")
    await line.output(1, "", "The moon is round.")
    await line.sound(0.4)
    await line.output(1, "The moon is round.")
    await line.output(2, "", "It has no air, and no weather.")
    await line.output(2, "It has no air,", " and no weather.")
    await line.sound(0.2)
    return 1012


async def goes_on(line: Line) -> None:
    await line.tell("bot-llm-started")
    await line.tell("bot-started-speaking")
    await line.output(1, "", "And no weather.")  # numbered from the beginning
    await line.sound(0.2)
    await line.output(1, "And no weather.")
    await line.tell("bot-llm-stopped")
    await line.tell("bot-stopped-speaking")


@pytest.mark.parametrize("code", [1012, 1011, 1001])
def test_a_cut_reply_goes_on_in_its_bubble(microphone: Path, code: int):
    async def breaks(line: Line) -> int:
        await begins(line)
        return code

    machines = Machines([breaks, goes_on], away=3, held=True)
    with machines.running() as address, browser(microphone) as chrome:
        page = chrome.new_page(viewport={"width": 1200, "height": 760})
        page.add_init_script(PATIENT)
        page.add_init_script(PAUSES)
        call(page, address)
        expect(page.get_by_role("status")).to_have_text(MOVING)
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=ARTIFACTS / "reconnecting.png")
        machines.come_back()
        expect(page.locator(".bot p")).to_have_text(
            "The moon is round. It has no air, And no weather."
        )
        expect(page.locator(".bot")).to_have_count(1)
        expect(page.get_by_role("status")).to_have_text("Listening")
        assert page.locator("#problem").is_hidden()
        pauses = page.evaluate("window.pauses")
        page.get_by_role("button", name="Disconnect").click()
        expect(page.get_by_role("status")).to_have_text("Ready")
        first, second = machines.lines
        until(page, lambda: second.code is not None)
    assert 0 < sum(pauses) < 2000  # though three calls in a row are not answered
    nothing = {"heard": None, "ended": False, "asked": None}
    assert first.hello == {"type": "call", "id": None, **nothing}
    assert second.hello == {
        "type": "call",
        "id": "c4ll",
        "heard": "The moon is round. It has no air,",
        "ended": False,
        "asked": None,
    }
    assert second.code == 1000


def test_the_page_comes_back_from_every_machine_that_goes(microphone: Path):
    async def half(line: Line) -> int:
        await line.tell("bot-llm-started")
        await line.tell("bot-started-speaking")
        await line.output(1, "It has no air,", " and no weather.")
        return 1012

    async def more(line: Line) -> int:
        await line.tell("bot-llm-started")
        await line.tell("bot-started-speaking")
        await line.output(1, "and no", " weather.")
        return 1012

    async def rest(line: Line) -> None:
        await line.tell("bot-llm-started")
        await line.tell("bot-started-speaking")
        await line.output(1, "weather.")

    machines = Machines([half, more, rest])
    with machines.running() as address, browser(microphone) as chrome:
        page = chrome.new_page()
        call(page, address)
        # Not the whole line: it reads the same while the words that are to come stand grey.
        expect(page.locator(".bot b")).to_have_text(["It has no air,", "and no", "weather."])
        expect(page.locator(".bot i:not(:empty)")).to_have_count(0)  # nothing is to come
    heard = [line.hello["heard"] for line in machines.lines]
    assert heard == [None, "It has no air,", "It has no air, and no"]


@pytest.mark.parametrize("text", [False, True])
def test_a_machine_that_lost_its_power_is_noticed(microphone: Path, text: bool):
    """It closes nothing, and nothing of what is sent to it ever arrives."""

    async def dies(line: Line) -> None:
        await line.tell("bot-llm-started")
        await line.tell("bot-llm-text", text="It has no air, ")
        line.freeze()
        await gone.wait()

    async def goes_on(line: Line) -> None:
        await line.tell("bot-llm-started")
        await line.tell("bot-llm-text", text="and no weather.")
        await line.tell("bot-llm-stopped")
        await asyncio.sleep(5)  # it is quiet for longer than a machine may be, and has its power
        still_here.set()

    gone, still_here = asyncio.Event(), threading.Event()
    machines = Machines([dies, goes_on], text=text)
    with machines.running() as address, browser(None if text else microphone) as chrome:
        page = chrome.new_page()
        call(page, address)
        assert still_here.wait(60)
        if text:
            expect(page.locator(".bot p")).to_have_text("It has no air, and no weather.")
        expect(page.get_by_role("status")).not_to_have_text(MOVING)
    assert len(machines.lines) == 2


def test_the_user_is_heard_and_the_bot_is_heard_without_gaps(microphone: Path):
    async def speaks(line: Line) -> None:
        await line.sound(1.6, RATE)
        # Pipecat sends it faster than it is played; an interruption forgets what is left.
        sound = OutputAudioRawFrame(
            audio=bytes(range(1, 251)) * 960 * 12, sample_rate=RATE, num_channels=1
        )
        await line.send(sound)
        await asyncio.to_thread(heard_some.wait, 60)  # a busy page begins to play later
        await line.send(InterruptionFrame())
        said.set()

    said, heard_some = threading.Event(), threading.Event()
    machines = Machines([speaks])
    with machines.running() as address, browser(microphone) as chrome:
        page = chrome.new_page()
        page.add_init_script(ARRIVALS)
        page.goto(address)
        page.evaluate(LISTEN)
        page.get_by_role("button", name="Connect").click()
        page.wait_for_function(
            """() => {
              const loud = (window.levels ?? []).filter(([, level]) => level > 0.05);
              return loud.length && loud.at(-1)[0] - loud[0][0] > 1.6;
            }"""
        )
        heard_some.set()
        assert said.wait(60)
        page.wait_for_function(
            """() => {
              const last = window.levels.at(-1)[0];
              const latest = window.levels.filter(([at]) => at > last - 0.7);
              return latest.every(([, level]) => level <= 0.05);
            }"""
        )
        levels, arrivals = page.evaluate("[window.levels, window.arrivals]")
    loud = [at for at, (_, level) in enumerate(levels) if level > 0.05]
    begins, ends = levels[loud[0]][0], levels[loud[-1]][0]
    assert ends - begins > 1.5
    interrupted = arrivals.pop()[0]
    assert ends < interrupted + 1.4  # of the minute that was sent
    # A busy machine may fail to render a moment; an 80 ms wait for a piece in time would be seen.
    in_time = 1 - unavoidable([each for each in arrivals if each[1] > 1000]) / (ends - begins)
    assert len(loud) > 0.95 * in_time * (loud[-1] - loud[0])

    [line] = machines.lines
    pieces = [frame for frame in line.heard if isinstance(frame, InputAudioRawFrame)]
    assert {(piece.sample_rate, piece.num_channels, len(piece.audio)) for piece in pieces} == {
        (16000, 1, 640)
    }
    pcm = np.frombuffer(b"".join(piece.audio for piece in pieces[-50:]), np.int16)
    assert np.argmax(np.abs(np.fft.rfft(pcm))) == pytest.approx(TONE_HZ, abs=3)  # of one second
    assert line.code is not None


def test_a_bot_without_a_voice_is_written_to():
    async def breaks(line: Line) -> int:
        asked = await line.said("send-text")
        await line.tell("user-input", text=asked["content"], input_type="chat", final=True)
        await line.tell("bot-llm-started")
        for word in ("Air ", "scatters "):
            await line.tell("bot-llm-text", text=word)
        await asyncio.sleep(0.2)
        return 1012

    async def rest(line: Line) -> None:
        await line.tell("bot-llm-started")
        await line.tell("bot-llm-text", text="blue most.")
        await line.tell("bot-llm-stopped")

    machines = Machines([breaks, rest], away=2, held=True, text=True)
    with machines.running() as address, browser() as chrome:
        page = chrome.new_page(viewport={"width": 1200, "height": 760})
        page.add_init_script(PATIENT)
        call(page, address)
        expect(page.locator("#hint")).to_have_text("Write whenever you like.")
        assert page.get_by_role("button", name="Mute").is_hidden()
        page.get_by_role("textbox", name="Or write").fill("Why is the sky blue?")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("status")).to_have_text(MOVING)
        assert page.get_by_role("button", name="Send").is_disabled()
        machines.come_back()
        expect(page.locator(".bot p")).to_have_text("Air scatters blue most.")
        expect(page.locator(".user p")).to_have_text(["Why is the sky blue?"])
        page.screenshot(path=ARTIFACTS / "writing.png")
    hello = machines.lines[1].hello
    assert (hello["heard"], hello["ended"]) == ("Air scatters", False)
    assert hello["asked"] == "Why is the sky blue?"


def test_connect_can_be_pressed_as_soon_as_it_does_something():
    async def waits(line: Line) -> None: ...

    modules: list[Route] = []
    machines = Machines([waits], text=True)
    with machines.running() as address, browser() as chrome:
        page = chrome.new_page()
        page.route("**/protobuf.js", lambda route: modules.append(route))
        page.goto(address, wait_until="commit")
        connect = page.get_by_role("button", name="Connect")
        expect(connect).to_be_disabled()
        until(page, lambda: bool(modules))
        modules[0].continue_()
        connect.click()
        expect(page.get_by_role("status")).to_have_text("Listening")


@pytest.mark.parametrize("early", [False, True])
def test_one_can_write_where_the_page_came_without_tls(early: bool):
    """Also before the bot is there: the words wait for it."""

    async def answers(line: Line) -> None:
        await line.said("send-text")
        await line.tell("bot-llm-started")
        await line.tell("bot-llm-text", text="Good morning.")

    machines = Machines([answers], text=True, slow=early)
    with machines.running() as address, browser() as chrome:
        page = chrome.new_page()
        page.add_init_script(PATIENT)
        call(page, address.replace("127.0.0.1", "far.example"))
        assert not page.evaluate("isSecureContext")
        expect(page.get_by_role("status")).to_have_text("Connecting" if early else "Listening")
        page.get_by_role("textbox", name="Or write").fill("Hello?")
        page.get_by_role("textbox", name="Or write").press("Enter")
        machines.come_back()
        expect(page.locator(".bot p")).to_have_text("Good morning.")
        expect(page.get_by_role("textbox", name="Or write")).to_have_value("")
    [line] = machines.lines
    told = [frame.message for frame in line.heard if isinstance(frame, InputTransportMessageFrame)]
    assert [each["data"] for each in told if each["type"] == "send-text"] == [{"content": "Hello?"}]


def test_words_that_are_changed_while_the_call_is_made_wait_to_be_sent_again():
    async def waits(line: Line) -> None: ...

    machines = Machines([waits], text=True, slow=True)
    with machines.running() as address, browser() as chrome:
        page = chrome.new_page()
        page.add_init_script(PATIENT)
        call(page, address)
        field = page.get_by_role("textbox", name="Or write")
        field.fill("Hello?")
        field.press("Enter")
        field.press_sequentially(" And")
        machines.come_back()
        expect(page.get_by_role("status")).to_have_text("Listening")
        expect(field).to_have_value("Hello? And")


@pytest.mark.parametrize(
    "ends", ["with words", "without", "with a dot", "with an error", "interrupted"]
)
def test_a_bot_that_pauses_in_its_reply_does_not_listen_yet(ends: str):
    goes_on = threading.Event()

    async def pauses(line: Line) -> None:
        await line.tell("bot-llm-started")
        await line.tell("bot-llm-text", text="The moon ...")
        await line.tell("bot-tts-started")
        await line.tell("bot-started-speaking")
        await line.output(1, "The moon ...")
        await line.tell("bot-stopped-speaking")
        await asyncio.to_thread(goes_on.wait, 60)
        goes_on.clear()
        if ends == "interrupted":
            return await line.tell("bot-interrupted")
        if ends == "with an error":
            return await line.tell("error", error="Mistral does not answer.", fatal=False)
        if ends == "with words":
            await line.tell("bot-llm-text", text=" It has no air.")
            await line.tell("bot-llm-stopped")
            await line.tell("bot-started-speaking")
            await line.output(2, "It has no air.")
            await asyncio.to_thread(goes_on.wait, 60)
            await line.tell("bot-tts-stopped")
            return await line.tell("bot-stopped-speaking")
        await line.tell("bot-tts-stopped")
        if ends == "with a dot":
            await line.tell("bot-llm-text", text=" .")
        await line.tell("bot-llm-stopped")

    machines = Machines([pauses], text=True)
    with machines.running() as address, browser() as chrome:
        page = chrome.new_page()
        call(page, address)
        expect(page.get_by_role("status")).to_have_text("Thinking")
        expect(page.locator("#hint")).to_have_text("The rest of the answer is on its way.")
        goes_on.set()
        if ends == "with words":
            expect(page.get_by_role("status")).to_have_text("Speaking")
            goes_on.set()
        expect(page.get_by_role("status")).to_have_text("Listening")


def test_what_a_voice_has_not_said_yet_was_not_heard(microphone: Path):
    async def breaks(line: Line) -> int:
        await line.tell("bot-llm-started")
        await line.tell("bot-llm-text", text="It has no air.")
        await line.tell("bot-llm-stopped")
        return 1012

    async def goes_on(line: Line) -> None:
        await line.output(1, "It has no air.")

    machines = Machines([breaks, goes_on])
    with machines.running() as address, browser(microphone) as chrome:
        page = chrome.new_page()
        call(page, address)
        expect(page.locator(".bot p")).to_have_text("It has no air.")
    assert (machines.lines[1].hello["heard"], machines.lines[1].hello["ended"]) == ("", False)


def test_what_was_written_into_a_broken_line_is_not_lost():
    async def breaks(line: Line) -> int:
        await line.said("send-text")
        return 1012

    async def waits(line: Line) -> None:
        taken_up.set()

    taken_up = threading.Event()
    machines = Machines([breaks, waits], text=True)
    with machines.running() as address, browser() as chrome:
        page = chrome.new_page()
        call(page, address)
        expect(page.get_by_role("status")).to_have_text("Listening")
        field = page.get_by_role("textbox", name="Or write")
        field.fill("Hello?")
        field.press("Enter")
        assert taken_up.wait(60)
        expect(field).to_have_value("Hello?")
        expect(page.get_by_role("status")).to_have_text("Listening")


def test_what_is_written_after_it_does_not_take_its_place():
    async def breaks(line: Line) -> int:
        await line.said("send-text")
        return 1012

    async def waits(line: Line) -> None: ...

    machines = Machines([breaks, waits], held=True, text=True)
    with machines.running() as address, browser() as chrome:
        page = chrome.new_page()
        page.add_init_script(PATIENT)
        call(page, address)
        expect(page.get_by_role("status")).to_have_text("Listening")
        field = page.get_by_role("textbox", name="Or write")
        field.fill("Hello?")
        field.press("Enter")
        expect(page.get_by_role("status")).to_have_text(MOVING)
        field.fill("Are you there?")
        machines.come_back()
        expect(page.get_by_role("status")).to_have_text("Listening")
        expect(field).to_have_value("Hello? Are you there?")


def test_what_was_written_into_a_broken_line_is_answered_by_the_next_machine():
    async def breaks(line: Line) -> int:
        await line.tell("bot-llm-started")
        await line.tell("bot-llm-text", text="Good morning, ")
        await line.said("send-text")
        return 1012

    async def answers(line: Line) -> int:
        await line.tell("bot-llm-started")
        await line.tell("bot-llm-text", text="Air scatters ")
        await asyncio.sleep(0.2)
        return 1012

    async def rest(line: Line) -> None:
        await line.tell("bot-llm-started")
        await line.tell("bot-llm-text", text="blue most.")
        await line.tell("bot-llm-stopped")

    machines = Machines([breaks, answers, rest], text=True, keeps=True)
    with machines.running() as address, browser() as chrome:
        page = chrome.new_page()
        call(page, address)
        expect(page.locator(".bot p")).to_have_text("Good morning,")
        field = page.get_by_role("textbox", name="Or write")
        field.fill("Why is the sky blue?")
        field.press("Enter")
        expect(page.locator(".bot p")).to_have_text(["Good morning,", "Air scatters blue most."])
        expect(page.locator(".user p")).to_have_text(["Why is the sky blue?"])
        expect(field).to_have_value("")
    told = [(line.hello["heard"], line.hello["asked"]) for line in machines.lines]
    asked = "Why is the sky blue?"
    assert told == [(None, None), ("Good morning,", asked), ("Air scatters", asked)]


def test_a_real_pipeline_is_written_to_and_interrupted():
    async def bot(websocket: WebSocket) -> None:
        transport = FastAPIWebsocketTransport(
            websocket, FastAPIWebsocketParams(serializer=ProtobufFrameSerializer())
        )
        user, assistant = LLMContextAggregatorPair(
            LLMContext(),
            user_params=LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies()),
        )
        # However late it is, a reply is asked for once: the script has each of them once.
        late = {"first_token_timeout": 60.0, "stall_timeout": 60.0, "turn_timeout": 120.0}
        llm = MistralLLMService(
            api_key="any",
            base_url=mistral.base_url,
            settings=MistralLLMService.Settings(hedging=False, **late),
        )
        worker = PipelineWorker(
            Pipeline([transport.input(), user, llm, transport.output(), assistant])
        )

        @transport.event_handler("on_client_disconnected")
        async def leave(*_: object) -> None:
            await worker.cancel()

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await runner.run()

    endless = Reply("One two three four five six seven. " * 40, when="count", pause=0.1)
    script = Script(Reply("Air scatters blue most.", when="sky"), endless, Reply("Four it is."))
    with LocalMistral(script) as mistral:
        machines = Machines([], pipeline=bot, text=True)
        with machines.running() as address, browser() as chrome:
            page = chrome.new_page()
            call(page, address)
            expect(page.get_by_role("status")).to_have_text("Listening")
            field = page.get_by_role("textbox", name="Or write")
            for words in ("Why is the sky blue?", "Please count.", "Two and two?"):
                field.fill(words)
                field.press("Enter")
                expect(page.locator(".user p").last).to_have_text(words)
                expect(page.locator(".bot p").last).to_contain_text(
                    {"W": "most.", "P": "seven.", "T": "Four it is."}[words[0]]
                )
            assert page.locator(".bot").count() == 3
            assert page.locator(".bot p").nth(1).inner_text().count("seven") < 40
            page.get_by_role("button", name="Disconnect").click()
            expect(page.get_by_role("status")).to_have_text("Ready")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (1008, "The call could not be taken up again, because it is over: connect anew."),
        (1013, "The call was lost: no machine took it up within 30 seconds."),
    ],
)
def test_it_gives_up_with_a_sentence(microphone: Path, code: int, sentence: str):
    async def breaks(line: Line) -> int:
        machines.refusal = ("No.", code)
        return 1012

    machines = Machines([breaks])
    with machines.running() as address, browser(microphone) as chrome:
        page = chrome.new_page()
        page.clock.install()
        call(page, address)
        if code == 1013:
            expect(page.get_by_role("status")).to_have_text(MOVING)
            page.wait_for_timeout(500)
            assert page.locator("#problem").is_hidden()
            page.clock.fast_forward(30_000)
        expect(page.locator("#problem")).to_contain_text(sentence)
        expect(page.get_by_role("status")).to_have_text("Ready")


def test_a_first_call_that_is_refused_says_why(microphone: Path):
    machines = Machines([])
    machines.refusal = ("All lines are taken: call again in a moment.", 1013)
    with machines.running() as address, browser(microphone) as chrome:
        page = chrome.new_page()
        call(page, address)
        expect(page.locator("#problem")).to_have_text(machines.refusal[0])


def test_a_first_call_finds_the_machine_that_has_room(microphone: Path):
    async def speaks(line: Line) -> None:
        await line.output(1, "Good morning.")

    machines = Machines([speaks], full=2)
    with machines.running() as address, browser(microphone) as chrome:
        page = chrome.new_page()
        page.add_init_script(SLOW_CLOCK)
        call(page, address)
        expect(page.locator(".bot p")).to_have_text("Good morning.")
        assert page.locator("#problem").is_hidden()


def test_a_microphone_that_goes_is_told_of(microphone: Path):
    async def waits(line: Line) -> None:
        pass

    machines = Machines([waits])
    with machines.running() as address, browser(microphone) as chrome:
        page = chrome.new_page()
        page.add_init_script("""
          const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = async (wish) => (window.mine = await ask(wish));
        """)
        call(page, address)
        expect(page.get_by_role("status")).to_have_text("Listening")
        page.evaluate("mine.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
        expect(page.locator("#problem")).to_contain_text("The microphone is gone")


def test_a_bot_that_always_fails_is_not_called_for_ever(microphone: Path):
    async def fails(line: Line) -> int:
        return 1011

    machines = Machines([fails] * 1000)
    with machines.running() as address, browser(microphone) as chrome:
        page = chrome.new_page()
        page.clock.install()
        call(page, address)
        expect(page.get_by_role("status")).to_have_text(MOVING)
        page.wait_for_timeout(1500)
        assert len(machines.lines) < 10  # and not one after the other
        page.clock.fast_forward(30_000)
        expect(page.locator("#problem")).to_contain_text("The bot failed, and again")
        expect(page.get_by_role("status")).to_have_text("Ready")


def test_a_bot_that_hangs_up_is_not_called_again(microphone: Path):
    async def hangs_up(line: Line) -> int:
        return 1000

    machines = Machines([hangs_up])
    with machines.running() as address, browser(microphone) as chrome:
        page = chrome.new_page()
        call(page, address)
        expect(page.locator("#problem")).to_contain_text("ended the call")
        page.wait_for_timeout(300)
    assert len(machines.lines) == 1


TEXT = "Ça va ? 你好 🌙"
PASSED = [
    (TextFrame(TEXT), {"kind": "text", "text": TEXT}),
    (
        OutputAudioRawFrame(audio=bytes(range(256)) * 2, sample_rate=48000, num_channels=2),
        {"kind": "audio", "sample_rate": 48000, "num_channels": 2, "audio": [*range(256)] * 2},
    ),
    (
        TranscriptionFrame(TEXT, "me", "now"),
        {"kind": "transcription", "text": TEXT, "user_id": "me", "timestamp": "now"},
    ),
    (OutputTransportMessageFrame({"a": TEXT}), {"kind": "message"}),
    (InterruptionFrame(), {"kind": "interruption"}),
]


@pytest.mark.parametrize(("frame", "read"), PASSED, ids=lambda it: type(it).__name__)
def test_the_page_reads_what_pipecat_writes_and_writes_the_same(
    idle_page: Page, frame: Frame, read: dict[str, Any]
):
    frame.id = 2**40 + 300
    payload = in_a_thread(ProtobufFrameSerializer().serialize(frame))
    found, back = idle_page.evaluate(
        """async (bytes) => {
          const { decode, encode } = await import("./protobuf.js");
          const { kind, ...fields } = decode(Uint8Array.from(bytes));
          const back = [...encode(kind, fields)];
          if (fields.audio) fields.audio = [...fields.audio];
          return [{ kind, ...fields }, back];
        }""",
        list(payload),
    )
    assert found | read == found
    assert found["kind"] == "message" or found["id"] == frame.id
    assert bytes(back) == payload
