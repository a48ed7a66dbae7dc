"""No turn goes on in silence: whatever comes on the wire, the caller hears words or an error."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from call import Call
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import Frame, LLMFullResponseEndFrame, LLMTextFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.utils.string import match_endofsentence
from pipecat.utils.text.simple_text_aggregator import SimpleTextAggregator

from mistral_service.local import Reply
from mistral_service.reply.speech import Sentences
from mistral_service.turn.retries import Limits
from mistral_service.turn.silence import Silence
from mistral_service.wire.errors import Reason

TOOL = FunctionSchema("book", "For tests.", {"note": {"type": "string"}}, [])
QUICK = {
    "first_token_timeout": 0.8,
    "stall_timeout": 0.8,
    "sentence_timeout": 0.5,
    "turn_timeout": 1.6,
    "hedging": False,
}
LONG = 200  # pieces of a stream that is not meant to be read to its end


class Listener(FrameProcessor):
    """Hears what a voice would say: whole sentences, as Pipecat's voices find them."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[float, str]] = []
        self._sentences = SimpleTextAggregator()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame):
            async for sentence in self._sentences.aggregate(frame.text):
                self.heard.append((time.monotonic(), sentence.text))
        elif isinstance(frame, LLMFullResponseEndFrame):
            rest = await self._sentences.flush()
            if rest is not None and rest.text.strip():
                self.heard.append((time.monotonic(), rest.text))
        await self.push_frame(frame, direction)

    @property
    def words(self) -> str:
        return " ".join(text for _, text in self.heard)


@asynccontextmanager
async def hearing(service: Any, **options: Any) -> AsyncGenerator[tuple[Call, Listener]]:
    listener = Listener()
    async with Call(service, voice=[listener], **options) as call:
        yield call, listener


def texts(*pieces: str, **options: Any) -> Reply:
    return Reply(deltas=[{"content": piece} for piece in pieces], **options)


