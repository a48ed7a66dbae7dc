"""One attempt: a request, or two of which the first to speak wins, held to its deadlines."""

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from loguru import logger

from mistral_service.conversation.conversion import Conversion
from mistral_service.pipecat.needs import needs_of
from mistral_service.pipecat.ports import TurnPorts
from mistral_service.pipecat.tracing import trace_fault
from mistral_service.pipecat.turn_state import AttemptResult, TurnState
from mistral_service.reply.events import Event, Finish, Text, Thought, ToolCall, Unreadable
from mistral_service.reply.overlap import Overlap
from mistral_service.reply.prefix import RepeatedPrefix
from mistral_service.reply.reader import ReplyReader
from mistral_service.reply.speech import has_words
from mistral_service.reply.templates import TEMPLATES
from mistral_service.settings import given
from mistral_service.turn.deadline import Deadline, now
from mistral_service.turn.hedge import Pace
from mistral_service.turn.ports import Rank, RequestEstimate
from mistral_service.turn.prices import cost_of
from mistral_service.turn.race import Request, Stream, first_to_speak
from mistral_service.turn.retries import Handled
from mistral_service.wire.client import error_of, place_of
from mistral_service.wire.endpoint import endpoint_of
from mistral_service.wire.errors import MAX_NAME, MistralError, Reason, printable
from mistral_service.wire.rate import RateBudget
from mistral_service.wire.servers import Server

# How much longer a stream may pause where functions are offered: a call of some hundred tokens
# takes Mistral's models two or three seconds to write.
_CALLS_TAKE_LONGER = 3

_SENT_ID = re.compile('"([a-zA-Z0-9]{9})"')


