"""The calls of one process: how many there are, how each runs, and how each ends."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Awaitable, Callable, Generator
from typing import Any, cast

from loguru import logger
from pipecat.runner.types import WebSocketRunnerArguments
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketState

from mistral_service.pipecat.tracebacks import log_exception
from mistral_service.scale import metrics
from mistral_service.scale.limits import (
    MAX_FIRST_MESSAGE,
    MAX_MESSAGE,
    Full,
    LimitExceeded,
    MessageLimiter,
)
from mistral_service.scale.recorder import CallRecorder
from mistral_service.scale.recorders import CallRecorders
from mistral_service.turn.shared_services import RateLimiter, SharedServices, shared_services

Bot = Callable[[WebSocketRunnerArguments], Awaitable[None]]

NORMAL, REFUSED, FAILED, MOVED, TRY_LATER = 1000, 1008, 1011, 1012, 1013
"""Close codes of RFC 6455 and its registry, as this protocol uses them."""
ABNORMAL = 1006
"""The code of a connection that broke without a close frame."""
SEND_TIMEOUT_S = 10.0
"""Seconds without receiving after which a client's connection counts as broken."""
CANCEL_TIMEOUT_S = 5.0
"""Seconds that a bot has to end after it is cancelled."""
BEAT = {"type": "beat"}
"""A client's question whether the machine is alive; it is sent back."""
_MAX_BEAT, _MAX_STOP = 100, 400
"""Characters of a beat, and of Twilio's `stop`; audio messages are longer."""


class CallSocket(WebSocket):
    """The WebSocket of a call, which limits its client and closes once.

    It limits what the client sends (`MessageLimiter`), and how long the client may not receive.

    Attributes:
        speaks_protocol: Whether the client speaks our protocol: a beat is answered here then, and
            the bot does not get it.
        client_code: The close code with which the client has left; None while it is connected.
        has_hung_up: Whether Twilio has reported that the caller hung up.
        progress: Returns the message about the words that are sent next; see `CallRecorder`.
    """

    speaks_protocol = False
    client_code: int | None = None
    has_hung_up = False
    progress: Callable[[], str | None] | None = None
    _is_detached = False
    _max_next: int | None = None
    _receiving: asyncio.Timeout | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Make it from an ASGI connection, as Starlette's class."""
        super().__init__(*arguments, **options)
        self._limiter = MessageLimiter()
        self._returned: list[Message] = []
        self._pongs: dict[str, asyncio.Future[None]] = {}

    def put_back(self, message: Message) -> None:
        """Have the bot receive a message that was received already."""
        self._returned.append(message)

    async def store_note(self, note: str, within: float) -> bool:
        """Have the client store a note, see `ClientLink`; one without our protocol does not."""
        if not self.speaks_protocol or self._is_detached or self.client_code is not None:
            return False
        ping = secrets.token_hex(8)
        pong = self._pongs[ping] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(within):
                await self.send_text(json.dumps({"type": "ping", "id": ping, "note": note}))
                await pong
        except (TimeoutError, RuntimeError, OSError):  # no answer, or the connection is closed
            return False
        finally:
            del self._pongs[ping]
        return not self._is_detached

    async def receive(self) -> Message:
        """The next message, as in Starlette; a failure becomes a disconnect."""
        message = self._returned.pop(0) if self._returned else await self._next()
        while self.speaks_protocol and await self._is_answered(_parse(message, _MAX_BEAT)):
            message = await self._next()
        return message

    async def _is_answered(self, message: object) -> bool:
        """Answer a beat, or receive a pong; returns whether the message is one of them."""
        if message == BEAT:
            with contextlib.suppress(RuntimeError, OSError):  # the client has just left
                await self.send_text(json.dumps(BEAT))
            return True
        fields = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
        if fields.get("type") != "pong":
            return False
        pong = self._pongs.get(str(fields.get("id")))
        if pong is not None and not pong.done():  # else it is late or made up
            pong.set_result(None)
        return True

    async def send(self, message: Message) -> None:
        """Send, as in Starlette; a client that does not receive has left."""
        if self.progress and message.get("bytes") and (text := self.progress()):
            await self._write({"type": "websocket.send", "text": text})
        await self._write(message)

    async def _write(self, message: Message) -> None:
        if self.client_code == ABNORMAL:
            return
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await super().send(message)
        except TimeoutError:
            logger.warning(f"A client received nothing for {SEND_TIMEOUT_S:g} s: its call breaks")
            self.client_code = ABNORMAL
            self.client_state = WebSocketState.DISCONNECTED
            if self._receiving is not None:
                self._receiving.reschedule(asyncio.get_running_loop().time())

    async def _next(self) -> Message:
        while (message := await self._receive_checked()) is None:
            pass
        if message["type"] == "websocket.disconnect":
            self.client_code = message.get("code") or ABNORMAL
        elif isinstance(fields := _parse(message, _MAX_STOP), dict):
            self.has_hung_up = self.has_hung_up or cast(Any, fields).get("event") == "stop"
        return message

    async def _receive_checked(self) -> Message | None:
        """The next message within the rate limits; None for one that is dropped."""
        message: Message
        try:
            async with asyncio.timeout(None) as self._receiving:
                message = await super().receive()
        except Exception as e:
            is_closed = self.client_code is not None or self._is_detached
            if not isinstance(e, TimeoutError) and is_closed:
                raise
            # Ray's proxy has died with its machine, so that no disconnect message comes.
            logger.debug(f"A connection broke: {type(e).__name__}")
            self.client_state = WebSocketState.DISCONNECTED
            return {"type": "websocket.disconnect", "code": ABNORMAL}
        finally:
            self._receiving = None
        text = message.get("text")
        data = message.get("bytes") if text is None else text
        if data is None:
            return message
        longest = self._max_next or (MAX_FIRST_MESSAGE if self.speaks_protocol else MAX_MESSAGE)
        self._max_next = MAX_MESSAGE
        try:
            pause = self._limiter.check(data, asyncio.get_running_loop().time(), longest)
        except LimitExceeded as e:
            logger.warning(f"A call ends: {e}")
            await self.end(e.code, str(e))
            self.client_state = WebSocketState.DISCONNECTED
            return {"type": "websocket.disconnect", "code": e.code}
        if pause:
            await asyncio.sleep(pause)
        return None if pause is None else message

    def detach(self) -> None:
        """Keep the bot from writing to it or closing it; `end` still closes it.

        The transport of a cancelled bot would report the end of the call to the client, and its
        serializer would hang up the telephone: it does neither once its client has left.
        """
        self._is_detached = True
        self.client_state = WebSocketState.DISCONNECTED

    async def close(self, code: int = NORMAL, reason: str | None = None) -> None:
        """Close it, unless it is closed or detached."""
        if not self._is_detached:
            await self.end(code, reason)

    async def end(self, code: int, reason: str | None = None) -> None:
        """Close it, unless it is closed."""
        is_open = self.application_state is not WebSocketState.DISCONNECTED
        if self.client_code is None and is_open:
            with contextlib.suppress(RuntimeError, OSError):  # the client has just left
                await super().close(code, reason)


