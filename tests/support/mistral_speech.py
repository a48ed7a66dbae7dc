"""Mistral's ears and mouth on loopback: realtime transcription, speech, and Twilio's hang-up.

The ears take what Pipecat's service streams and say what a test wrote down, once per flush, if they
heard anybody speak; the mouth hums each text at a pitch of its own.
"""

import base64
import json
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from mistral_service.local.server import bind

MOUTH_RATE = 24000
HUM_SECONDS = 1.0
_LOUD = 300  # of 32,767, as a root mean square: above any line's noise


def pitch_of(text: str) -> int:
    """The pitch in Hz at which a text is hummed: a telephone carries 300 to 3,400."""
    return 400 + 37 * (sum(text.encode()) % 40)


@dataclass
class MistralSpeech:
    """The stand-in, for the time of a `with` block.

    Parameters:
        transcripts: What the ears say, one for each stretch of speech.

    Attributes:
        heard: The sound of each stretch, 16-bit PCM, with its rate in Hz.
        spoken: The body of each request to speak.
        keys: The `authorization` of every request.
        hung_up: The paths of calls that were ended, as Twilio is asked to.
    """

    transcripts: Sequence[str]
    heard: list[tuple[bytes, int]] = field(default_factory=list)
    spoken: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    hung_up: list[str] = field(default_factory=list)

    async def listen(self, socket: WebSocket) -> None:
        """A session of realtime transcription."""
        self.keys.add(socket.headers.get("authorization"))
        await socket.accept()
        model = socket.query_params["model"]
        form = {"encoding": "pcm_s16le", "sample_rate": 16000}
        session: dict[str, Any] = {"request_id": "r1", "model": model, "audio_format": form}
        await socket.send_json({"type": "session.created", "session": session})
        sound = b""
        try:
            while True:
                message = await socket.receive_json()
                match message["type"]:
                    case "session.update":
                        session |= {k: v for k, v in message["session"].items() if v is not None}
                        await socket.send_json({"type": "session.updated", "session": session})
                    case "input_audio.append":
                        sound += base64.b64decode(message["audio"])
                    case "input_audio.flush":
                        if _is_loud(sound):
                            rate = session["audio_format"]["sample_rate"]
                            self.heard.append((sound, rate))
                            await self._say(socket, model)
                        sound = b""
        except WebSocketDisconnect:
            pass

    async def _say(self, socket: WebSocket, model: str) -> None:
        text = self.transcripts[min(len(self.heard), len(self.transcripts)) - 1]
        for word in text.split():
            await socket.send_json({"type": "transcription.text.delta", "text": word + " "})
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        done = {"model": model, "text": text, "usage": usage, "language": "en", "segments": []}
        await socket.send_json({"type": "transcription.done", **done})

    async def speak(self, request: Request) -> Response:
        """A request to speak, answered with a stream of 32-bit sound."""
        self.keys.add(request.headers.get("authorization"))
        body = await request.json()
        if not body.get("voice_id"):
            return JSONResponse({"message": "voice_id or ref_audio is required"}, 422)
        self.spoken.append(body)

        async def stream() -> AsyncIterator[str]:
            for part in np.array_split(_hum(body["input"]), 4):
                data = base64.b64encode(part.astype("<f4").tobytes()).decode()
                yield _event({"type": "speech.audio.delta", "audio_data": data})
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            yield _event({"type": "speech.audio.done", "usage": usage})

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def hang_up(self, request: Request) -> Response:
        """Twilio's request to end a call."""
        self.hung_up.append(request.url.path)
        return JSONResponse({"status": "completed"})

    def __enter__(self) -> "MistralSpeech":
        app = Starlette(
            routes=[
                WebSocketRoute("/v1/audio/transcriptions/realtime", self.listen),
                Route("/v1/audio/speech", self.speak, methods=["POST"]),
                Route("/2010-04-01/{path:path}", self.hang_up, methods=["POST"]),
            ]
        )
        listener = bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=10)


def pitch_in(sound: bytes, rate: int) -> float:
    """The loudest pitch in Hz of some 16-bit sound."""
    samples = np.frombuffer(sound, np.int16).astype(np.float64)
    strength = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(strength) * rate / len(samples))


def _is_loud(sound: bytes) -> bool:
    samples = np.frombuffer(sound, np.int16).astype(np.float64)
    return bool(len(samples)) and float(np.sqrt(np.mean(samples**2))) > _LOUD


def _hum(text: str) -> np.ndarray:
    time = np.arange(int(HUM_SECONDS * MOUTH_RATE)) / MOUTH_RATE
    return 0.4 * np.sin(2 * np.pi * pitch_of(text) * time)


def _event(data: dict[str, Any]) -> str:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n"