class Attempt:
    """Sends a request, and writes what comes as it comes.

    Attributes:
        pace: How fast the service has been answered lately.
    """

    def __init__(self, ports: TurnPorts) -> None:
        """Make attempts for one service.

        Args:
            ports: What its turns are given.
        """
        self._ports = ports
        self._router = ports.router
        self._frames = ports.frames
        self._admission = ports.admission
        self.pace = Pace()

    async def make(self, turn: TurnState) -> AttemptResult:
        """Make one attempt.

        Raises:
            MistralError: If no first output comes in time, or no further one, or the reply ends
                with an error; and whatever the client raises.
        """
        limits = turn.attempts.limits
        others = self._router.has_other(turn.route, needs_of(turn.context))
        waited = turn.attempts.first_token_within(now(), others=others)
        deadline = Deadline(now() + waited)
        request: Request[Conversion] | None = None
        try:
            with deadline:
                request = await self._first_to_speak(turn)
                deadline.until = None
                conversion, reader = request.note or Conversion(), request.reader
                # Beside functions a stream is silent while the model writes a call: calls come
                # whole.
                waited = limits.stall * (_CALLS_TAKE_LONGER if conversion.has_tools else 1)
                exact = self._server(turn).exact and bool(conversion.prefix)
                new = _New(conversion.prefix, turn.cut, exact=exact)
                before = len(turn.said)
                turn.silence.begin()
                async with aclosing(request.events()) as replies:
                    async for events in replies:
                        # The deadlines are the server's: none holds while words are pushed.
                        deadline.until = None
                        for event in events:
                            await self._tell(event, new, turn)
                        if reader.calling:
                            await self._frames.measure_call()
                        if not turn.silence.watch(reader, now()) and not reader.ended:
                            await self._say_what_there_is(turn)
                        if reader.overflows:
                            break
                        # A stream with nothing in it that a voice can say is a silence too.
                        deadline.until = turn.silence.until(now() + waited)
        except TimeoutError:
            if not deadline.expired:
                raise  # a time limit of somebody else's
            what = f"no first token came in {waited:.2g} s"
            if request is not None:
                what = f"nothing more came in {waited:.2g} s"
                if now() >= turn.silence.until():
                    what = f"nothing that a voice can say came in {limits.turn:.2g} s"
            raise MistralError(Reason.TIMEOUT, what) from None
        except asyncio.CancelledError:
            # Who is interrupted while speaking has answered.
            if request is not None and request.spoke:
                self._router.answered(turn.route)
            raise
        finally:
            # An interruption cancels this task: the connection closes here, first of all.
            if request is not None:
                await request.close()
                self._note(request, turn)
        *last, end = reader.finish()
        if reader.broken is not None:
            raise MistralError(Reason.STREAM, f"the reply ended with {reader.broken!r}")
        for event in last:
            await self._tell(event, new, turn)
        if rest := new.finish():
            await self._say_words(rest, turn)
        await self._frames.end_thought()
        self._router.answered(turn.route)
        TEMPLATES.learn(self._template(turn), reader.begins_in_thought)
        called = [_as_in_context(call, conversion) for call in last if isinstance(call, ToolCall)]
        unreadable = [each for each in last if isinstance(each, Unreadable)]
        spoke = self.is_speech("".join(turn.said[before:]))
        return AttemptResult(spoke, called, unreadable, cast(Finish, end), conversion)

    def _note(self, request: Request[Conversion], turn: TurnState) -> None:
        """Take note of who answered, and what it cost."""
        said = _headers(request.stream).get("mistral-correlation-id")
        turn.correlation_id = said and printable(said, MAX_NAME)
        if request.reader.model:
            turn.model = printable(request.reader.model, MAX_NAME)
            self._ports.set_model_name(turn.model)
        if usage := request.reader.usage:
            turn.usages.append(usage)
            turn.costs.append(cost_of(usage, self._ports.prices, turn.route.model, turn.model))
            if self._admission is not None and turn.unsettled is not None:
                self._admission.record_usage(turn.unsettled, usage.total_tokens)
                turn.unsettled = None

    async def handled(self, turn: TurnState, error: MistralError, handled: Handled) -> None:
        """Tell those who listen what was done about a fault."""
        logger.warning(
            f"{self._ports.name}: {handled.done} with {handled.model}, request {handled.attempt} "
            f"of the turn, in {handled.delay:.2f} s, after: {error}"
        )
        turn.counts.count(handled)
        if self._ports.is_traced():
            trace_fault(error, handled)
        await self._ports.emit("on_fault_handled", error, handled)

    async def _first_to_speak(self, turn: TurnState) -> Request[Conversion]:
        """Send the request, and another beside it if it is late."""
        began = now()
        after = given(self._ports.settings().hedge_after)
        hedges = given(self._ports.settings().hedging) is not False
        after = self.pace.hedge_after(began, after) if hedges else None
        if after is not None and after >= turn.attempts.limits.first_token:
            after = None

        async def send(hedge: bool = False) -> tuple[Stream, Conversion, ReplyReader]:
            ask = await self._admitted(turn, hedge)
            try:
                stream = await self._ports.open_stream(turn.asked)
            except Exception as e:
                if ask is not None and self._admission is not None:
                    self._admission.record_failure(
                        ask, error_of(e, self._router.client(turn.route))
                    )
                raise
            finally:
                turn.conversion = self._ports.conversion()
                if self._server(turn).continues == "words":
                    turn.conversion.prefix = ""
            budget = RateBudget.from_headers(_headers(stream))
            self.pace.budget(budget, now())
            if ask is not None and self._admission is not None:
                settled = self._admission.record_answer(ask, budget)
                turn.unsettled = None if settled else ask
            return stream, turn.conversion, self._reader(turn)

        first = Request(send)

        def second() -> Request[Conversion] | None:
            # What was told of the budget since then counts.
            if self.pace.hedge_after(now(), after) is None or not self._can_spare(turn):
                return None
            if not turn.attempts.hedge():
                return None
            turn.counts.hedges += 1
            turn.counts.attempts += 1
            return Request(lambda: send(hedge=True))

        async def lost(exception: Exception) -> None:
            error = error_of(exception, self._router.client(turn.route))
            if error is None:
                raise exception
            self.pace.budget(error.budget, now())
            await self.handled(
                turn, error, Handled("outrun", turn.attempts.made, 0.0, turn.route.model)
            )

        won = await first_to_speak(first, after, second, lost)
        if won.spoke:
            self.pace.spoke(now() - began)
        if won is not first:
            turn.counts.hedges_won += 1
        return won

    async def _admitted(self, turn: TurnState, hedge: bool) -> RequestEstimate | None:
        """Ask the gate, if there is one, before a request goes out."""
        if self._admission is None:
            return None
        ask = self._admission.ask(self._router.client(turn.route), turn.route.model, turn.asked)
        return await self._admission.acquire(replace(ask, rank=Rank.HEDGE) if hedge else ask)

    def _can_spare(self, turn: TurnState) -> bool:
        if self._admission is None:
            return True
        ask = self._admission.ask(self._router.client(turn.route), turn.route.model, turn.asked)
        return self._admission.rate_limiter.has_headroom(replace(ask, rank=Rank.HEDGE))

    async def write(self, words: str) -> None:
        """Write words, and have them recorded where the conversation is."""
        await self._frames.write_text(words)
        if self._ports.recorder is not None:
            self._ports.recorder.on_text(words)

    def _reader(self, turn: TurnState) -> ReplyReader:
        """What reads the reply to the request that was just sent."""
        return ReplyReader(
            turn.conversion.offered,
            most_calls=self._ports.settings().calls_per_reply(),
            begins_in_thought=TEMPLATES.begins_in_thought(self._template(turn)),
        )

    def _server(self, turn: TurnState) -> Server:
        return endpoint_of(self._router.client(turn.route)).of(turn.route.model)

    def _template(self, turn: TurnState) -> tuple[str, str]:
        return place_of(self._router.client(turn.route)), turn.route.model

    async def _tell(self, event: Event, new: "_New", turn: TurnState) -> None:
        """Say what is new in an event."""
        if isinstance(event, Text):
            await self._say_words(new.feed(event.text), turn)
        elif isinstance(event, Thought) and event.text:
            keep = bool(given(self._ports.settings().keep_thoughts))
            await self._frames.write_thought(event.text, keep=keep)

    async def _say_words(self, words: str, turn: TurnState) -> None:
        """Say some words of the reply; an end that is set for the voice is no word of it."""
        if words:
            turn.said.append(words)
            await self.write(turn.sentences.feed(words, now()) if turn.sentences else words)

    async def _say_what_there_is(self, turn: TurnState) -> None:
        """End the sentence that the voice waits for, where something else than words comes."""
        if turn.sentences is not None and (end := turn.sentences.overdue(now())):
            await self.write(end)

    def is_speech(self, words: str) -> bool:
        """Whether a caller hears anything of these words."""
        if (markers := self._ports.markers()) is not None:
            # The marker of a complete turn is taken out on the way; one of an incomplete turn
            # stands for a silence that the framework asked for.
            complete, *incomplete = markers
            if words.lstrip().startswith(tuple(incomplete)):
                return True
            words = words.replace(complete, "")
        return has_words(words)


