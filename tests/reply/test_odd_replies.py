"""Odd replies: thoughts, nothing at all, words that end too soon. Each has its way out."""

import asyncio
import json
from itertools import groupby
from pathlib import Path

import pytest
from call import Call
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import (
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    LLMThoughtEndFrame,
    LLMThoughtStartFrame,
    LLMThoughtTextFrame,
    LLMUpdateSettingsFrame,
)
from pipecat.metrics.metrics import LLMUsageMetricsData
from pipecat.utils.errors import ErrorCategory

from mistral_service import MistralError, MistralLLMService, Reason
from mistral_service.local import Checks, Reply

CAPTURES = sorted((Path(__file__).parents[1] / "captures").glob("*.sse"))
REASONING = Checks(versions=["v11", "v13", "v15"])


def thinking(*texts: str) -> dict:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text} for text in texts]}


# --- thoughts -----------------------------------------------------------------------------------


async def test_thoughts_are_frames_of_their_own(serve, service_for):
    mistral = serve(
        Reply(
            deltas=[
                {"content": [thinking("The user ")]},
                {"content": [thinking("greets.")]},
                {"content": [thinking(), {"type": "text", "text": "Hi"}]},
                {"content": " there."},
            ]
        )
    )
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "Hi there."
    kinds = (
        LLMFullResponseStartFrame,
        LLMThoughtStartFrame,
        LLMThoughtTextFrame,
        LLMThoughtEndFrame,
        LLMTextFrame,
        LLMFullResponseEndFrame,
    )
    # How many frames the words take is the network's choice.
    came = [type(frame) for frame in call.frames if isinstance(frame, kinds)]
    assert [kind for kind, _ in groupby(came)] == list(kinds)
    assert "greets" not in str(call.context.get_messages())


async def test_thoughts_are_kept_and_given_back_where_that_is_asked_for(serve, service_for):
    thought = {"content": [thinking("Greet back.")]}
    mistral = serve(Reply(deltas=[thought, {"content": "Hi."}]), Reply("Fine."), checks=REASONING)
    service = service_for(mistral, keep_thoughts=True, reasoning_effort="high")
    async with Call(service) as call:
        await call.say("Hello.")
        assert await call.say("How are you?") == "Fine."
    assert mistral.exchanges[1].request["messages"][1] == {
        "role": "assistant",
        "content": [thinking("Greet back."), {"type": "text", "text": "Hi."}],
    }


async def test_a_thought_before_a_call_stays_with_the_call(serve, service_for):
    call_made = {"name": "one", "id": "abcdefgh1"}
    reply = Reply(deltas=[{"content": [thinking("Look it up.")]}], tool_calls=[call_made])
    mistral = serve(reply, Reply("Done."), checks=REASONING)
    service = service_for(mistral, keep_thoughts=True)

    async def handler(params) -> None:
        await params.result_callback("ok")

    service.register_function("one", handler)
    async with Call(service) as call:
        assert await call.say("Do it.", turns=2) == "Done."
    sent = mistral.exchanges[1].request["messages"][1]
    assert sent["content"] == [thinking("Look it up.")]
    assert sent["tool_calls"][0]["id"] == "abcdefgh1"


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({}, "none"),
        ({"reasoning_effort": "high"}, "high"),
        ({"use_provider_thinking_default": True}, None),
        ({"model": "mistral-large-latest"}, None),
    ],
)
async def test_a_voice_answers_at_once_unless_it_is_told_to_think(
    serve, service_for, settings, sent
):
    mistral = serve(Reply("Hi."))
    async with Call(service_for(mistral, **settings)) as call:
        await call.say("Hello.")
    assert mistral.exchanges[0].request.get("reasoning_effort") == sent


# --- empty replies ------------------------------------------------------------------------------

EMPTY = [
    Reply(""),
    Reply("  \n"),
    Reply(deltas=[{"content": [thinking("Hm.")]}]),
    Reply(deltas=[{"content": None}]),
    Reply(raw=b"data: [DONE]\n\n"),
    Reply(deltas=[{"content": [{"type": "reference", "reference_ids": [1]}]}]),
]


@pytest.mark.parametrize("empty", EMPTY)
async def test_an_empty_reply_is_asked_for_again(serve, service_for, empty: Reply):
    mistral = serve(empty, Reply("Here I am."))
    async with Call(service_for(mistral)) as call:
        assert (await call.say("Hello.")).strip() == "Here I am."
    assert not call.errors
    assert len(mistral.exchanges) == 2


@pytest.mark.parametrize("empty", EMPTY)
async def test_an_empty_reply_twice_is_told(serve, service_for, empty: Reply):
    mistral = serve(empty, empty, Reply("Here I am."))
    async with Call(service_for(mistral)) as call:
        await call.say("Hello.")
        [error] = call.errors
        assert isinstance(error.exception, MistralError)
        assert error.exception.reason is Reason.EMPTY
        assert error.category is ErrorCategory.SERVER
        assert await call.say("Are you there?") == "Here I am."
    assert len(mistral.exchanges) == 3


async def test_words_can_be_said_in_place_of_the_error(serve, service_for):
    mistral = serve(Reply(""), Reply(""))
    service = service_for(mistral, empty_reply_text="Sorry, could you say that again?")
    async with Call(service) as call:
        assert await call.say("Hello.") == "Sorry, could you say that again?"
    assert not call.errors


async def test_a_reply_cut_before_its_first_word_is_told_at_once(serve, service_for):
    mistral = serve(Reply("", finish_reason="length"))
    async with Call(service_for(mistral)) as call:
        await call.say("Hello.")
    [error] = call.errors
    assert "'length'" in error.error
    assert len(mistral.exchanges) == 1


