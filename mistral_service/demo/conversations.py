"""The calls of the demo: one bot for every browser that is there, and no more than a few.

An offer costs its sender nothing, and here it costs sockets, a bot and its models. So there are
only so many calls at a time, one whose browser does not connect ends, and so does one whose browser
has left. Pipecat's `SmallWebRTCRequestHandler` has no such bounds, and keeps what it restarts.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aioice import ice
from aiortc.sdp import candidate_from_sdp
from loguru import logger
from pipecat.runner.types import SmallWebRTCRunnerArguments
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.request_handler import IceCandidate, SmallWebRTCRequest

from mistral_service.demo.secrets import without_secrets
from mistral_service.pipecat.tracebacks import traceback_of

MOST_CALLS = 8
"""Calls at a time, those included that are not connected yet: more than a laptop's models bear."""
CONNECT_S = 20.0
"""Seconds without a connection after which a call ends. The page gives up after 15."""
CLOSE_TIMEOUT_S = 2.0
"""Seconds that a bot has to end by itself once its connection is closed."""
LAST_WORDS_S = 5.0
"""Seconds that a page has to hear that its bot has failed."""
MOST_OFFERS = 50
"""Offers for one call: the first, and one each time that the browser changes what it sends."""
MOST_CANDIDATES = 200
"""Network addresses that the browser of one call may name. It has some ten."""
MOST_MEDIA = 8
"""Media of an offer: the microphone, the camera, a screen and the data channel are four."""

_LOOK_S = 0.5

Bot = Callable[[SmallWebRTCRunnerArguments], Awaitable[None]]
"""Called once for every connection; returns when the conversation has ended."""


