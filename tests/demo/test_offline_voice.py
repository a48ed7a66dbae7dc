"""The voice of the offline demo, on a machine that is slow."""

import importlib.util
import time
from pathlib import Path

from pipecat.frames.frames import ErrorFrame, TTSAudioRawFrame, TTSSpeakFrame, TTSStoppedFrame
from pipecat.tests.utils import SleepFrame, run_test
from piper import PiperVoice

BOT = Path(__file__).parents[2] / "examples" / "voice_bot.py"
SLOW_S = 3.5  # Pipecat's own patience is 3 s


async def test_a_sentence_that_takes_long_to_speak_is_spoken_and_no_error(monkeypatch):
    spec = importlib.util.spec_from_file_location("slow_voice_bot", BOT)
    bot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bot)
    synthesize = PiperVoice.synthesize

    def slowly(self, text, *args, **options):
        time.sleep(SLOW_S)
        yield from synthesize(self, text, *args, **options)

    monkeypatch.delenv("SPEECH", raising=False)
    _, tts = bot.create_speech()
    monkeypatch.setattr(PiperVoice, "synthesize", slowly)
    down, up = await run_test(
        tts, frames_to_send=[TTSSpeakFrame("Good morning."), SleepFrame(sleep=SLOW_S + 2)]
    )
    assert not [frame for frame in [*down, *up] if isinstance(frame, ErrorFrame)]
    kinds = [type(frame) for frame in down]
    assert kinds.count(TTSAudioRawFrame) > 0
    assert kinds.count(TTSStoppedFrame) == 1  # after all of its sound, not before
    assert kinds.index(TTSStoppedFrame) > max(
        at for at, kind in enumerate(kinds) if kind is TTSAudioRawFrame
    )
