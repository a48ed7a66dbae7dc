"""From the end of the user's turn to the voice's first audio, in parts: `make bench`.

The pipeline that people run: user aggregator, service, Piper, assistant aggregator, RTVI and
metrics on. The model's first token comes after 300 ms, then 50 tokens a second in sentences. The
second table is about speculative turns (Pipecat's `EagerUserTurnStrategies`): the model is asked
when the end of the turn is predicted, and the reply is held until the turn ends.

Each candidate is a process of its own, one after the other, for several rounds. The tables have
medians.
"""

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any
from urllib.request import urlopen

from pipeline import running
from speed import maker, server

MODEL_S, RATE = 0.3, 50.0
"""Seconds to the model's first token, and its tokens a second."""
PREDICTED_S = 0.25
"""Seconds from the prediction to the end of the turn."""
WITHDRAWN_S, GOES_ON_S = 0.75, 0.5
"""Seconds from a wrong prediction to its withdrawal, and from there to the end of the turn."""
PARTS = (
    ("the user aggregator", "Pipecat"),
    ("request: conversion, encoding, sending", "the service"),
    ("the model's first token", "the model"),
    ("its first frame", "the service"),
    ("the model's first sentence", "the model"),
    ("the sentence to the voice", "the service, Pipecat"),
    ("Piper's first audio", "the voice"),
)
QUESTION = "Is there a train to Lyon this morning?"


class Times:
    """When things happened in a turn, in seconds on the monotonic clock."""

    def __init__(self) -> None:
        self.ended = self.asked = self.framed = self.spoken = self.audio = 0.0
        self.text = ""
        self.heard = asyncio.Event()

    def sent(self) -> list[float]:
        """When the server sent the first token of each sentence."""
        return [int(at) / 1e6 for at in re.findall(r"Train(\d{9,})", self.text)]

    def parts(self) -> list[float]:
        """Milliseconds of each of `PARTS`."""
        first, second = self.sent()[:2]
        points = [self.ended, self.asked, first - MODEL_S, first, self.framed]
        points += [second, self.spoken, self.audio]
        return [(b - a) * 1e3 for a, b in pairwise(points)]


@contextlib.asynccontextmanager
async def call(who: str, base_url: str, *, eager: bool) -> AsyncIterator[tuple[Any, Times]]:
    """A call; yields its worker, and the times of the turn that runs."""
    service = maker(who)(base_url)

    from pipecat.frames.frames import (
        LLMContextFrame,
        LLMTextFrame,
        TTSAudioRawFrame,
        TTSStartedFrame,
    )
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.aggregators.llm_response_universal import (
        LLMContextAggregatorPair,
        LLMUserAggregatorParams,
    )
    from pipecat.processors.frame_processor import FrameProcessor
    from pipecat.services.piper.tts import PiperTTSService
    from pipecat.turns.user_turn_strategies import (
        EagerUserTurnStrategies,
        ExternalUserTurnStrategies,
    )

    from mistral_service.demo.weights import PIPER_JOE

    times = Times()

    class Tap(FrameProcessor):
        """Notes when the first frame of each kind passes."""

        async def process_frame(self, frame: Any, direction: Any) -> None:
            await super().process_frame(frame, direction)
            now = time.monotonic()
            if isinstance(frame, LLMContextFrame):
                times.asked = now
            elif isinstance(frame, LLMTextFrame):
                times.text += frame.text
                times.framed = times.framed or now
            elif isinstance(frame, TTSStartedFrame):
                times.spoken = times.spoken or now
            elif isinstance(frame, TTSAudioRawFrame):
                times.audio = times.audio or now
                times.heard.set()
            await self.push_frame(frame, direction)

    voice = PiperTTSService(
        download_dir=PIPER_JOE.find(), settings=PiperTTSService.Settings(voice="en_US-joe-medium")
    )
    strategies = EagerUserTurnStrategies() if eager else ExternalUserTurnStrategies()
    user, assistant = LLMContextAggregatorPair(
        LLMContext(), user_params=LLMUserAggregatorParams(user_turn_strategies=strategies)
    )
    async with running([user, Tap(), service, Tap(), voice, Tap(), assistant]) as worker:
        yield worker, times