class Refused(Exception):
    """A call, an offer or a candidate is not taken; the message is the sentence for its sender.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(eq=False)
class _Call:
    connection: SmallWebRTCConnection
    offers: int = 1
    candidates: int = 0


class Conversations:
    """The calls that are held, by their connections."""

    def __init__(
        self, bot: Bot, *, most_calls: int = MOST_CALLS, connect_s: float = CONNECT_S
    ) -> None:
        self._bot = bot
        self._most_calls = most_calls
        self._connect_s = connect_s
        self._calls: dict[_Call, asyncio.Task[None]] = {}
        self._answering = 0

    def __len__(self) -> int:
        return len(self._calls)

    async def offer(self, request: SmallWebRTCRequest) -> dict[str, str]:
        """Answer an offer, of a new call or within the one that `pc_id` names.

        Raises:
            Refused: If all lines are taken (503), the offer cannot be read (400), or the call has
                made too many (429).
        """
        _check(request)
        if call := self._find(request.pc_id):
            call.offers += 1
            if call.offers > MOST_OFFERS:
                raise Refused(429, f"A call makes {MOST_OFFERS} offers at most: call anew.")
            await _read(
                call.connection.renegotiate(
                    sdp=request.sdp, type=request.type, restart_pc=request.restart_pc or False
                )
            )
            return _answer(call.connection)

        if len(self._calls) + self._answering >= self._most_calls:
            raise Refused(
                503, f"All {self._most_calls} lines are taken: end a call, or call again later."
            )
        self._answering += 1
        try:
            connection = SmallWebRTCConnection()
            try:
                await _read(connection.initialize(sdp=request.sdp, type=request.type))
                answer = _answer(connection)
            except BaseException:
                await connection.disconnect()
                raise
            call = _Call(connection)
            self._calls[call] = asyncio.create_task(self._hold(call))
        finally:
            self._answering -= 1
        return answer

    async def candidates(self, pc_id: str, candidates: list[IceCandidate]) -> None:
        """Take the network addresses that the browser of a call has found.

        Raises:
            Refused: If there is no such call (404), one cannot be read (400), or it has too many.
        """
        call = self._find(pc_id)
        if call is None:
            raise Refused(404, "There is no such call: it has ended, or never began.")
        call.candidates += len(candidates)
        if call.candidates > MOST_CANDIDATES:
            raise Refused(429, f"A call has {MOST_CANDIDATES} candidates at most: call anew.")
        for each in candidates:
            await _read(_add(call.connection, each))

    async def close(self) -> None:
        """End every call."""
        tasks = list(self._calls.values())
        await asyncio.gather(*(call.connection.disconnect() for call in list(self._calls)))
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _find(self, pc_id: str | None) -> _Call | None:
        # By the id of now: a restart gives the connection another.
        return next((call for call in self._calls if call.connection.pc_id == pc_id), None)

    async def _hold(self, call: _Call) -> None:
        """Run the bot until it ends, or for as long as its browser is there."""
        talking = asyncio.create_task(self._talk(call.connection))
        try:
            await self._gone(call.connection, talking)
            if not talking.done():
                await call.connection.disconnect()
                await asyncio.wait({talking}, timeout=CLOSE_TIMEOUT_S)
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)
            self._calls.pop(call, None)
            await call.connection.disconnect()

    async def _gone(self, connection: SmallWebRTCConnection, talking: asyncio.Task[None]) -> None:
        """Return once the browser has been away for too long, or the bot has ended."""
        loop = asyncio.get_running_loop()
        there = opened = loop.time()
        while not talking.done():
            now, state = loop.time(), connection.pc.connectionState
            there = now if state == "connected" else there
            opened = now if state != "closed" else opened  # a restart closes it for a moment
            if now - there >= self._connect_s or now - opened >= CLOSE_TIMEOUT_S:
                return
            await asyncio.wait({talking}, timeout=_LOOK_S)

    async def _talk(self, connection: SmallWebRTCConnection) -> None:
        try:
            await self._bot(SmallWebRTCRunnerArguments(webrtc_connection=connection))
        except Exception as e:
            logger.debug("{}", without_secrets(traceback_of(e)))
            logger.error(said := without_secrets(f"The bot ended: {e}"))
            connection.send_app_message(
                {"label": "rtvi-ai", "type": "error", "data": {"error": said, "fatal": True}}
            )
            await asyncio.sleep(LAST_WORDS_S)  # the page hears it, and hangs up


def offer_loopback_when_alone() -> None:
    """Let WebRTC connect over 127.0.0.1 when no other interface is up.

    aioice never offers the loopback address, so an aeroplane or an isolated container would be
    left without a single candidate. Where another address exists, nothing changes.
    """
    original = ice.get_host_addresses
    ice.get_host_addresses = lambda use_ipv4, use_ipv6: (
        original(use_ipv4=use_ipv4, use_ipv6=use_ipv6) or ["127.0.0.1"]
    )


def _check(request: SmallWebRTCRequest) -> None:
    lines = request.sdp.splitlines()
    media = sum(line.startswith("m=") for line in lines)
    candidates = sum(line.startswith("a=candidate") for line in lines)
    if request.type != "offer" or not 0 < media <= MOST_MEDIA or candidates > MOST_CANDIDATES:
        raise Refused(
            400,
            f"An offer has the type offer, 1 to {MOST_MEDIA} media and {MOST_CANDIDATES} "
            "candidates at most.",
        )


async def _read(doing: Awaitable[None]) -> None:
    """Let aiortc read what came from outside: whatever it raises, the sender is to blame."""
    try:
        await doing
    except Exception as e:
        raise Refused(400, f"The offer cannot be read ({type(e).__name__}).") from e


async def _add(connection: SmallWebRTCConnection, each: IceCandidate) -> None:
    # An empty one is the end of the candidates (RFC 8840), which aiortc takes as None.
    candidate = candidate_from_sdp(each.candidate) if each.candidate else None
    if candidate is not None:
        candidate.sdpMid, candidate.sdpMLineIndex = each.sdp_mid, each.sdp_mline_index
    await connection.add_ice_candidate(candidate)  # pyright: ignore[reportUnknownMemberType]


def _answer(connection: SmallWebRTCConnection) -> dict[str, str]:
    answer = connection.get_answer()
    if answer is None:
        raise Refused(400, "The offer has no answer.")
    return answer
