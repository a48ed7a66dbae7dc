"""Faults on request: a layer over a running engine that breaks one reply of one call.

A call is named by the field `metadata.call` of its requests, so that a fault that one page asks for
meets no other page. A fault is asked for with `FaultLayer.inject`, meets the reply under way or the
next one, and reports what it did.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from mistral_service.local.pieces import Cut, Delta, Engine, Headers, Json, Piece, Refusal, Wait
from mistral_service.local.script import STALL_SECONDS, Reply
from mistral_service.wire.trees import object_of, objects_of

CUT_AFTER_WORDS = 5
"""Words of the next reply, where none is under way when a cut is asked for."""
FULL_S = 5.0
"""Seconds for which a model answers 429: a rate limit does not pass with one request."""
DOWN_S = 5.0
"""Seconds for which the whole endpoint is down."""

FULL = "Service tier capacity exceeded for this model."
REPLIES: Mapping[str, Sequence[Piece]] = {
    "hang": [Wait(STALL_SECONDS), Headers(), Cut()],
    "429": [Refusal.error(FULL, "service_tier_capacity_exceeded", "3505", status=429)],
    "503": [Refusal.error("Service unavailable.", "unreachable_backend", "1100", status=503)],
    "empty": Reply("").pieces(0),
}
"""What a request gets in place of its reply, by the kind of the fault."""

KINDS = ("cut", *REPLIES, "text-call", "down")
"""The faults there are."""

EXAMPLES: Mapping[str, Json] = {
    "weather": {"town": "Port Amber"},
    "set_timer": {"seconds": 10},
    "take_note": {"text": "buy milk"},
}
"""The functions that a call in the text may name, and with what: those of the demo's bot."""


class NotInjected(Exception):
    """A fault cannot be injected; the message says in one sentence why."""


@dataclass(eq=False)
class Injection:
    """One fault that was asked for.

    Parameters:
        kind: Which one, of `KINDS`.
        call: The call whose reply it meets.
        events: What it did, as it happens: `{"event": "waiting"}` where no reply is under way,
            `{"event": "struck", "words": 5}`, and `{"event": "request", "model": …}` for each
            request that follows; each with its time, `at`, on the machine's monotonic clock.
    """

    kind: str
    call: str
    events: asyncio.Queue[Json] = field(default_factory=asyncio.Queue[Json])
    struck_at: float | None = None
    model: str | None = None

    def strike(self, words: int = 0) -> None:
        """The fault happens now, after so many words of a reply."""
        self.struck_at = asyncio.get_running_loop().time()
        self.report("struck", words=words)

    def report(self, event: str, **fields: Any) -> None:
        """Report what happens now."""
        self.events.put_nowait({"event": event, "at": time.monotonic(), **fields})


class _Stream:
    """A reply under way, and the fault that cuts it."""

    def __init__(self, cut: Injection | None) -> None:
        self.cut = cut
        self.cut_after = CUT_AFTER_WORDS if cut else 0
        self.text = ""

    @property
    def words(self) -> int:
        return len(self.text.split())


class FaultLayer:
    """An engine that passes on what another engine answers, until a fault is asked for."""

    def __init__(self, engine: Engine) -> None:
        """Lie over the engine that answers as long as there is no fault."""
        self._engine = engine
        self._injections: list[Injection] = []
        self._streams: dict[str, list[_Stream]] = {}

    @property
    def waiting(self) -> bool:
        """Whether any fault is asked for."""
        return bool(self._injections)

    @contextmanager
    def inject(self, kind: str, call: str) -> Generator[Injection]:
        """Let a fault happen to a call, and report about it for the time of a `with` block.

        `down` is reported only: what serves the engine ends it.

        Raises:
            NotInjected: If the kind is unknown, or another fault waits for a reply of this call.
        """
        if kind not in KINDS:
            raise NotInjected(f"There is no fault {kind[:40]!r}: it is one of {', '.join(KINDS)}.")
        if any(one.call == call and one.struck_at is None for one in self._injections):
            raise NotInjected(
                "Another fault is waiting for the next reply: let the bot answer first."
            )
        injection = Injection(kind, call)
        self._injections.append(injection)
        running = self._streams.get(call, [])
        if kind == "down":
            injection.strike()
        elif kind == "cut" and running:
            running[-1].cut = injection
        else:
            injection.report("waiting")
        try:
            yield injection
        finally:
            self._injections.remove(injection)
            for stream in running:
                stream.cut = None if stream.cut is injection else stream.cut

    async def answer(self, request: Json) -> AsyncIterator[Piece]:
        """Answer, or let a fault happen."""
        call = call_of(request)
        for injection in self._injections:
            if injection.struck_at is not None and call in (injection.call, ""):
                injection.report("request", model=request.get("model"))
        injection = self._next(call, request)
        if injection is not None and injection.kind != "cut":
            if injection.struck_at is None:
                injection.model = request.get("model")
                injection.strike()
            for piece in REPLIES.get(injection.kind) or _call_as_text(request):
                yield piece
            return
        stream = _Stream(injection)
        self._streams.setdefault(call, []).append(stream)
        try:
            async with aclosing(_iterate(self._engine, request)) as pieces:
                async for piece in pieces:
                    # What is cut was not whole: a reply of few words is cut before its end.
                    if stream.cut and (
                        stream.words >= stream.cut_after or not isinstance(piece, Delta | Wait)
                    ):
                        stream.cut.strike(stream.words)
                        yield Cut()
                        return
                    yield piece
                    stream.text += text_of(piece)
        finally:
            self._streams[call].remove(stream)
            if not self._streams[call]:
                del self._streams[call]

    async def close(self) -> None:
        """Release what the engine holds."""
        await self._engine.close()

    def _next(self, call: str, request: Json) -> Injection | None:
        """The fault that a request meets."""
        now = asyncio.get_running_loop().time()
        for injection in self._injections:
            if injection.call != call:
                continue
            if injection.struck_at is None:
                return injection
            is_full = injection.kind == "429" and now < injection.struck_at + FULL_S
            if is_full and injection.model == request.get("model"):
                return injection
        return None


def call_of(request: Json) -> str:
    """The call to which a request belongs; empty where it names none."""
    name: Any = object_of(request.get("metadata")).get("call")
    return name if isinstance(name, str) else ""


def text_of(piece: Piece) -> str:
    """The words in a piece of a reply."""
    text: Any = piece.delta.get("content") if isinstance(piece, Delta) else ""
    return text if isinstance(text, str) else ""


def _call_as_text(request: Json) -> list[Piece]:
    """A call of a function that is offered, in the words of a model and not as a call."""
    offered = [object_of(tool.get("function")) for tool in objects_of(request.get("tools"))]
    names = [str(function.get("name")) for function in offered]
    name = next((name for name in EXAMPLES if name in names), (names or ["weather"])[0])
    call = {"name": name, "arguments": EXAMPLES.get(name, {})}
    return Reply(f"[TOOL_CALLS]{json.dumps([call])}").pieces(0)


async def _iterate(engine: Engine, request: Json) -> AsyncGenerator[Piece]:
    async for piece in engine.answer(request):
        yield piece
