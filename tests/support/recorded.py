"""Calls that are kept: real Redis, and a real pipeline for each machine that has one."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from call import Call
from cryptography.fernet import Fernet
from pipecat.frames.frames import (
    Frame,
    LLMFullResponseEndFrame,
    LLMMessagesAppendFrame,
    OutputAudioRawFrame,
    StartFrame,
    TTSAudioRawFrame,
)
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from scale_redis import RedisServer, redis
from waiting import until

from mistral_service import MistralLLMService
from mistral_service.reply.calls import CallLedger
from mistral_service.scale.client_report import Sent
from mistral_service.scale.recorder import CallRecorder
from mistral_service.scale.recorders import CallRecorders
from mistral_service.scale.sealing import Codec
from mistral_service.scale.store import Store

SYSTEM = {"role": "system", "content": "You are a voice."}
GREET = {"role": "developer", "content": "Please greet the caller."}
STORY = "Once upon a time there was a king who had three daughters and no peace at all."
ANSWERS_WITHIN = 2.0
"""Seconds after which Redis is taken for down: longer than a busy machine keeps it from answering,
and shorter than a function waits for its note."""

__all__ = ["redis"]  # a fixture that comes along


def service(**settings: Any) -> Any:
    """What a recorder sees of a service."""

    async def update(delta: Any) -> None:
        pass

    given = MistralLLMService.Settings(model="mistral-small-latest", **settings)
    return SimpleNamespace(ledger=CallLedger(), _settings=given, _update_settings=update)


@pytest.fixture
async def recorders(redis: RedisServer) -> AsyncIterator[CallRecorders]:
    store = Store(redis.url, timeout=ANSWERS_WITHIN)
    yield CallRecorders(store, codec=Codec([Fernet.generate_key().decode()]))
    await store.close()


class Machine:
    """A service, its recorder and the call that goes on there."""

    def __init__(self, mistral: Any, recorder: CallRecorder, **options: Any) -> None:
        settings = MistralLLMService.Settings(hedging=False, **options.pop("settings", {}))
        self.recorder = recorder
        self.service = MistralLLMService(
            api_key="k", base_url=mistral.base_url, recorder=recorder, settings=settings
        )
        self.ran: list[dict[str, Any]] = []
        self.call = Call(self.service, dict(SYSTEM), **options)
        self._sent: Sent | None = None

    async def __aenter__(self) -> "Machine":
        await self.call.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.call.__aexit__()
        await self.recorder.close(over=False)

    async def greets(self) -> None:
        """What the bot does when somebody is there."""
        await self.call.worker.queue_frame(LLMMessagesAppendFrame([dict(GREET)], run_llm=True))

    async def goes_on(self) -> None:
        ends = self.call.count(LLMFullResponseEndFrame) + 1
        await self.greets()
        await self.call.until(lambda: self.call.count(LLMFullResponseEndFrame) >= ends)

    def sent(self) -> Sent | None:
        """What the caller's client has been sent of the latest reply, as it repeats it."""
        if told := self.recorder.progress():
            message = json.loads(told)
            before = self._sent.words if self._sent and self._sent.turn == message["turn"] else ""
            words = before + message["sent"]
            self._sent = Sent(turn=message["turn"], words=words, proof=message["proof"])
        return self._sent

    def said(self) -> list[tuple[str, str]]:
        return [(m["role"], m.get("content") or "") for m in self.call.context.get_messages()]


def asked(mistral: Any) -> list[dict[str, Any]]:
    """The requests that came to the endpoint."""
    return [e.request for e in mistral.exchanges if e.path.endswith("chat/completions")]


async def written(recorder: CallRecorder) -> None:
    """Wait until all of it is in Redis."""
    await until(lambda: recorder._writer.idle)


class Client:
    """A caller's client that is still on the line: it keeps a note, and confirms it."""

    def __init__(self, *, answers: bool = True) -> None:
        self.note: str | None = None
        self._answers = answers

    async def store_note(self, note: str, within: float) -> bool:
        """Keep a note."""
        if self._answers:
            self.note = note
        return self._answers


class Speaks(TTSService):
    """Speaks each sentence in half a second of silence."""

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame, None]:
        yield TTSAudioRawFrame(bytes(2 * 8000), 16000, 1, context_id=context_id)


class Plays(BaseOutputTransport):
    """Plays as fast as one hears."""

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        await asyncio.sleep(len(frame.audio) / 2 / frame.sample_rate)
        return True


def voice() -> list[Any]:
    return [
        Speaks(sample_rate=16000, settings=TTSSettings(model=None, voice=None, language=None)),
        Plays(TransportParams(audio_out_enabled=True, audio_out_sample_rate=16000)),
    ]
