"""What is said while a function is slow: once, to a caller who hears nothing else."""

import asyncio
from typing import Any

import pytest
from call import Call
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    LLMConfigureOutputFrame,
    LLMMessagesAppendFrame,
    LLMUpdateSettingsFrame,
    TTSSpeakFrame,
    TTSTextFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.settings import TTSSettings
from pipecat.transports.base_transport import TransportParams
from recorded import Plays, Speaks
from tool_calls import called, tools

from mistral_service import MistralLLMService
from mistral_service.local import Reply
from mistral_service.pipecat.functions.slow import SLOW_AFTER
from mistral_service.settings import BadSetting

WAIT = "One moment, please."


def slow_service(mistral, after: float = 0.1, **options: Any) -> MistralLLMService:
    settings = MistralLLMService.Settings(slow_function_text=WAIT, slow_function_after=after)
    return MistralLLMService(
        api_key="test-key", base_url=mistral.base_url, settings=settings, **options
    )


class Waits:
    """A handler that answers when it may."""

    def __init__(self, result: str = "done") -> None:
        self.may, self.result = asyncio.Event(), result

    async def __call__(self, params) -> None:
        await self.may.wait()
        await params.result_callback(self.result)


def said(call: Call) -> list[str]:
    """What the voice was asked to say, beside the replies."""
    return [frame.text for frame in call.of(TTSSpeakFrame)]


async def test_it_is_said_once_and_the_answer_follows(serve):
    mistral = serve(
        Reply(tool_calls=[called()]),
        Reply("It is done."),
        Reply(tool_calls=[called(call_id="abcdefgh2")]),
        Reply("Again."),
    )
    service = slow_service(mistral)
    handler = Waits()
    service.register_function("one", handler)
    async with Call(service, tools=tools("one")) as call:
        await call.begin("Do it.")
        await call.until(lambda: said(call))
        await asyncio.sleep(0.3)
        handler.may.set()
        await call.until(lambda: call.words == "It is done.")
        assert said(call) == [WAIT]
        handler.may.clear()
        await call.begin("Once more.")
        await call.until(lambda: len(said(call)) == 2)
        handler.may.set()
        await call.until(lambda: call.words.endswith("Again."))
    assert not call.errors
    assert WAIT not in str(call.context.get_messages())
    assert [exchange.refused for exchange in mistral.exchanges] == [None] * 4


