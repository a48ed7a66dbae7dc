"""Callers over WebSocket, who note what they hear and come back when the line breaks."""

import asyncio
import contextlib
import itertools
import json
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import pipecat.frames.protobufs.frames_pb2 as protobufs
import websockets
from counting import word
from websockets.asyncio.client import ClientConnection

PROTOCOL = "mistral-call.v1"
PAUSES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
GIVES_UP = 30.0
WAITS = 45.0
BEAT = '{"type": "beat"}'
QUIET, COMES = 1.0, 15.0  # seconds, as in socket-call.js
TRY_AGAIN = 1013  # all lines are taken: call again after a pause


@dataclass
class Turn:
    """What a caller said and heard.

    Parameters:
        says: The caller's words.
        expects: The words of the whole reply.
        heard: The words that came.
        errors: What was told of.
        seconds: How long it took to the first word.
    """

    says: str
    expects: list[str]
    heard: str = ""
    errors: list[str] = field(default_factory=list)
    seconds: float | None = None

    @property
    def words(self) -> list[str]:
        """The words that came; a point alone is the end that is set where a stream pauses."""
        return [word for word in self.heard.split() if re.search(r"\w", word)]

    @property
    def whole(self) -> bool:
        """Whether every word was heard once, in order."""
        words = self.words
        # A function whose result died with its machine is not run again: the model is told.
        return words == self.expects or words == [*self.expects[:-1], "unsure"]

    @property
    def told(self) -> bool:
        """Whether an error was told in place of what is missing of the reply."""
        words = self.words
        return bool(self.errors) and words == self.expects[: len(words)]