async def turns(who: str, base_url: str, kind: str, count: int) -> list[list[float]]:
    """The parts of some turns, and the tokens that were written to no one's use.

    Args:
        who: "ours" or "theirs".
        base_url: The server.
        kind: "plain", "right" (the end is predicted) or "wrong" (and the user goes on).
        count: How many turns; one before them is not counted.
    """
    taken = list[list[float]]()
    async with call(who, base_url, eager=kind != "plain") as (worker, times):
        from pipecat.frames.frames import (
            EagerEndOfTurnCancelFrame,
            EagerTranscriptionFrame,
            InterruptionFrame,
            ProposedUserStartedSpeakingFrame,
            ProposedUserStoppedSpeakingFrame,
            TranscriptionFrame,
        )

        async def written() -> int:
            root = base_url.removesuffix("/v1")
            return await asyncio.to_thread(lambda: int(urlopen(f"{root}/written").read()))

        for _ in range(count + 1):
            await worker.queue_frame(ProposedUserStartedSpeakingFrame())
            await asyncio.sleep(0.1)
            text, wasted, before = QUESTION, 0, await written()
            if kind != "plain":
                await worker.queue_frame(EagerTranscriptionFrame(text, "user", "now"))
                await asyncio.sleep(PREDICTED_S if kind == "right" else WITHDRAWN_S)
            if kind == "wrong":
                await worker.queue_frame(EagerEndOfTurnCancelFrame())
                await asyncio.sleep(GOES_ON_S)
                wasted = await written() - before
                text = f"{QUESTION} Or to Paris?"
            times.__init__()
            await worker.queue_frame(TranscriptionFrame(text, "user", "now"))
            await worker.queue_frame(ProposedUserStoppedSpeakingFrame())
            times.ended = time.monotonic()
            await asyncio.wait_for(times.heard.wait(), 30)
            parts = times.parts() if kind == "plain" else []
            taken.append([(times.audio - times.ended) * 1e3, wasted, *parts])
            await worker.queue_frame(InterruptionFrame())
            await asyncio.sleep(0.3)
    return taken[1:]


def measured(who: str, base_url: str, kind: str, count: int) -> list[list[float]]:
    """Some turns of a candidate in a process of its own."""
    command = [sys.executable, __file__, "--one", who, base_url, kind, str(count)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=240, check=True)
    return json.loads(printed.stdout.splitlines()[-1])


def main(rounds: int, count: int) -> None:
    """Print both tables."""
    taken: dict[tuple[str, str], list[list[float]]] = {}
    with server(tokens=400, rate=RATE, delay=MODEL_S, text="sentences") as address:
        for _ in range(rounds):
            for kind in ("plain", "right", "wrong"):
                for who in ("ours", "theirs"):
                    results = measured(who, address, kind, count)
                    taken.setdefault((who, kind), []).extend(results)

    def median(who: str, kind: str, at: int) -> float:
        return statistics.median(row[at] for row in taken[who, kind])

    print("| part | whose | ours (ms) | Pipecat's own (ms) |\n|---|---|---|---|")
    for at, (part, whose) in enumerate(PARTS):
        ours, theirs = median("ours", "plain", at + 2), median("theirs", "plain", at + 2)
        print(f"| {part} | {whose} | {ours:.1f} | {theirs:.1f} |")
    ours, theirs = median("ours", "plain", 0), median("theirs", "plain", 0)
    print(f"| **from the end of the turn to the first audio** | | {ours:.0f} | {theirs:.0f} |\n")
    print("| the end of the turn | ours (ms) | Pipecat's own (ms) | tokens for no one |")
    print("|---|---|---|---|")
    ahead = f"{PREDICTED_S * 1e3:.0f} ms before"
    names = {"plain": "is waited for", "right": f"is predicted {ahead}"}
    names["wrong"] = f"is predicted wrongly, withdrawn {WITHDRAWN_S * 1e3:.0f} ms later"
    for kind, name in names.items():
        ours, theirs = median("ours", kind, 0), median("theirs", kind, 0)
        wasted = f"{median('ours', kind, 1):.0f}, {median('theirs', kind, 1):.0f}"
        print(f"| {name} | {ours:.0f} | {theirs:.0f} | {wasted if kind == 'wrong' else 0} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--turns", type=int, default=5, help="turns of a round (default: 5)")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        who, base_url, kind, count = given.one
        print(json.dumps(asyncio.run(turns(who, base_url, kind, int(count)))))
    else:
        main(given.rounds, given.turns)
