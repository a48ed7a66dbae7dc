"""The handshakes of the WebSocket endpoints: the first message, and how the call is opened.

An id of one endpoint is unknown at the other: the name of a record contains the endpoint.
"""

import json
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

from loguru import logger
from pipecat.runner.types import WebSocketRunnerArguments
from pipecat.runner.utils import parse_telephony_websocket
from pydantic import Field
from starlette.websockets import WebSocketDisconnect

from mistral_service.scale import metrics
from mistral_service.scale.calls import REFUSED, TRY_LATER, Calls, CallSocket
from mistral_service.scale.client_report import NO_REPORT, ClientReport
from mistral_service.scale.recorder import CallRecorder
from mistral_service.scale.sealing import Unreadable
from mistral_service.scale.snapshot import TooNew
from mistral_service.scale.twilio import NotTwilio, TwimlWebhook, parse_start

# They are the close frame's reason too, which has at most 123 bytes.
SENTENCES = {
    "full": "All lines are taken: call again in a moment.",
    "hello": (
        'The first message must be {"type": "call", "id", "heard", "asked": each null or a text, '
        '"ended": true or false}.'
    ),
    "unknown": "There is no such call any more: call again with the id null.",
    "unreadable": "The record of this call cannot be read: call again with the id null.",
    "newer": "A newer version has recorded this call: call again in a moment.",
    "store": "Records of calls cannot be read now: call again in a moment.",
    "stranger": "This bot does not take your call.",
    "origin": "This bot does not take calls from pages of other sites.",
}

RunCall = Callable[[], Awaitable[None]]
"""Opens and runs a call after its handshake."""


class Refusal(Exception):
    """A call is refused; the message is the sentence for its client."""

    def __init__(self, why: str) -> None:
        """Make it for a key of the sentences above, and count it."""
        super().__init__(SENTENCES[why])
        self.code = TRY_LATER if why in ("full", "newer", "store") else REFUSED
        metrics.REFUSED.record(why=why)


class FirstMessage(ClientReport):
    """The first message of a client."""

    type: Literal["call"]
    id: str | None = Field(default=None, max_length=200, pattern="^[^:]*$")


class BrowserHandshake:
    """Takes calls of our protocol, and those of Pipecat's own clients."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def receive(self, socket: CallSocket) -> RunCall:
        """Receive the first message; returns what runs the call.

        Raises:
            Full: If the process is full, for a client without our protocol.
            Refusal: If the message is not valid.
        """
        if socket.speaks_protocol:
            try:
                first = FirstMessage.model_validate(json.loads(await socket.receive_text()))
            except (ValueError, KeyError, RecursionError):  # a binary message has no text
                raise Refusal("hello") from None
            return partial(self._run, socket, first)
        with self._calls.reserve():
            pass
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        socket.put_back(message)
        return partial(self._run_without_protocol, socket)

    async def _run_without_protocol(self, socket: CallSocket) -> None:
        with self._calls.reserve():
            recorder = await _open(self._calls, None, NO_REPORT)
        await _run(self._calls, socket, "call", recorder, None)

    async def _run(self, socket: CallSocket, first: FirstMessage) -> None:
        with self._calls.reserve():
            recorder = await _open(self._calls, first.id, first)
            call_id = recorder.id if recorder else secrets.token_urlsafe(24)
            resumed = bool(recorder and recorder.resumed)
            try:
                answer: dict[str, Any] = {"type": "call", "id": call_id, "resumed": resumed}
                if resumed and recorder:
                    answer["asked"] = recorder.asked
                await socket.send_text(json.dumps(answer))
            except BaseException:
                if recorder:
                    await recorder.close(over=False)
                raise
        socket.progress = recorder.progress if recorder else None
        await _run(self._calls, socket, "call", recorder, call_id, first.heard)


class TwilioHandshake:
    """Takes media streams of Twilio."""

    def __init__(self, calls: Calls, webhook: TwimlWebhook) -> None:
        self._calls = calls
        self._webhook = webhook

    async def receive(self, socket: CallSocket) -> RunCall:
        """Receive the stream's start; returns what runs the call.

        Raises:
            NotTwilio: If it is not a stream of Twilio's, or lacks the call's token.
        """
        texts: list[str] = []
        found = None
        while found is None:
            if len(texts) == 2:  # "connected", and then "start"
                raise NotTwilio("A stream of Twilio's starts with its second message.")
            try:
                texts.append(await socket.receive_text())
            except KeyError:
                raise NotTwilio("A stream of Twilio's has no binary messages.") from None
            found = parse_start(texts[-1])
        start, token, texts[-1] = found
        call_id, name = self._webhook.verify(start, token)
        for text in texts:
            socket.put_back({"type": "websocket.receive", "text": text})
        try:
            await parse_telephony_websocket(socket)  # the socket caches it for the bot
        except (ValueError, TypeError, AttributeError) as e:
            raise NotTwilio("The stream's start is not valid.") from e
        return partial(self._run, socket, call_id, name)

    async def _run(self, socket: CallSocket, call_id: str, name: str) -> None:
        # Twilio calls again with the same id: only the store knows whether the call is new.
        with self._calls.reserve():
            recorder = await _open(self._calls, name, NO_REPORT, create=True)
        await _run(self._calls, socket, None, recorder, call_id)


async def _open(
    calls: Calls, call_id: str | None, report: ClientReport, *, create: bool = False
) -> CallRecorder | None:
    """Open a call's recorder as `CallRecorders.open` does, or refuse the call."""
    if calls.recorders is None:
        if call_id and not create:
            raise Refusal("unknown")
        return None
    try:
        return await calls.recorders.open(call_id, report, create=create)
    except LookupError:  # UnknownCall
        raise Refusal("unknown") from None
    except TooNew:
        raise Refusal("newer") from None
    except Unreadable as e:
        logger.warning(f"A call is not taken over: {e}")
        raise Refusal("unreadable") from None
    except Exception as e:
        logger.warning(f"A call could not be opened: {e}")
        raise Refusal("store") from e


async def _run(
    calls: Calls,
    socket: CallSocket,
    way: Literal["call"] | None,
    recorder: CallRecorder | None,
    call_id: str | None,
    heard: str | None = None,
) -> None:
    metrics.STARTED.record(way=way or "twilio")
    resumed = False
    if recorder and recorder.resumed:
        metrics.TAKEN_OVER.record()
        # A call that broke before its first word begins again: the bot has to greet.
        resumed = recorder.is_pending or heard is not None
    lost = {"lost": True} if recorder and recorder.history_lost else {}
    arguments = WebSocketRunnerArguments(
        websocket=socket,
        transport_type="websocket" if way else None,
        body={"call": {"id": call_id, "resumed": resumed, **lost}},
    )
    await calls.run(socket, arguments, recorder)
