"""The two doors of a call: what a client of each says first, and how its call is opened.

An id of one door opens nothing at the other: what is kept of a call stands under its door too.
"""

import json
import secrets
import unicodedata
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Literal

from loguru import logger
from pipecat.runner.types import WebSocketRunnerArguments
from pipecat.runner.utils import parse_telephony_websocket
from pydantic import BaseModel, BeforeValidator, Field
from starlette.websockets import WebSocketDisconnect

from mistral_service.scale import metrics
from mistral_service.scale.calls import FULL, UNKNOWN, Calls, CallSocket, RecordedCall
from mistral_service.scale.function_notes import LONGEST_NOTE
from mistral_service.scale.progress import LONGEST, Sent, Words
from mistral_service.scale.resume import ASKED_LONGEST
from mistral_service.scale.sealing import Unreadable
from mistral_service.scale.snapshot import TooNew
from mistral_service.scale.twilio import NotTwilio, Orders, stream_of

# They are the close frame's reason too, which has no more than 123 bytes.
SENTENCES = {
    "full": "All lines are taken: call again in a moment.",
    "hello": (
        'The first message must be {"type": "call", "id", "heard", "asked": each null or a text, '
        '"ended": true or false}.'
    ),
    "unknown": "There is no such call any more: call anew, with the id null.",
    "unreadable": "What is kept of this call cannot be read: call anew, with the id null.",
    "newer": "A newer version keeps this call: call again in a moment, for a machine that has it.",
    "store": "What is kept of calls cannot be read now: call again in a moment.",
    "stranger": "This bot does not take your call.",
    "origin": "This bot does not take calls from pages of other sites.",
}

Take = Callable[[], Awaitable[None]]
"""Opens and holds a call whose client has said who it is."""


class Refusal(Exception):
    """A call is not taken; the message is the sentence for its client."""

    def __init__(self, why: str, code: int) -> None:
        """Say why.

        Args:
            why: A key of the sentences above.
            code: The close code.
        """
        super().__init__(SENTENCES[why])
        self.code = code
        metrics.REFUSED.record(why=why)


def _clean(value: Any) -> Any:
    """A text without what no person says: control characters, halves of surrogate pairs."""
    if not isinstance(value, str):
        return value
    return "".join(c for c in value if c.isspace() or unicodedata.category(c) not in ("Cc", "Cs"))


class Hello(BaseModel):
    """What a client says first."""

    type: Literal["call"]
    id: str | None = Field(default=None, max_length=200, pattern="^[^:]*$")
    heard: Words | None = Field(default=None, max_length=LONGEST)
    ended: bool = False
    asked: Annotated[str | None, BeforeValidator(_clean)] = Field(
        default=None, max_length=ASKED_LONGEST
    )
    sent: Sent | None = None
    note: str | None = Field(default=None, max_length=LONGEST_NOTE)


class Browser:
    """Takes calls of our protocol, and those of Pipecat's own clients."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def listens(self, socket: CallSocket) -> Take:
        """Hear who calls; returns what holds the call.

        Raises:
            Full: If there is no room for a call that has nothing to say first.
            Refusal: If it says something else than a client does.
        """
        if socket.beats:
            return partial(self._take, socket, await _hello(socket))
        with self._calls.place():
            pass
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        socket.put_back(message)
        return partial(self._take_stock, socket)

    async def _take_stock(self, socket: CallSocket) -> None:
        with self._calls.place():
            recorder = await _open(self._calls, None, Hello(type="call"))
        await _hold(self._calls, socket, "call", recorder, None)

    async def _take(self, socket: CallSocket, hello: Hello) -> None:
        with self._calls.place():
            recorder = await _open(self._calls, hello.id, hello)
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
        # A recorder of another kind may sign nothing.
        socket.proof = getattr(recorder, "progress", None)
        await _hold(self._calls, socket, "call", recorder, call_id, hello.heard)


async def _hello(socket: CallSocket) -> Hello:
    try:
        return Hello.model_validate(json.loads(await socket.receive_text()))
    except (ValueError, KeyError, RecursionError):  # a binary message has no text
        raise Refusal("hello", UNKNOWN) from None


class Twilio:
    """Takes the sound of telephone calls."""

    def __init__(self, calls: Calls, orders: Orders) -> None:
        self._calls = calls
        self._orders = orders

    async def listens(self, socket: CallSocket) -> Take:
        """Hear which call it is; returns what holds it.

        Raises:
            NotTwilio: If it is no stream of Twilio's, or has not the call's token.
        """
        said: list[str] = []
        found = None
        while found is None:
            if len(said) == 2:  # "connected", and then "start"
                raise NotTwilio("A stream of Twilio's starts with its second message.")
            try:
                said.append(await socket.receive_text())
            except KeyError:
                raise NotTwilio("A stream of Twilio's has no binary messages.") from None
            found = stream_of(said[-1])
        start, token, said[-1] = found
        call_id, name = self._orders.call_of(start, token)
        for text in said:
            socket.put_back({"type": "websocket.receive", "text": text})
        try:
            await parse_telephony_websocket(socket)  # it remembers what the bot will ask it
        except (ValueError, TypeError, AttributeError) as e:
            raise NotTwilio("The stream's start is none of Twilio's.") from e
        return partial(self._take, socket, call_id, name)

    async def _take(self, socket: CallSocket, call_id: str, name: str) -> None:
        # Whether it is a new call only the store knows: Twilio calls again with the same id.
        with self._calls.place():
            recorder = await _open(self._calls, name, Hello(type="call"), create=True)
        await _hold(self._calls, socket, None, recorder, call_id)


async def _open(
    calls: Calls, call_id: str | None, hello: Hello, *, create: bool = False
) -> RecordedCall | None:
    """The recorder of the call.

    Args:
        calls: The calls.
        call_id: Its id; None for a new one.
        hello: What its client said.
        create: Whether an unknown call of this id is a new one.

    Raises:
        Refusal: If it is not taken.
    """
    if calls.recorders is None:
        if call_id and not create:
            raise Refusal("unknown", UNKNOWN)
        return None
    told: dict[str, Any] = {"heard": hello.heard, "ended": hello.ended, "asked": hello.asked}
    if hello.sent:
        told["sent"] = hello.sent
    if hello.note:
        told["note"] = hello.note
    try:
        return await calls.recorders.open(call_id, create=create, **told)
    except LookupError:  # UnknownCall
        raise Refusal("unknown", UNKNOWN) from None
    except TooNew:
        raise Refusal("newer", FULL) from None
    except Unreadable as e:
        logger.warning(f"A call is not taken over: {e}")
        raise Refusal("unreadable", UNKNOWN) from None
    except Exception as e:
        logger.warning(f"A call could not be opened: {e}")
        raise Refusal("store", FULL) from e


async def _hold(
    calls: Calls,
    socket: CallSocket,
    way: Literal["call"] | None,
    recorder: RecordedCall | None,
    call_id: str | None,
    heard: str | None = None,
) -> None:
    metrics.STARTED.record(way=way or "twilio")
    resumed = False
    if recorder and recorder.resumed:
        metrics.TAKEN_OVER.record()
        # What broke before there was a word is begun anew: the bot has to greet.
        resumed = recorder.is_pending or heard is not None
    lost = {"lost": True} if getattr(recorder, "begun_anew", False) else {}
    arguments = WebSocketRunnerArguments(
        websocket=socket,
        transport_type="websocket" if way else None,
        body={"call": {"id": call_id, "resumed": resumed, **lost}},
    )
    await calls.hold(socket, arguments, recorder)