class Hears(FrameProcessor):
    """Notes what was spoken aloud."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSTextFrame):
            self.words.append(frame.text)
        await self.push_frame(frame, direction)


async def test_a_voice_says_it_before_the_answer_and_the_context_keeps_its_order(serve):
    mistral = serve(Reply(tool_calls=[called()]), Reply("It is done."), Reply("You are welcome."))
    service = slow_service(mistral)
    handler, hears = Waits(), Hears()
    service.register_function("one", handler)
    none = TTSSettings(model=None, voice=None, language=None)
    speaks = Speaks(sample_rate=16000, settings=none, push_start_frame=True, push_stop_frames=True)
    plays = Plays(TransportParams(audio_out_enabled=True, audio_out_sample_rate=16000))
    async with Call(service, tools=tools("one"), voice=[speaks, plays, hears]) as call:
        await call.begin("Do it.")
        await call.until(lambda: hears.words == [WAIT])
        handler.may.set()
        await call.until(lambda: len(call.context.get_messages()) == 4)
        await call.begin("Thank you.")
        await call.until(lambda: len(call.context.get_messages()) == 6)
    assert hears.words == [WAIT, "It is done.", "You are welcome."]
    messages = call.context.get_messages()
    assert [(m["role"], m.get("content")) for m in messages] == [
        ("user", "Do it."),
        ("assistant", None),
        ("tool", '"done"'),
        ("assistant", "It is done."),
        ("user", "Thank you."),
        ("assistant", "You are welcome."),
    ]
    assert [exchange.refused for exchange in mistral.exchanges] == [None] * 3


@pytest.mark.parametrize("slow", [0, 1])
async def test_it_is_said_once_for_all_calls_of_a_reply(serve, slow: int):
    mistral = serve(Reply(tool_calls=[called(), called("two", "abcdefgh2")]), Reply("Both."))
    service = slow_service(mistral)
    handlers = Waits(), Waits()
    handlers[1 - slow].may.set()
    for name, handler in zip(("one", "two"), handlers, strict=True):
        service.register_function(name, handler)
    async with Call(service, tools=tools("one", "two")) as call:
        await call.begin("Do both.")
        await call.until(lambda: said(call))
        await asyncio.sleep(0.3)
        handlers[slow].may.set()
        await call.until(lambda: call.words == "Both.")
    assert said(call) == [WAIT]


async def test_one_after_the_other_the_wait_counts_from_the_first(serve):
    mistral = serve(
        Reply(tool_calls=[called(), called("two", "abcdefgh2")]), Reply("Both.", times=None)
    )
    service = slow_service(mistral, run_in_parallel=False)
    handler = Waits()
    for name in ("one", "two"):
        service.register_function(name, handler)
    async with Call(service, tools=tools("one", "two")) as call:
        await call.begin("Do both.")
        await call.until(lambda: said(call))
        handler.may.set()
        await call.until(lambda: call.count(FunctionCallResultFrame) == 2)
        await call.until(lambda: "Both." in call.words)
    assert said(call) == [WAIT]


async def test_it_is_said_where_the_handler_has_returned_and_not_answered(serve):
    mistral = serve(Reply(tool_calls=[called()]), Reply("No result."))
    service = slow_service(mistral, function_call_timeout_secs=0.5)
    service.register_function("one", lambda _params: None)
    async with Call(service, tools=tools("one")) as call:
        assert await call.say("Do it.", turns=2) == "No result."
        await asyncio.sleep(0.2)
    assert said(call) == [WAIT]


async def test_words_before_the_call_are_enough(serve):
    mistral = serve(
        Reply("Let me look.", tool_calls=[called()]),
        Reply(tool_calls=[called(call_id="abcdefgh2")]),
        Reply("Done."),
    )
    service = slow_service(mistral)
    handlers = [Waits(), Waits()]

    async def in_turn(params) -> None:
        await handlers[params.tool_call_id == "abcdefgh2"](params)

    service.register_function("one", in_turn)
    async with Call(service, tools=tools("one")) as call:
        await call.begin("Do it.")
        await call.until(lambda: call.count(FunctionCallInProgressFrame) == 1)
        await asyncio.sleep(0.4)
        assert said(call) == []
        # The next reply calls without a word.
        handlers[0].may.set()
        await call.until(lambda: said(call) == [WAIT])
        handlers[1].may.set()
        await call.until(lambda: call.words == "Let me look.Done.")


def in_pieces(text: str) -> list[dict[str, Any]]:
    """The deltas of a reply that says something, a character in each, and calls a function."""
    function = {"name": "one", "arguments": "{}"}
    call = {"index": 0, "id": "abcdefgh1", "function": function}
    return [*({"content": char} for char in text), {"tool_calls": [call]}]


@pytest.mark.parametrize(
    "blank", ["", " \n", "...", "…", "👍", "**", "\u200b", '<break time="1s"/>']
)
async def test_blanks_and_signs_before_the_call_are_no_words(serve, blank: str):
    mistral = serve(Reply(deltas=in_pieces(blank)), Reply("Done."))
    service = slow_service(mistral)
    handler = Waits()
    service.register_function("one", handler)
    async with Call(service, tools=tools("one")) as call:
        await call.begin("Do it.")
        await call.until(lambda: said(call) == [WAIT])
        handler.may.set()
        await call.until(lambda: "Done." in call.words)


@pytest.mark.parametrize(
    "why", ["quick", "returned", "interrupted", "asynchronous", "text only", "hung up", "off"]
)
async def test_it_is_not_said_where_no_caller_waits_in_silence(serve, why: str):
    mistral = serve(Reply(tool_calls=[called()]), Reply("Done.", times=None))
    service = slow_service(mistral, after=0.4)
    if why == "off":
        service._settings.slow_function_text = None
    handler: Any = Waits()
    if why == "quick":
        handler.may.set()
    service.register_function(
        "one",
        (lambda _params: "done") if why == "returned" else handler,
        cancel_on_interruption=why != "asynchronous",
    )
    async with Call(service, tools=tools("one")) as call:
        if why == "text only":
            await call.worker.queue_frame(LLMConfigureOutputFrame(skip_tts=True))
        await call.begin("Do it.")
        await call.until(lambda: call.count(FunctionCallInProgressFrame))
        if why == "interrupted":
            await call.interrupt()
        if why == "hung up":
            await call.worker.queue_frame(EndFrame())
        await asyncio.sleep(0.8)
        assert said(call) == []
    assert not call.errors


async def test_what_is_said_meanwhile_takes_its_place(serve):
    mistral = serve(Reply(tool_calls=[called()]), Reply("I am still looking."), Reply("Done."))
    service = slow_service(mistral, after=2.0)  # time enough for the other reply
    handler = Waits()
    service.register_function("one", handler)
    async with Call(service, tools=tools("one")) as call:
        await call.begin("Do it.")
        await call.until(lambda: call.count(FunctionCallInProgressFrame))
        nudge = {"role": "developer", "content": "Tell the caller that you are still looking."}
        await call.worker.queue_frame(LLMMessagesAppendFrame([nudge], run_llm=True))
        await call.until(lambda: call.words == "I am still looking.")
        await asyncio.sleep(2.3)
        handler.may.set()
        await call.until(lambda: call.words.endswith("Done."))
    assert said(call) == []


async def test_a_sign_that_is_said_meanwhile_does_not_take_its_place(serve):
    mistral = serve(Reply(tool_calls=[called()]), Reply("Done."))
    service = slow_service(mistral, after=0.5)
    handler = Waits()
    service.register_function("one", handler)
    async with Call(service, tools=tools("one")) as call:
        await call.begin("Do it.")
        await call.until(lambda: call.count(FunctionCallInProgressFrame))
        await call.worker.queue_frame(TTSSpeakFrame("🙂", append_to_context=False))
        await call.until(lambda: said(call)[-1:] == [WAIT])
        handler.may.set()
        await call.until(lambda: call.words.endswith("Done."))


async def test_a_handler_that_speaks_itself_is_enough(serve):
    mistral = serve(Reply(tool_calls=[called()]), Reply("Done."))
    service = slow_service(mistral, after=0.3)
    handler = Waits()

    async def speaks(params) -> None:
        await params.llm.push_frame(TTSSpeakFrame("I am on it."))
        await handler(params)

    service.register_function("one", speaks)
    async with Call(service, tools=tools("one")) as call:
        await call.begin("Do it.")
        await call.until(lambda: said(call))
        await asyncio.sleep(0.6)
        handler.may.set()
        await call.until(lambda: call.words == "Done.")
    assert said(call) == ["I am on it."]


async def test_where_each_result_is_answered_a_result_is_enough(serve):
    mistral = serve(
        Reply(tool_calls=[called(), called("two", "abcdefgh2")]), Reply("Done. ", times=None)
    )
    service = slow_service(mistral, after=0.5, group_parallel_tools=False)
    first, second = Waits(), Waits()
    first.may.set()
    service.register_function("one", first)
    service.register_function("two", second)
    async with Call(service, tools=tools("one", "two")) as call:
        await call.begin("Do both.")
        await call.until(lambda: call.words == "Done. ")
        await asyncio.sleep(0.8)
        second.may.set()
        await call.until(lambda: call.words == "Done. Done. ")
    assert said(call) == []


async def test_it_can_change_in_mid_conversation(serve):
    mistral = serve(Reply(tool_calls=[called()]), Reply("Done."))
    service = MistralLLMService(api_key="test-key", base_url=mistral.base_url)
    handler = Waits()
    service.register_function("one", handler)
    delta = MistralLLMService.Settings(slow_function_text="Hold on.", slow_function_after=0.1)
    async with Call(service, tools=tools("one")) as call:
        await call.worker.queue_frame(LLMUpdateSettingsFrame(delta=delta))
        await call.begin("Do it.")
        await call.until(lambda: said(call) == ["Hold on."])
        handler.may.set()
        await call.until(lambda: call.words == "Done.")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slow_function_text", ""),
        ("slow_function_text", 2),
        ("slow_function_after", 0),
        ("slow_function_after", -1.0),
        ("slow_function_after", "2"),
        ("slow_function_after", 601),
    ],
)
def test_what_it_may_not_be_is_refused(name: str, value: Any):
    with pytest.raises(BadSetting, match=name):
        MistralLLMService(api_key="k", settings=MistralLLMService.Settings(**{name: value}))


def test_the_default_is_what_the_documents_say():
    assert SLOW_AFTER == 2
