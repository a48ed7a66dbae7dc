"""Speculative turns: the model is asked before the user has ended the turn."""

import asyncio
from typing import Any

from call import Call
from pipecat.frames.frames import (
    EagerEndOfTurnCancelFrame,
    EagerTranscriptionFrame,
    Frame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMTextFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    TranscriptionFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import TTFBMetricsData
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.turns.user_turn_strategies import EagerUserTurnStrategies
from tool_calls import called, registered, tools

from mistral_service import MistralLLMService
from mistral_service.local import Reply
from mistral_service.pipecat import speculation

ASKED = "Is there a train to Lyon?"


class SpokenTo(Call):
    """A call whose speech recognition predicts the end of a turn."""

    def __init__(self, service: MistralLLMService, **options: Any) -> None:
        strategies = EagerUserTurnStrategies()
        super().__init__(service, user_turn_strategies=strategies, **options)

    async def predict(self, text: str = ASKED) -> None:
        """Begin to speak, and make a pause that looks like the end."""
        await self.worker.queue_frame(ProposedUserStartedSpeakingFrame())
        await self.worker.queue_frame(EagerTranscriptionFrame(text, "user", "now"))

    async def end_turn(self, text: str = ASKED) -> None:
        """End the turn."""
        await self.worker.queue_frame(TranscriptionFrame(text, "user", "now"))
        await self.worker.queue_frame(ProposedUserStoppedSpeakingFrame())

    async def answered(self, times: int = 1) -> list[Frame]:
        """Wait for the end of an answer; returns what the caller hears of the call, in order."""
        await self.until(lambda: self.count(LLMFullResponseEndFrame) >= times)
        return [f for f in self.frames if isinstance(f, LLMTextFrame | UserStoppedSpeakingFrame)]


async def test_a_turn_that_is_confirmed_is_answered_at_once_and_asked_for_once(serve, service_for):
    mistral = serve(Reply("At ten past nine."))
    async with SpokenTo(service_for(mistral)) as call:
        await call.predict()
        await call.until(lambda: mistral.exchanges and mistral.exchanges[0].ended)
        assert not call.words
        await call.end_turn()
        heard = await call.answered()
        assert isinstance(heard[0], UserStoppedSpeakingFrame)
        assert call.words == "At ten past nine."
        assert [m["content"] for m in call.context.get_messages()][:1] == [ASKED]
        await asyncio.sleep(speculation._ASKED_WITHIN + 0.1)
    assert len(mistral.exchanges) == 1


async def test_a_turn_that_goes_on_is_answered_as_it_ended(serve, service_for):
    mistral = serve(Reply("At ten.", when="Lyon.$"), Reply("At noon.", when="tomorrow"))
    async with SpokenTo(service_for(mistral)) as call:
        await call.predict()
        await call.until(lambda: mistral.exchanges and mistral.exchanges[0].ended)
        await call.worker.queue_frame(EagerEndOfTurnCancelFrame())
        await call.end_turn(f"{ASKED} I mean tomorrow.")
        await call.answered()
        assert call.words == "At noon."
    assert len(mistral.exchanges) == 2


async def test_a_withdrawn_request_is_closed(serve, service_for):
    mistral = serve(Reply("word " * 500, pause=0.05), Reply("At noon."))
    async with SpokenTo(service_for(mistral)) as call:
        await call.predict()
        await call.until(lambda: mistral.exchanges)
        await call.worker.queue_frame(EagerEndOfTurnCancelFrame())
        await call.until(lambda: mistral.exchanges[0].ended)
        await call.end_turn(f"{ASKED} I mean tomorrow.")
        await call.answered()
        assert call.words == "At noon."


async def test_a_call_waits_for_the_end_of_the_turn_and_runs_once(serve, service_for):
    mistral = serve(
        Reply(tool_calls=[called()]), Reply(tool_calls=[called()]), Reply("Done, at ten.")
    )
    service = service_for(mistral)
    ran = registered(service)
    async with SpokenTo(service, tools=tools("one")) as call:
        await call.predict("Book it.")
        await call.until(lambda: mistral.exchanges and mistral.exchanges[0].ended)
        await asyncio.sleep(0.2)
        assert ran == []
        await call.end_turn("Book it.")
        await call.until(lambda: "Done, at ten." in call.words)
    assert len(ran) == 1


async def test_a_fault_before_the_end_of_the_turn_is_no_error_yet(serve, service_for):
    """The turn is asked for again when it has ended: the caller hears of no fault."""
    mistral = serve(Reply(status=422, body={"detail": "refused"}), Reply("At ten."))
    async with SpokenTo(service_for(mistral)) as call:
        await call.predict()
        await call.until(lambda: call.count(EagerEndOfTurnCancelFrame))
        await call.end_turn()
        await call.until(lambda: call.words == "At ten.")
        assert not call.errors
        ttfb = [data.value for data in call.metrics(TTFBMetricsData) if data.value]
        assert len(ttfb) == 1  # of the answer alone


async def test_a_fault_after_the_end_of_the_turn_is_an_error(serve, service_for):
    mistral = serve(Reply(status=422, body={"detail": "refused"}, wait=0.3))
    async with SpokenTo(service_for(mistral)) as call:
        await call.predict()
        await call.end_turn()
        await call.until(lambda: call.errors)
        assert "refused" in call.errors[0].error


class LateWithdrawal(FrameProcessor):
    """Holds the withdrawal back from the aggregator until the turn has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.held = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        is_withdrawal = isinstance(frame, EagerEndOfTurnCancelFrame)
        if is_withdrawal and direction is FrameDirection.UPSTREAM:
            self.held += 1
        else:
            await self.push_frame(frame, direction)


async def test_a_turn_that_ends_while_its_reply_is_withdrawn_is_answered(serve, service_for):
    """The aggregator takes the turn for answered, and the reply is gone: no one else asks."""
    mistral = serve(
        Reply(tool_calls=[called()]), Reply(tool_calls=[called()]), Reply("Done, at ten.")
    )
    service = service_for(mistral)
    ran = registered(service)
    late = LateWithdrawal()
    async with SpokenTo(service, tools=tools("one"), before=[late]) as call:
        await call.predict("Book it.")
        await call.until(lambda: late.held)
        await call.end_turn("Book it.")
        await call.until(lambda: "Done, at ten." in call.words)
    assert len(ran) == 1


class Retrieval(FrameProcessor):
    """Takes its time before each question of the user."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            await asyncio.sleep(speculation._ASKED_WITHIN + 0.3)
        await self.push_frame(frame, direction)


async def test_what_is_asked_late_is_asked_once(serve, service_for):
    mistral = serve(
        Reply(status=422, body={"detail": "refused"}), Reply("At ten."), Reply("Again, at ten.")
    )
    async with SpokenTo(service_for(mistral), before=[Retrieval()]) as call:
        await call.predict()
        await call.until(lambda: call.count(EagerEndOfTurnCancelFrame))
        await call.end_turn()
        await call.until(lambda: call.words)
        await asyncio.sleep(2 * speculation._ASKED_WITHIN + 0.8)
        assert call.words == "At ten."
    assert len(mistral.exchanges) == 2


async def test_a_call_that_ends_is_not_asked_for(serve, service_for):
    mistral = serve(Reply(tool_calls=[called()]), Reply("Too late."))
    late = LateWithdrawal()
    service = service_for(mistral)
    registered(service)
    async with SpokenTo(service, tools=tools("one"), before=[late]) as call:
        await call.predict("Book it.")
        await call.until(lambda: late.held)
        await call.end_turn("Book it.")
        await call.until(lambda: service._speculation._asking)
    assert service._speculation._asking is None
    assert len(mistral.exchanges) == 1


class TakenOver:
    """A recorder of a call that another machine began."""

    def __init__(self) -> None:
        self.is_pending = True
        self.restored: list[Any] = []

    def on_start(self, service: Any) -> None: ...

    async def on_turn_start(self, service: Any, context: Any) -> None:
        if self.is_pending:
            self.is_pending = False
            self.restored.append(context)

    def on_text(self, words: str) -> None: ...

    async def on_function_calls(self, calls: Any) -> None: ...

    async def on_function_result(self, call_id: str, result: object) -> None: ...

    async def on_turn_end(self, *, complete: bool) -> None: ...


async def test_a_takeover_restores_the_conversation_itself_and_no_copy(serve):
    mistral = serve(Reply("At ten."))
    recorder = TakenOver()
    service = MistralLLMService(api_key="k", base_url=mistral.base_url, recorder=recorder)
    async with SpokenTo(service) as call:
        await call.predict()
        await call.end_turn()
        await call.until(lambda: call.words == "At ten.")
        assert recorder.restored == [call.context]