class Caller:
    """One caller, from the first word to the last."""

    def __init__(
        self, url: str, number: int, *, turns: int = 3, words: int = 20, patience: float = COMES
    ) -> None:
        """Prepare a call.

        Args:
            url: Where calls are taken.
            number: The caller's number; every word of every reply has it.
            turns: How many turns; each third books a table.
            words: How many words each reply has.
            patience: Seconds of silence after which the machine is taken for gone; of our page it
                is three. Where all machines are late, as two cores with 200 calls are, that moves
                calls for nothing.
        """
        self._patience = patience
        self._last, self._came = 0.0, False
        self.url = url
        self.number = number
        self.turns = [self._turn(k, words) for k in range(1, turns + 1)]
        self.turn = self.turns[0]
        self.id: str | None = None
        self.taken_up: list[float] = []  # seconds from each break until the call was ours again
        self.lost: str | None = None
        self._told = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._reply = ""  # words of the latest reply
        self._ended = False
        self._asked = ""
        self._note: str | None = None  # the functions that have started, sealed by the machine
        self._sent: dict[str, Any] | None = None  # what was signed as sent of the latest reply

    def _turn(self, k: int, words: int) -> Turn:
        begin = f"Caller {self.number}, turn {k}: "
        if k % 3 == 0:
            return Turn(begin + "book a table.", [word(self.number, k, 1), "booked"])
        expects = [word(self.number, k, n) for n in range(1, words + 1)]
        return Turn(begin + f"count to {words}.", expects)

    async def call(self, between: float = 0.5) -> None:
        """Hold the call."""
        if not await self._come_back(time.monotonic()):
            return
        self.taken_up.clear()  # who has only just called was not away
        listening = asyncio.create_task(self._listen())
        try:
            for turn in self.turns:
                self.turn = turn
                asked = time.monotonic()
                await self._say(self.turn.says)
                while not self._is_over() and time.monotonic() < asked + WAITS and not self.lost:
                    self._told.clear()
                    try:
                        await asyncio.wait_for(self._told.wait(), 1)
                    except TimeoutError:
                        continue
                if self.turn.seconds is not None:
                    self.turn.seconds -= asked
                if self.lost:
                    return
                await asyncio.sleep(between)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            if self._socket is not None:
                await self._socket.close(1000)

    def _is_over(self) -> bool:
        return len(self.turn.words) >= len(self.turn.expects) or bool(self.turn.errors)

    async def _connect(self) -> None:
        socket = await websockets.connect(
            self.url,
            subprotocols=[websockets.Subprotocol(PROTOCOL)],
            open_timeout=5,
            max_size=None,
            compression=None,
        )
        asked = self._asked
        hello = {"type": "call", "id": self.id, "heard": self._reply, "ended": self._ended}
        hello |= {"asked": asked or None, "sent": self._sent, "note": self._note}
        await socket.send(json.dumps(hello))
        answer = json.loads(await asyncio.wait_for(socket.recv(), 5))
        if "error" in answer:
            await socket.wait_closed()
            if socket.close_code != TRY_AGAIN:
                self.lost = answer["error"]
            raise ConnectionError(answer["error"])
        self.id = answer["id"]
        self._socket = socket
        # From here on what is said goes into this line: was it said after the hello, and before?
        since = self._asked if self._asked != asked else ""
        if asked and not self.turn.heard:
            self._reply, self._ended = "", False  # an answer is due, and nothing else
        about = {"version": "2.2.0", "about": {"library": "tests"}}
        await self._send("client-ready", about)
        if since:
            await self._send("send-text", _text(since))

    async def _listen(self) -> None:
        while True:
            assert self._socket is not None
            last = await self._hear_all(self._socket)
            if not await self._come_back(last):
                return

    async def _hear_all(self, socket: ClientConnection) -> float:
        """Hear what comes until the line breaks; returns when the machine was last there."""
        self._last, self._came, gone = time.monotonic(), False, False
        asked = 0.0

        async def watch() -> None:
            nonlocal gone, asked
            while True:
                await asyncio.sleep(QUIET / 2)
                quiet = time.monotonic() - self._last
                if quiet > (self._patience if self._came else COMES):
                    gone = True
                    self._patience = min(2 * self._patience, COMES)
                    return socket.transport.abort()
                if quiet > QUIET and asked < self._last:
                    asked = time.monotonic()
                    with contextlib.suppress(websockets.ConnectionClosed):
                        await socket.send(BEAT)

        watching = asyncio.create_task(watch())
        with contextlib.suppress(websockets.ConnectionClosed):
            async for data in socket:
                self._last, self._came = time.monotonic(), True
                if isinstance(data, bytes):
                    self._hear(data)
                elif (said := json.loads(data)).get("type") == "ping":
                    self._note = said["note"]
                    await socket.send(json.dumps({"type": "pong", "id": said["id"]}))
                else:
                    self._signed(said)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return self._last if gone else time.monotonic()

    async def _come_back(self, broke: float) -> bool:
        begun = time.monotonic()
        for pause in itertools.chain(PAUSES, itertools.repeat(2.0)):
            if time.monotonic() - begun > GIVES_UP:
                break
            await asyncio.sleep(pause)
            try:
                await self._connect()
            except (OSError, TimeoutError, websockets.WebSocketException) as e:
                if self.lost:
                    break
                last = repr(e)
                continue
            self.taken_up.append(time.monotonic() - broke)
            return True
        self.lost = self.lost or f"not taken up in {GIVES_UP:.0f} s: {last}"
        self._told.set()
        return False

    def _signed(self, told: dict[str, Any]) -> None:
        if told["type"] == "call":
            turn = told["turn"]
            before = self._sent["words"] if self._sent and self._sent["turn"] == turn else ""
            self._sent = {"turn": turn, "words": before + told["sent"], "proof": told["proof"]}

    def _hear(self, data: Any) -> None:
        frame = protobufs.Frame.FromString(data)
        if frame.WhichOneof("frame") != "message":
            return
        message = json.loads(frame.message.data)
        match message.get("type"):
            case "user-input":  # the words have arrived: an answer is due
                self._reply, self._ended = "", False
            case "bot-llm-started":
                if self._ended:
                    self._reply = ""
                self._ended = False
            case "bot-llm-text":
                if self.turn.seconds is None:
                    self.turn.seconds = time.monotonic()
                self.turn.heard += message["data"]["text"]
                self._reply += message["data"]["text"]
            case "bot-llm-stopped":
                self._ended = bool(self._reply.strip())
            case "error":
                self.turn.errors.append(str(message["data"]))
        self._told.set()

    async def _say(self, text: str) -> None:
        self._asked = text
        with contextlib.suppress(websockets.ConnectionClosed):  # then the next hello tells it
            await self._send("send-text", _text(text))

    async def _send(self, kind: str, data: dict[str, Any]) -> None:
        assert self._socket is not None
        message = {"label": "rtvi-ai", "id": uuid.uuid4().hex, "type": kind, "data": data}
        frame = protobufs.Frame(message=protobufs.MessageFrame(data=json.dumps(message)))
        await self._socket.send(frame.SerializeToString())


def _text(words: str) -> dict[str, Any]:
    return {"content": words, "options": {"run_immediately": True, "audio_response": True}}


@dataclass
class Heard:
    """What a crowd of callers has heard, all together."""

    callers: list[Caller]
    booked: list[str] = field(default_factory=list)

    @property
    def lost(self) -> list[str]:
        """Calls that were not taken up."""
        return [f"{c.number}: {c.lost}" for c in self.callers if c.lost]

    @property
    def wrong(self) -> list[Turn]:
        """Turns in which a word was lost, or heard twice, or an error told."""
        return [t for c in self.callers if not c.lost for t in c.turns if not t.whole]

    @property
    def taken_up(self) -> list[float]:
        """Seconds that each call was away, for every break of a line."""
        return sorted(s for c in self.callers for s in c.taken_up)

    @property
    def first_words(self) -> list[float]:
        """Seconds to the first word of every turn."""
        return sorted(t.seconds for c in self.callers for t in c.turns if t.seconds is not None)
