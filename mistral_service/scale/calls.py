"""The calls of one process: how many there are, how each is held, and how each ends."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol, cast

from loguru import logger
from pipecat.runner.types import WebSocketRunnerArguments
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketState

from mistral_service.pipecat.tracebacks import log_exception
from mistral_service.scale import metrics
from mistral_service.scale.client_link import Line, Pings
from mistral_service.scale.limits import HELLO_LONGEST, MESSAGE_LONGEST, Meter, TooMuch
from mistral_service.scale.progress import Sent
from mistral_service.turn.ports import (
    ConversationRecorder,
    RateLimiter,
    SharedServices,
    shared_services,
)

Bot = Callable[[WebSocketRunnerArguments], Awaitable[None]]

HUNG_UP, UNKNOWN, FAILED, MOVED, FULL = 1000, 1008, 1011, 1012, 1013
"""Close codes of RFC 6455 and its registry, as this protocol uses them."""
NEVER_CLOSED = 1006
SEND_S = 10.0
"""Seconds that a client may take nothing of what it is sent; the line has broken then."""
LEAVING_S = 5.0
"""Seconds that a bot has to end once it is told to."""
BEAT = {"type": "beat"}
"""What a client sends to know whether the machine is still there, and is sent back."""
_BEAT_LONGEST, _STOP_LONGEST = 100, 400
"""Characters that a beat, and Twilio's message of a call's end, have at most; audio has more."""


class RecordedCall(ConversationRecorder, Protocol):
    """A conversation that is kept (`scale/recorder.py`)."""

    resumed: bool
    lost: asyncio.Event
    line: Line | None

    @property
    def asked(self) -> str | None:
        """The caller's last words that the conversation has."""
        ...

    async def close(self, *, over: bool) -> None:
        """End the keeping; `over` deletes what was kept."""
        ...


class CallRecorders(Protocol):
    """Who keeps conversations."""

    async def open(
        self,
        call_id: str | None,
        *,
        heard: str | None,
        ended: bool,
        asked: str | None,
        note: str | None,
        create: bool,
        sent: Sent | None = None,
    ) -> RecordedCall:
        """Keep a new conversation, or take one over.

        Raises:
            LookupError: If there is none to be taken over, and none to `create`.
            Unreadable: If what was kept cannot be read here.
        """
        ...


class CallSocket(WebSocket):
    """A WebSocket that remembers how its client left, and says goodbye no more than once.

    It bounds what its client sends (`Meter`), and how long its client may take nothing.

    Attributes:
        beats: Whether its client speaks our protocol: then a beat is answered here, and the bot
            does not see it.
        left: The close code with which the client went; None while it is there.
        stopped: Whether Twilio has said that the caller hung up.
        proof: What tells how far a reply was sent, signed; the client gets it before the words.
    """

    beats = False
    left: int | None = None
    stopped = False
    proof: Callable[[], str | None] | None = None
    _held = False
    _longest: int | None = None
    _reading: asyncio.Timeout | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take over a line, as Starlette's class does."""
        super().__init__(*arguments, **options)
        self._meter = Meter()
        self._again: list[Message] = []
        self._pings = Pings(self.send_text)

    def put_back(self, message: Message) -> None:
        """Have a message received once more, by the bot."""
        self._again.append(message)

    async def confirm(self, note: str, within: float) -> bool:
        """Have the client keep a note; one without our protocol does not."""
        if not self.beats or self._held or self.left is not None:
            return False
        return await self._pings.ping(note, within) and not self._held

    async def receive(self) -> Message:
        """The next message, as in Starlette; a line that fails is one that has broken."""
        message = self._again.pop(0) if self._again else await self._next()
        while self.beats and await self._answered(_read(message, _BEAT_LONGEST)):
            message = await self._next()
        return message

    async def _answered(self, said: object) -> bool:
        """Whether a message was one of the protocol's, which the bot does not see."""
        if said == BEAT:
            with contextlib.suppress(RuntimeError, OSError):  # gone in this very moment
                await self.send_text(json.dumps(BEAT))
            return True
        return self._pings.is_pong(said)

    async def send(self, message: Message) -> None:
        """Send, as in Starlette; a client that takes nothing has gone."""
        if self.proof and message.get("bytes") and (told := self.proof()):
            await self._write({"type": "websocket.send", "text": told})
        await self._write(message)

    async def _write(self, message: Message) -> None:
        if self.left == NEVER_CLOSED:
            return
        try:
            async with asyncio.timeout(SEND_S):
                await super().send(message)
        except TimeoutError:
            logger.warning(f"A caller took nothing for {SEND_S:g} s: the line is given up")
            self.left = NEVER_CLOSED
            self.client_state = WebSocketState.DISCONNECTED
            if self._reading is not None:
                self._reading.reschedule(asyncio.get_running_loop().time())

    async def _next(self) -> Message:
        message = await self._judged()
        while message is None:
            message = await self._judged()
        if message["type"] == "websocket.disconnect":
            self.left = message.get("code") or NEVER_CLOSED
        elif isinstance(told := _read(message, _STOP_LONGEST), dict):
            self.stopped = self.stopped or cast(Any, told).get("event") == "stop"
        return message

    async def _judged(self) -> Message | None:
        """The next message, when its time has come; None for one that the bot may not see."""
        message: Message
        try:
            async with asyncio.timeout(None) as self._reading:
                message = await super().receive()
        except Exception as e:
            if not isinstance(e, TimeoutError) and (self.left is not None or self._held):
                raise
            # Ray's proxy died with its machine: nobody is there who could say that the line broke.
            logger.debug(f"A line broke: {type(e).__name__}")
            self.client_state = WebSocketState.DISCONNECTED
            return {"type": "websocket.disconnect", "code": NEVER_CLOSED}
        finally:
            self._reading = None
        text = message.get("text")
        data = message.get("bytes") if text is None else text
        if data is None:
            return message
        longest = self._longest or (HELLO_LONGEST if self.beats else MESSAGE_LONGEST)
        self._longest = MESSAGE_LONGEST
        try:
            pause = self._meter.weigh(data, asyncio.get_running_loop().time(), longest)
        except TooMuch as e:
            logger.warning(f"A call ends: {e}")
            await self.end(e.code, str(e))
            self.client_state = WebSocketState.DISCONNECTED
            return {"type": "websocket.disconnect", "code": e.code}
        if pause:
            await asyncio.sleep(pause)
        return None if pause is None else message

    def hold(self) -> None:
        """Let nobody close it, or write to it, but `end`.

        A bot that is told to leave would say that all is over, and its serializer would hang up the
        telephone: a transport does neither on a line whose client has gone.
        """
        self._held = True
        self.client_state = WebSocketState.DISCONNECTED

    async def close(self, code: int = HUNG_UP, reason: str | None = None) -> None:
        """Close it, unless it is closed or held."""
        if not self._held:
            await self.end(code, reason)

    async def end(self, code: int, reason: str | None = None) -> None:
        """Close it, unless it is closed."""
        if self.left is None and self.application_state is not WebSocketState.DISCONNECTED:
            with contextlib.suppress(RuntimeError, OSError):  # gone in this very moment
                await super().close(code, reason)