class _New:
    """What is new in a reply that may repeat what was said before it."""

    def __init__(self, prefix: str, cut: str, *, exact: bool) -> None:
        # With a prefix the repetition is exact, where the server knows prefixes.
        self._prefix = RepeatedPrefix(prefix)
        self._overlap = Overlap(cut, in_words=not prefix, exact=exact)

    def feed(self, text: str) -> str:
        return self._joined(self._prefix.feed(text))

    def finish(self) -> str:
        return self._joined(self._prefix.finish()) + self._overlap.finish()

    def _joined(self, text: str) -> str:
        return text if self._prefix.repeated else self._overlap.feed(text)


def _headers(stream: Any) -> Mapping[str, str]:
    """An answer's headers; none from a service that overrides `get_chat_completions`."""
    return getattr(getattr(stream, "response", None), "headers", {})


def _as_in_context(call: ToolCall, conversion: Conversion) -> ToolCall:
    """A call with the ids and names that the context has, where Mistral was told others."""
    arguments = call.arguments
    if conversion.call_ids:
        # A call may name another, as Pipecat's `cancel_…` functions do.
        arguments = _SENT_ID.sub(
            lambda found: json.dumps(conversion.call_ids.get(found[1], found[1])), arguments
        )
    call_id = conversion.call_ids.get(call.id, call.id) if call.id else None
    return replace(
        call, id=call_id, name=conversion.names.get(call.name, call.name), arguments=arguments
    )
