"""One attempt: a request, hedged if it is late, and held to its deadlines."""

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Generic, cast

from loguru import logger

from mistral_service.conversation.conversion import Conversion
from mistral_service.reply.continuation import Continuation
from mistral_service.reply.events import Event, Finish, Text, Thought, ToolCall, Unreadable
from mistral_service.reply.reader import ReplyReader
from mistral_service.reply.templates import TEMPLATES
from mistral_service.turn.deadline import Deadline, now
from mistral_service.turn.ports import TurnPorts
from mistral_service.turn.prices import cost_of
from mistral_service.turn.race import Request, Stream, first_to_speak
from mistral_service.turn.retries import Handled
from mistral_service.turn.state import AttemptResult, C, TurnState
from mistral_service.wire.client import error_of, place_of
from mistral_service.wire.endpoint import endpoint_of
from mistral_service.wire.errors import MAX_NAME, MistralError, Reason, printable
from mistral_service.wire.rate import RateBudget
from mistral_service.wire.servers import Server

# How much longer a stream may pause where functions are offered: a call of some hundred tokens
# takes Mistral's models two or three seconds to write.
_CALLS_TAKE_LONGER = 3

_SENT_ID = re.compile('"([a-zA-Z0-9]{9})"')


class Attempt(Generic[C]):
    """Sends a request, and writes what comes as it comes."""

    def __init__(self, ports: TurnPorts[C]) -> None:
        self._ports = ports
        self._router = ports.router
        self._output = ports.output
        self._admission = ports.admission
        self._pace = ports.pace

    async def make(self, turn: TurnState[C]) -> AttemptResult:
        """Make one attempt.

        Raises:
            MistralError: If no first output comes in time, or no further one, or the reply ends
                with an error; and whatever the client raises.
        """
        limits = turn.attempts.limits
        others = self._router.has_other(turn.route, turn.conversation.needs)
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
                new = Continuation(conversion.prefix, turn.cut, exact=exact)
                before = len(turn.said)
                turn.silence.begin()
                async with aclosing(request.events()) as replies:
                    async for events in replies:
                        # The deadlines are the server's: none holds while words are written.
                        deadline.until = None
                        for event in events:
                            await self._write(event, new, turn)
                        if reader.calling:
                            await self._output.call_begins()
                        if not turn.silence.watch(reader, now()) and not reader.ended:
                            await self._end_sentence(turn)
                        if reader.overflows:
                            break
                        # A stream with nothing in it that a voice can say is a silence too.
                        deadline.until = turn.silence.until(now() + waited)
        except TimeoutError:
            if not deadline.expired:
                raise  # another time limit, not this one
            what = f"no first token came in {waited:.2g} s"
            if request is not None:
                what = f"nothing more came in {waited:.2g} s"
                if now() >= turn.silence.until():
                    what = f"nothing that a voice can say came in {limits.turn:.2g} s"
            raise MistralError(Reason.TIMEOUT, what) from None
        except asyncio.CancelledError:
            self._output.end()  # words that still wait are never heard
            # A reply that is interrupted while it is spoken has answered.
            if request is not None and request.spoke:
                self._router.answered(turn.route)
            raise
        finally:
            # An interruption cancels this task: the connection closes here, first of all.
            if request is not None:
                await request.close()
                self._record(request, turn)
        *last, end = reader.finish()
        if reader.broken is not None:
            raise MistralError(Reason.STREAM, f"the reply ended with {reader.broken!r}")
        for event in last:
            await self._write(event, new, turn)
        if rest := new.finish():
            await self._write_words(rest, turn)
        await self._output.flush()
        self._router.answered(turn.route)
        TEMPLATES.learn(self._template(turn), reader.begins_in_thought)
        called = [_as_in_context(call, conversion) for call in last if isinstance(call, ToolCall)]
        unreadable = [each for each in last if isinstance(each, Unreadable)]
        spoke = self._output.is_speech("".join(turn.said[before:]))
        return AttemptResult(spoke, called, unreadable, cast(Finish, end), conversion, reader)

    def _record(self, request: Request[Conversion], turn: TurnState[C]) -> None:
        """Record who answered, and what it cost."""
        said = _headers(request.stream).get("mistral-correlation-id")
        turn.correlation_id = said and printable(said, MAX_NAME)
        if request.reader.model:
            turn.model = printable(request.reader.model, MAX_NAME)
            self._ports.observer.on_model(turn.model)
        if usage := request.reader.usage:
            turn.usages.append(usage)
            turn.costs.append(cost_of(usage, self._ports.prices, turn.route.model, turn.model))
            if self._admission is not None:
                self._admission.record_usage(usage.total_tokens)

    async def handled(self, turn: TurnState[C], error: MistralError, handled: Handled) -> None:
        """Report what was done about a fault."""
        logger.warning(
            f"{self._ports.name}: {handled.done} with {handled.model}, request {handled.attempt} "
            f"of the turn, in {handled.delay:.2f} s, after: {error}"
        )
        turn.counts.count(handled)
        await self._ports.observer.on_fault_handled(error, handled)

    async def _first_to_speak(self, turn: TurnState[C]) -> Request[Conversion]:
        """Send the request, and hedge it if it is late."""
        began, options, admission = now(), turn.options, self._admission
        after = self._pace.hedge_after(began, options.hedge_after) if options.hedging else None
        if after is not None and after >= turn.attempts.limits.first_token:
            after = None

        async def send(*, hedges: bool = False) -> tuple[Stream, Conversion, ReplyReader]:
            client, estimate = self._router.client(turn.route), None
            if admission is not None:
                model = turn.route.model
                estimate = admission.estimate(client, model, turn.asked, hedges=hedges)
                await admission.acquire(estimate)
            try:
                stream = await self._ports.open_stream(turn.asked)
            except Exception as e:
                if admission is not None and estimate is not None:
                    admission.record_failure(estimate, error_of(e, client))
                raise
            finally:
                turn.conversion = self._ports.conversion()
                if self._server(turn).continues == "words":
                    turn.conversion.prefix = ""
            budget = RateBudget.from_headers(_headers(stream))
            self._pace.budget(budget, now())
            if admission is not None and estimate is not None:
                admission.record_answer(estimate, budget)
            reader = self._ports.make_reader(
                turn.conversion.offered,
                most_calls=turn.options.most_calls,
                begins_in_thought=TEMPLATES.begins_in_thought(self._template(turn)),
            )
            return stream, turn.conversion, reader

        first = Request(send)

        def second() -> Request[Conversion] | None:
            # What answers have reported of the budget since then counts.
            if self._pace.hedge_after(now(), after) is None:
                return None
            if admission is not None:
                client = self._router.client(turn.route)
                estimate = admission.estimate(client, turn.route.model, turn.asked, hedges=True)
                if not admission.rate_limiter.has_headroom(estimate):
                    return None
            if not turn.attempts.hedge():
                return None
            turn.counts.hedges += 1
            turn.counts.attempts += 1
            return Request(lambda: send(hedges=True))

        async def lost(exception: Exception) -> None:
            error = error_of(exception, self._router.client(turn.route))
            if error is None:
                raise exception
            self._pace.budget(error.budget, now())
            await self.handled(
                turn, error, Handled("outrun", turn.attempts.made, 0.0, turn.route.model)
            )

        won = await first_to_speak(first, after, second, lost)
        if won.spoke:
            self._pace.spoke(now() - began)
        if won is not first:
            turn.counts.hedges_won += 1
        return won

    def _server(self, turn: TurnState[C]) -> Server:
        return endpoint_of(self._router.client(turn.route)).of(turn.route.model)

    def _template(self, turn: TurnState[C]) -> tuple[str, str]:
        return place_of(self._router.client(turn.route)), turn.route.model

    async def _write(self, event: Event, new: Continuation, turn: TurnState[C]) -> None:
        """Write what is new in an event."""
        if isinstance(event, Text):
            await self._write_words(new.feed(event.text), turn)
        elif isinstance(event, Thought) and event.text:
            await self._output.write_thought(event.text, keep=turn.options.keep_thoughts)

    async def _write_words(self, words: str, turn: TurnState[C]) -> None:
        """Write words of the reply; an end that is set for the voice is no word of it."""
        if words:
            turn.said.append(words)
            await self._output.write_text(
                turn.sentences.feed(words, now()) if turn.sentences else words
            )

    async def _end_sentence(self, turn: TurnState[C]) -> None:
        """End the sentence that the voice waits for, where something else than words comes."""
        if turn.sentences is not None and (end := turn.sentences.overdue(now())):
            await self._output.write_text(end)


def _headers(stream: Any) -> Mapping[str, str]:
    """An answer's headers; none from a service that overrides `get_chat_completions`."""
    return getattr(getattr(stream, "response", None), "headers", {})


def _as_in_context(call: ToolCall, conversion: Conversion) -> ToolCall:
    """A call with the ids and names of the context, where others were sent to Mistral."""
    arguments, ids = call.arguments, conversion.call_ids
    if ids:
        # A call may name another, as Pipecat's `cancel_…` functions do.
        arguments = _SENT_ID.sub(lambda found: json.dumps(ids.get(found[1], found[1])), arguments)
    call_id = ids.get(call.id, call.id) if call.id else None
    name = conversion.names.get(call.name, call.name)
    return replace(call, id=call_id, name=name, arguments=arguments)