def _read(message: Message, longest: int) -> object:
    """What a short text says, if it is JSON."""
    text = message.get("text")
    if text and len(text) <= longest:
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return None


class Full(Exception):
    """No further call is taken."""


class Calls:
    """The calls that one process holds.

    Attributes:
        limit: How many there may be.
        recorders: Who keeps the conversations, if anybody does.
        gate: Who may ask the model, if not everybody.
    """

    def __init__(
        self,
        bot: Bot,
        *,
        limit: int,
        recorders: CallRecorders | None = None,
        rate_limiter: RateLimiter | None = None,
    ) -> None:
        """Prepare for calls.

        Args:
            bot: Called for every call; returns when it has ended.
            limit: How many calls there may be at once.
            recorders: Who keeps the conversations; None keeps none.
            rate_limiter: The limiter of the account; None limits nothing.
        """
        self.limit = limit
        self.recorders = recorders
        self._bot = bot
        self.rate_limiter = rate_limiter
        self._held: dict[asyncio.Task[None], asyncio.Event] = {}
        self._coming = 0

    def __len__(self) -> int:
        return len(self._held)

    @contextlib.contextmanager
    def place(self) -> Generator[None]:
        """A place for a call that comes, until it is held: others may come in the meantime.

        Raises:
            Full: If there is none.
        """
        if len(self._held) + self._coming >= self.limit:
            raise Full
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    async def hold(
        self, socket: CallSocket, arguments: WebSocketRunnerArguments, recorder: RecordedCall | None
    ) -> None:
        """Hold one call, until either side ends it or it moves.

        It goes on in a task of its own: a server that cancels a request whose client has left must
        not cancel what is left to write down.

        Args:
            socket: The line to the caller.
            arguments: What the bot gets.
            recorder: Who keeps the conversation.
        """
        told = recorder.lost if recorder else asyncio.Event()
        away = asyncio.Event()
        task = asyncio.create_task(self._hold(socket, arguments, recorder, told, away))
        self._held[task] = away
        task.add_done_callback(self._held.pop)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if socket.application_state is not WebSocketState.DISCONNECTED:  # nobody has hung up
                socket.left = socket.left or NEVER_CLOSED
            # Most bots notice that their caller is gone; the others are told.
            asyncio.get_running_loop().call_later(LEAVING_S, away.set)
            raise

    async def move(self, within: float) -> None:
        """Send every call to other replicas, one after the other, and wait until they are gone.

        Args:
            within: Seconds over which they are spread: those who take them have others to serve.
        """
        calls = list(self._held.items())
        for _, away in calls:
            away.set()
            await asyncio.sleep(within / len(calls))
        if calls:
            await asyncio.wait([task for task, _ in calls], timeout=2 * LEAVING_S)

    async def _hold(
        self,
        socket: CallSocket,
        arguments: WebSocketRunnerArguments,
        recorder: RecordedCall | None,
        lost: asyncio.Event,
        away: asyncio.Event,
    ) -> None:
        if recorder:
            recorder.line = socket
        shared_services.set(
            SharedServices(self.rate_limiter, recorder)
        )  # this task's, and the bot's after it
        bot = asyncio.create_task(_run(self._bot, arguments))
        orders = [asyncio.create_task(event.wait()) for event in (lost, away)]
        await asyncio.wait([bot, *orders], return_when=asyncio.FIRST_COMPLETED)
        for order in orders:
            order.cancel()
        code, how = HUNG_UP, "bot"
        if not bot.done():
            socket.hold()
            bot.cancel()
            await asyncio.wait([bot], timeout=LEAVING_S)
            code, how = MOVED, "lost" if lost.is_set() else "moved"
        elif not bot.cancelled() and (error := bot.exception()):
            log_exception("The bot failed", error)
            code, how = FAILED, "failed"
        elif socket.stopped or socket.left == HUNG_UP:
            how = "caller"
        elif socket.left is not None:
            how = "broken"
        metrics.ENDED.record(how=how)
        if recorder:
            try:
                await recorder.close(over=how in ("bot", "caller"))
            except Exception as e:
                logger.warning(f"A call's end could not be written down: {e}")
        await socket.end(code, {FAILED: "the bot failed", MOVED: "moved"}.get(code))


async def _run(bot: Bot, arguments: WebSocketRunnerArguments) -> None:
    await bot(arguments)