def arguments(*pieces: str) -> list[dict[str, Any]]:
    head = {"index": 0, "id": "a1b2c3d4e", "function": {"name": "book", "arguments": ""}}
    later = [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
    return [{"tool_calls": [each]} for each in (head, *later)]


@pytest.mark.parametrize("tools", [[], [TOOL]])
@pytest.mark.parametrize(
    "pieces",
    [
        ["..."] * LONG,
        ["🙂"] * LONG,
        ["\u200b"] * LONG,
        ["<break/>"] * LONG,
        [" "] * LONG,
        ["Sure", *["."] * LONG],
        ["Sure ", *[" "] * LONG],
        ["[TOOL_RESULTS]", *["word "] * LONG],
        ["Hello. ", "[INST]", *["word "] * LONG],
    ],
    ids=["dots", "emoji", "zero width", "markup", "blanks", "a word", "a word, blanks"]
    + ["what is skipped", "words before"],
)
async def test_a_stream_that_says_nothing_ends_in_an_error(serve, service_for, pieces, tools):
    mistral = serve(texts(*pieces, pause=0.05, times=None))
    async with hearing(service_for(mistral, **QUICK), tools=tools) as (call, listener):
        await call.begin("Hello.")
        await call.until(lambda: call.errors, seconds=30)
        await call.until(lambda: call.count(LLMFullResponseEndFrame))
        [error] = call.errors
        assert error.exception.reason is Reason.TIMEOUT
        assert call.service.is_usable
    for word in ("Sure", "Hello"):
        assert listener.words.count(word) <= 1


async def test_the_budget_does_not_begin_anew_at_every_fault(serve, service_for):
    """Words that no voice has got yet are no reason to wait longer."""
    mistral = serve(texts("Sorry ", stall_after=1), Reply("Late.", wait=60, times=None))
    service = service_for(mistral, **QUICK)
    loop = asyncio.get_running_loop()
    async with hearing(service) as (call, listener):
        began = loop.time()
        await call.begin("Hello.")
        await call.until(lambda: call.errors, seconds=30)
        # One stall, and what is left of the budget; not a budget more for each.
        assert loop.time() - began < 2 * QUICK["turn_timeout"]
        await call.until(lambda: listener.heard)
    assert listener.words == "Sorry"
    assert len(mistral.exchanges) == 2


async def test_dots_before_a_fault_are_no_words_to_go_on_from(serve, service_for):
    mistral = serve(texts("...", "...", cut_after=2), Reply("Here I am."))
    async with Call(service_for(mistral, **QUICK)) as call:
        assert (await call.say("Hello.")).endswith("Here I am.")
    assert mistral.exchanges[1].request["messages"][-1]["role"] == "user"


async def test_with_one_attempt_an_empty_reply_is_not_asked_for_again(serve, service_for):
    mistral = serve(texts("...", times=None))
    async with Call(service_for(mistral, max_attempts=1)) as call:
        await call.say("Hello.")
        [error] = call.errors
        assert error.exception.reason is Reason.EMPTY
    assert len(mistral.exchanges) == 1


async def test_words_before_a_call_that_takes_long_are_heard_before_it_is_whole(serve, service_for):
    call_pieces = arguments('{"note": "', *["word "] * 20, '"}')
    mistral = serve(
        Reply(
            deltas=[{"content": "One moment, please."}, *call_pieces],
            finish_reason="tool_calls",
            pause=0.1,
        ),
        Reply("Done."),
    )
    service = service_for(mistral, **QUICK)
    ran: list[float] = []

    async def book(params: Any) -> None:
        ran.append(time.monotonic())
        await params.result_callback("ok")

    service.register_function("book", book)
    async with hearing(service, tools=[TOOL]) as (call, listener):
        await call.begin("Book it.")
        await call.until(lambda: "Done" in listener.words, seconds=30)
        assert not call.errors
    (at, first), *_ = listener.heard
    assert first == "One moment, please."
    assert [at < when for when in ran] == [True]


async def test_the_end_of_a_reply_without_a_point_adds_nothing_to_it(serve, service_for):
    # The chunk that ends it comes when the sentence has taken longer than it may.
    mistral = serve(texts("one two three", pause=1.2))
    async with Call(service_for(mistral, **QUICK | {"stall_timeout": 5.0})) as call:
        assert await call.say("Hello.") == "one two three"


@pytest.mark.parametrize("tools", [[], [TOOL]])
async def test_no_word_is_said_twice_after_a_cut_where_an_end_was_set(serve, service_for, tools):
    words = [f"{word} " for word in ["sorry", "did", "you", "mean", "the", "one"]]
    whole = "sorry did you mean the one in Oslo?"
    mistral = serve(texts(*words, pause=0.2, cut_after=len(words)), Reply(whole))
    async with Call(service_for(mistral, **QUICK), tools=tools) as call:
        await call.say("Hello.")
        assert not call.errors
        assert "." in call.words
        assert call.words.replace(".", "").split() == whole.split()


@pytest.mark.parametrize(
    ("before", "goes_on"),
    [
        (["The ", "qui"], "ck brown fox."),  # a server that goes on from a prefix within a word
        (["The ", "qui"], "The quick brown fox."),
        (["The quick ", "brown "], " The quick brown fox."),
        (["The quick ", "brown "], "\ufeffThe quick brown fox."),
    ],
)
async def test_a_continuation_joins_on_however_the_server_repeats_the_prefix(
    serve, service_for, before, goes_on
):
    mistral = serve(texts(*before, cut_after=2), texts(goes_on))
    # No part of the sentence is late here, and none is ended for the voice.
    unhurried = {**QUICK, "sentence_timeout": 5.0, "turn_timeout": 10.0}
    async with Call(service_for(mistral, **unhurried)) as call:
        assert await call.say("Hello.") == "The quick brown fox."


# --- without a clock ------------------------------------------------------------------------------


def silence(spoken: bool = True) -> tuple[Silence, Sentences]:
    sentences = Sentences(4.0, match_endofsentence, began=100.0, silence=9.0)
    return Silence(Limits(), 100.0, 9.0, sentences if spoken else None), sentences


def reader(words: int = 0, thoughts: int = 0, call: int = 0) -> Any:
    return SimpleNamespace(progress=words + thoughts + call, thoughts=thoughts, call_progress=call)


def test_words_that_no_voice_has_got_move_nothing():
    watched, sentences = silence()
    sentences.feed("Sorry ", 103.0)
    assert watched.watch(reader(words=1), 103.0)
    assert watched.until() == 109.0


def test_a_sentence_gives_the_time_that_it_is_spoken_and_the_budget_anew():
    watched, sentences = silence()
    sentences.feed("Hello there, my friend. And ", 103.0)
    watched.watch(reader(words=5), 103.0)
    assert 103.0 + 9.0 < watched.until() < 103.0 + 9.0 + 3.0


@pytest.mark.parametrize("kind", ["thoughts", "call"])
def test_a_model_at_work_has_more_time_but_not_for_ever(kind: str):
    watched, _ = silence()
    for count in range(1, 200):
        watched.watch(reader(**{kind: count}), 100.0 + count)
        expected = max(109.0, min(100.0 + count + Limits().stall, 100.0 + Limits().thinking))
        assert watched.until() == expected


def test_where_no_voice_speaks_all_words_count():
    watched, _ = silence(spoken=False)
    watched.watch(reader(words=1), 103.0)
    assert watched.until() == 112.0
    watched.begin()
    watched.watch(reader(words=1), 105.0)
    assert watched.until() == 114.0