async def test_a_reply_that_ends_in_an_error_goes_on_in_another(serve, service_for):
    mistral = serve(Reply("One moment", finish_reason="error"), Reply("One moment, please."))
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "One moment, please."
    assert not call.errors


async def test_a_reply_that_keeps_ending_in_errors_is_told_after_its_words(serve, service_for):
    mistral = serve(
        Reply("One moment", finish_reason="error"), Reply(finish_reason="error", times=None)
    )
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "One moment"
    [error] = call.errors
    assert "'error'" in error.error
    assert len(mistral.exchanges) == 3


async def test_both_attempts_count_for_usage_in_one_report(serve, service_for):
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
    mistral = serve(Reply("", usage=usage), Reply("Hi.", usage=usage))
    async with Call(service_for(mistral)) as call:
        await call.say("Hello.")
    [tokens] = call.metrics(LLMUsageMetricsData)
    assert tokens.value.total_tokens == 22


async def test_a_reply_that_was_complete_when_it_was_cut_is_not_said_twice(serve, service_for):
    mistral = serve(Reply("Hello there.", cut_after=2), Reply("Hello there."), Reply("No."))
    async with Call(service_for(mistral)) as call:
        assert await call.say("Hello.") == "Hello there."
    assert not call.errors
    assert len(mistral.exchanges) == 2


async def test_a_thought_after_an_interrupted_thought_begins_anew(serve, service_for):
    mistral = serve(
        Reply(deltas=[{"content": [thinking("Hm.")]}, {"content": "x"}], stall_after=1),
        Reply(deltas=[{"content": [thinking("Now then.")]}, {"content": "Yes?"}]),
    )
    async with Call(service_for(mistral)) as call:
        await call.begin("Hello.")
        await call.until(lambda: call.count(LLMThoughtTextFrame))
        await call.interrupt()
        await call.say("Wait.")
    assert call.count(LLMThoughtStartFrame) == 2


@pytest.mark.parametrize(
    "replies",
    [
        [Reply("●"), Reply("● Certainly.")],
        [Reply("● ", cut_after=1), Reply(" "), Reply("● Certainly.")],
    ],
)
async def test_a_marker_alone_is_no_answer(serve, service_for, replies):
    """With turn completion on, the marker is taken out on its way to the voice."""
    mistral = serve(*replies)
    async with Call(service_for(mistral)) as call:
        delta = MistralLLMService.Settings(filter_incomplete_user_turns=True)
        await call.worker.queue_frame(LLMUpdateSettingsFrame(delta=delta))
        await call.begin("Could you help me?")
        await call.until(lambda: call.count(LLMFullResponseEndFrame))
    assert "Certainly." in call.words or call.errors


async def test_a_bare_error_line_in_the_stream_keeps_its_words(serve, service_for):
    chunk = b'data: {"choices":[{"delta":{"content":"I will"}}]}\n\n'
    raw = chunk + b'{"error":{"message":"overloaded"}}\n'
    mistral = serve(Reply(raw=raw))
    async with Call(service_for(mistral, max_attempts=1)) as call:
        assert await call.say("Hello.") == "I will"
    assert "overloaded" in call.errors[0].error


# --- every capture ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stream"), [(path.stem, path.read_bytes()) for path in CAPTURES])
async def test_every_captured_stream_ends_in_speech_an_action_or_an_error(
    serve, service_for, name: str, stream: bytes
):
    mistral = serve(Reply(raw=stream), Reply("And that is all.", times=None))
    service = service_for(mistral)
    ran: list[tuple[str, str]] = []

    async def handler(params) -> None:
        ran.append((params.function_name, json.dumps(dict(params.arguments))))
        await params.result_callback("ok")

    service.register_function(None, handler)
    # A call that stands in the text runs only where its function is offered.
    offered = FunctionSchema("get_weather", "For tests.", {"city": {"type": "string"}}, [])
    async with Call(service, tools=[offered]) as call:
        await call.begin("Hello.")
        await call.until(
            lambda: call.count(LLMFullResponseEndFrame) and (call.words or call.errors)
        )
        if name.startswith(("call", "parallel")):
            # The results of the calls are answered, too.
            await call.until(lambda: call.words.endswith("And that is all."))
    assert bool(ran) == name.startswith(("call", "parallel"))
    assert all(exchange.status == 200 for exchange in mistral.exchanges)


_CALL = {"id": "abcdefghi", "function": {"name": "one", "arguments": "{"}}


@pytest.mark.parametrize(
    ("first", "forever"),
    [
        ({"content": "\n"}, {"content": "\n"}),
        ({"content": "Well, "}, {"content": " "}),
        ({"content": "Well, "}, {"content": ""}),
        ({"tool_calls": [{"index": 0, **_CALL}]}, {"content": ""}),
        (
            {"tool_calls": [{"index": 0, **_CALL}]},
            {"tool_calls": [{"index": 0, "function": {"name": "", "arguments": "  "}}]},
        ),
    ],
)
async def test_blanks_without_end_are_a_silence_too(serve, service_for, first, forever):
    blanks = Reply(deltas=[first, *[forever] * 400], pause=0.02)
    mistral = serve(blanks, Reply("and so on."))
    times = {"first_token_timeout": 0.4, "stall_timeout": 0.2, "turn_timeout": 0.7}
    async with Call(service_for(mistral, hedging=False, **times)) as call:
        # Eight seconds of blanks are not waited for.
        said = await asyncio.wait_for(call.say("Hello."), 4)
        assert said.endswith("and so on.") or call.errors[0].exception.reason is Reason.TIMEOUT