def _parse(message: Message, longest: int) -> object:
    """The JSON of a short text message; None for any other."""
    text = message.get("text")
    if text and len(text) <= longest:
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return None


class Calls:
    """The calls of one process.

    Attributes:
        limit: How many there may be.
        recorders: Makes the recorders of calls; None records none.
        rate_limiter: The limiter of the account; None limits nothing.
    """

    def __init__(
        self,
        bot: Bot,
        *,
        limit: int,
        recorders: CallRecorders | None = None,
        rate_limiter: RateLimiter | None = None,
    ) -> None:
        """Make it; `bot` is called for every call, and returns when the call has ended."""
        self.limit = limit
        self.recorders = recorders
        self.rate_limiter = rate_limiter
        self._bot = bot
        self._running: dict[asyncio.Task[None], asyncio.Event] = {}
        self._reserved = 0

    def __len__(self) -> int:
        return len(self._running)

    @property
    def free(self) -> int:
        """How many more there may be."""
        return self.limit - len(self._running) - self._reserved

    @contextlib.contextmanager
    def reserve(self) -> Generator[None]:
        """Reserve capacity for a call until it runs.

        Raises:
            Full: If there is none.
        """
        if self.free <= 0:
            raise Full
        self._reserved += 1
        try:
            yield
        finally:
            self._reserved -= 1

    async def run(
        self, socket: CallSocket, arguments: WebSocketRunnerArguments, recorder: CallRecorder | None
    ) -> None:
        """Run one call, until either side ends it or it moves.

        The call has a task of its own: a server that cancels the request of a client that has left
        must not cancel the last write of the record.
        """
        move = asyncio.Event()
        task = asyncio.create_task(self._run(socket, arguments, recorder, move))
        self._running[task] = move
        task.add_done_callback(self._running.pop)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if socket.application_state is not WebSocketState.DISCONNECTED:
                socket.client_code = socket.client_code or ABNORMAL
            # Most bots notice that their client has left; the others are cancelled.
            asyncio.get_running_loop().call_later(CANCEL_TIMEOUT_S, move.set)
            raise

    async def move(self, within: float) -> None:
        """Send every call to other replicas, and wait until they are gone.

        They are spread over some seconds, so as not to overload those replicas.
        """
        calls = list(self._running.items())
        for _, move in calls:
            move.set()
            await asyncio.sleep(within / len(calls))
        if calls:
            await asyncio.wait([task for task, _ in calls], timeout=2 * CANCEL_TIMEOUT_S)

    async def _run(
        self,
        socket: CallSocket,
        arguments: WebSocketRunnerArguments,
        recorder: CallRecorder | None,
        move: asyncio.Event,
    ) -> None:
        lost = asyncio.Event()
        if recorder:
            lost, recorder.client = recorder.ownership_lost, socket
        # For this task, and for the bot's, which copies the context.
        shared_services.set(SharedServices(self.rate_limiter, recorder))
        bot = asyncio.create_task(_run_bot(self._bot, arguments))
        events = [asyncio.create_task(event.wait()) for event in (lost, move)]
        await asyncio.wait([bot, *events], return_when=asyncio.FIRST_COMPLETED)
        for event in events:
            event.cancel()
        code, how = NORMAL, "bot"
        if not bot.done():
            socket.detach()
            bot.cancel()
            await asyncio.wait([bot], timeout=CANCEL_TIMEOUT_S)
            code, how = MOVED, "lost" if lost.is_set() else "moved"
        elif not bot.cancelled() and (error := bot.exception()):
            log_exception("The bot failed", error)
            code, how = FAILED, "failed"
        elif socket.has_hung_up or socket.client_code == NORMAL:
            how = "caller"
        elif socket.client_code is not None:
            how = "broken"
        metrics.ENDED.record(how=how)
        if recorder:
            try:
                await recorder.close(over=how in ("bot", "caller"))
            except Exception as e:
                logger.warning(f"The end of a call could not be recorded: {e}")
        await socket.end(code, {FAILED: "the bot failed", MOVED: "moved"}.get(code))


async def _run_bot(bot: Bot, arguments: WebSocketRunnerArguments) -> None:
    await bot(arguments)
