"""A stage for the browser tests: a demo in its own process, and Chromium with a voice."""

import base64
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
import soxr
from call_servers import Machines
from PIL import Image
from piper import PiperVoice
from playwright.sync_api import Browser, Page, expect, sync_playwright

from mistral_service.demo.weights import PIPER_JOE

MICROPHONE_RATE = 16000

expect.set_options(timeout=30_000)  # how long a busy machine may take for what a page shows
FIRST_WORDS = 150_000  # ms; before them, a bot loads its ears and its voice

# Opens the browser's microphone as the page asks for it, and lets the page hear `say` in its place.
MICROPHONE = """(() => {
  const devices = navigator.mediaDevices;
  const open = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async (wanted) => {
    const stream = await open(wanted);
    if (!wanted.audio) return stream;
    const context = new AudioContext();
    const microphone = context.createMediaStreamDestination();
    window.say = async (wav) => {
      const bytes = Uint8Array.from(atob(wav), (c) => c.charCodeAt(0));
      const source = context.createBufferSource();
      source.buffer = await context.decodeAudioData(bytes.buffer);
      source.connect(microphone);
      source.start();
    };
    return new MediaStream([...microphone.stream.getTracks(), ...stream.getVideoTracks()]);
  };
})()"""

# Takes down every state that the page shows: one that is short may pass between two looks.
STATES = """addEventListener("DOMContentLoaded", () => {
  const state = document.querySelector("#state");
  window.states = [];
  new MutationObserver(() => window.states.push(state.textContent)).observe(state, {
    childList: true,
  });
})"""

# Lets the page's clock go five times slower, so that a busy machine has five times its patience.
SLOW_CLOCK = """
  const [now, wait] = [performance.now.bind(performance), window.setTimeout];
  performance.now = () => now() / 5;
  window.setTimeout = (then, ms = 0, ...given) => wait(then, 5 * ms, ...given);
"""

# Measures what comes out of the page's loudspeaker, with an analyser that is not the page's own.
LISTEN = """() => {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(document.querySelector("audio").srcObject).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  window.heard = [];
  setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    const power = samples.reduce((sum, x) => sum + x * x, 0) / samples.length;
    window.heard.push(Math.sqrt(power));
  }, 50);
}"""
AUDIBLE = 0.01  # RMS; the silence between two sentences is 0.000


class Demo:
    """`python -m mistral_service.demo` on a free port; ends with the `with` block at the latest."""

    def __init__(self, *arguments: str, environ: Mapping[str, str] | None = None):
        """Start the demo, and return once it has printed its address."""
        start = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mistral_service.demo", "--port", "0", *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address = self._wait_for_address(180)
        self.start_seconds = time.monotonic() - start

    def __enter__(self) -> "Demo":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def interrupt(self) -> tuple[int, float, list[psutil.Process]]:
        """Press Ctrl-C: the exit status, the seconds it took, and the children left behind."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        start = time.monotonic()
        self._process.send_signal(signal.SIGINT)
        status = self._process.wait(60)
        seconds = time.monotonic() - start
        self._reader.join(5)
        _, left = psutil.wait_procs(children, timeout=2)
        return status, seconds, left

    def _wait_for_address(self, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := re.search(r"http://\S+", self.output):
                return found.group()
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        self._process.kill()
        raise AssertionError(f"the demo did not start:\n{self.output}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line


def chromium() -> str:
    """The path of a Chromium, which the browser tests cannot do without."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise AssertionError("The browser tests need Chromium: run `make test`, which installs it.")


@contextmanager
def browser(microphone: Path | bool = False, camera: Path | None = None) -> Iterator[Browser]:
    """Headless Chromium, with devices that are not real or with none.

    Args:
        microphone: A WAV file that it hears once, from its start; True for `say`.
        camera: A Y4M file that it sees.
    """
    # What is not of this machine's name is no place that browsers trust.
    arguments = [
        "--allow-loopback-in-peer-connection",
        "--host-resolver-rules=MAP far.example 127.0.0.1",
    ]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    if microphone:
        arguments += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    if isinstance(microphone, Path):
        arguments.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    if camera:
        arguments.append(f"--use-file-for-fake-video-capture={camera}")
    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(
            executable_path=chromium(), args=arguments, ignore_default_args=["--mute-audio"]
        )
        try:
            yield chrome
        finally:
            chrome.close()


def film(path: Path, image: Image.Image) -> Path:
    """Write a Y4M file of a second of one image."""
    luma, *chroma = image.convert("YCbCr").split()
    half = (image.width // 2, image.height // 2)
    # Video keeps black at 16 and white at 235.
    planes = [luma.point(lambda y: y * 219 / 255 + 16)]
    planes += [plane.point(lambda c: (c - 128) * 224 / 255 + 128).resize(half) for plane in chroma]
    frame = b"FRAME\n" + b"".join(plane.tobytes() for plane in planes)
    head = f"YUV4MPEG2 W{image.width} H{image.height} F10:1 Ip A1:1 C420jpeg\n"
    path.write_bytes(head.encode() + 10 * frame)
    return path


@cache
def spoken(sentence: str) -> str:
    """A sentence in a voice of Piper's: a WAV file, in Base64."""
    voice = PiperVoice.load(PIPER_JOE.file())
    pcm = np.concatenate([chunk.audio_int16_array for chunk in voice.synthesize(sentence)])
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(MICROPHONE_RATE)
        file.writeframes(soxr.resample(pcm, voice.config.sample_rate, MICROPHONE_RATE).tobytes())
    return base64.b64encode(sound.getvalue()).decode()


def say(page: Page, sentence: str) -> None:
    """Say a sentence into the page's microphone, now."""
    page.evaluate("wav => window.say(wav)", spoken(sentence))


def connect(page: Page, demo: Demo) -> None:
    """Call the demo's bot, with a microphone that hears what `say` says."""
    page.add_init_script(MICROPHONE)
    page.add_init_script(STATES)
    page.goto(demo.address)
    page.get_by_role("button", name="Connect").click()


def greeted(page: Page) -> None:
    """Wait until the bot has spoken for the first time, and listens."""
    expect(page.locator(".bot").first).to_contain_text(re.compile(r"\w"), timeout=FIRST_WORDS)
    state(page, "Listening")


def state(page: Page, wanted: str) -> None:
    """Wait until the page shows a state, however long a busy machine takes for it."""
    expect(page.locator("#state")).to_have_text(wanted, timeout=60_000)


def speaks(page: Page) -> None:
    """Wait until the bot speaks, or has spoken; of a page that `connect` opened."""
    page.wait_for_function("() => window.states.includes('Speaking')", timeout=FIRST_WORDS)


@pytest.fixture(scope="module")
def idle_page() -> Iterator[Page]:
    with Machines([]).running() as address, browser() as chrome:
        page = chrome.new_page()
        page.goto(address)
        yield page
