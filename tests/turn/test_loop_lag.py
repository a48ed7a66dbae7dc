"""No turn holds up the others of its process, however large or odd what it is made of.

What the event loop's thread spends on one callback is measured in CPU time, and compared with a
piece of work, so that a busy machine or a slow one changes nothing. The goal is 20 ms; a test fails
above 60. Work that has to grow with the size of a
conversation, and not with its square, is counted in lines that run.
"""

import asyncio
import itertools
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from call import Call
from line_count import lines_of
from loop_cost import BOUND, PIECE, comparable, piece, watched
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import LLMFullResponseEndFrame
from pipecat.utils.string import match_endofsentence

from mistral_service.conversation.calls import Call as ToolCallMade
from mistral_service.conversation.rules import Conversion, apply_rules
from mistral_service.local import LocalMistral
from mistral_service.local.pieces import Raw
from mistral_service.pipecat.functions.results import MAX_RESULT, TOO_LARGE, readable
from mistral_service.reply.calls import CallLedger
from mistral_service.reply.events import ToolCall
from mistral_service.reply.reader import MAX_WORDS, ReplyReader
from mistral_service.reply.rounds import Rounds
from mistral_service.reply.speech import Sentences, has_words
from mistral_service.turn.portions import PORTION, portions
from mistral_service.wire.chunks import Chunk, ToolCallDelta, Usage, read_payload
from mistral_service.wire.encoding import MAX_EVENT_VALUES

USER = {"role": "user", "content": "What time is it?"}
NOON = {"role": "assistant", "content": "Noon."}


def events(*chunks: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


def said(content: Any, end: str | None = None, **beside: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": content}, "finish_reason": end}], **beside}


HELLO = events(said("It is noon."), said("", "stop"))


class Server:
    """Answers with the bytes of streams, one after the other; at the end with `HELLO`."""

    def __init__(self, *streams: bytes) -> None:
        self._streams = list(streams)

    async def answer(self, _request: Any):
        stream = self._streams.pop(0) if self._streams else HELLO
        yield Raw(stream + b"data: [DONE]\n\n")

    async def close(self) -> None: ...


class Lenient:
    """Refuses nothing: what is sent is another test's."""

    def validate(self, _body: Any) -> None: ...


def call_of(n: int, arguments: str = "{}", call_id: str | None = None) -> ToolCallMade:
    function = {"name": "read", "arguments": arguments}
    return {"id": call_id or f"call{n:05}", "type": "function", "function": function}


def calls_and_results(count: int, size: int, call_id: str = "call{:05}") -> list[Any]:
    messages: list[Any] = [dict(USER)]
    for n in range(count):
        named = call_id.format(n)
        arguments = json.dumps({"page": n, "text": "a" * size})
        messages.append({"role": "assistant", "tool_calls": [call_of(n, arguments, named)]})
        messages.append({"role": "tool", "tool_call_id": named, "content": "b" * size})
    return messages


def parts(count: int, role: str) -> list[Any]:
    content = [{"type": "text", "text": f"{n}"} for n in range(count)]
    return [dict(USER), {"role": role, "content": content}, dict(USER)]


def group(count: int) -> list[Any]:
    results = [
        {"role": "tool", "tool_call_id": f"call_foreign_{n}", "content": "b"} for n in range(count)
    ]
    calls = [call_of(n, call_id=f"call_foreign_{n}") for n in range(count)]
    return [dict(USER), {"role": "assistant", "tool_calls": calls}, *results]


PICTURE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
CONTEXTS: dict[str, Callable[[], list[Any]]] = {
    "20,000 messages of the user": lambda: [dict(USER) for _ in range(20_000)],
    "20,000 messages in turn": lambda: [dict(USER), dict(NOON)] * 10_000,
    "20,000 instructions": lambda: [{"role": "developer", "content": "Be."}] * 20_000,
    "20,000 images": lambda: [{"role": "user", "content": [PICTURE]} for _ in range(20_000)],
    "4 MB of calls and results": lambda: calls_and_results(1_000, 2_000),
    "10,000 calls of foreign ids": lambda: calls_and_results(10_000, 20, "call_foreign_{}"),
    "5,000 calls side by side": lambda: group(5_000),
    "one result of 4 MB": lambda: calls_and_results(1, 4_000_000),
    "arguments of many values": lambda: [
        dict(USER),
        {"role": "assistant", "tool_calls": [call_of(1, json.dumps({"v": [{"a": 1}] * 150_000}))]},
        {"role": "tool", "tool_call_id": "call00001", "content": "b"},
    ],
    "a text of 4 MB": lambda: [{"role": "user", "content": "word " * 800_000}],
    "a text of 4 MB with a lone surrogate": lambda: [
        {"role": "user", "content": "word " * 800_000 + "\ud800"}
    ],
    "90,000 parts of the user": lambda: parts(90_000, "user"),
    "90,000 parts of the assistant": lambda: parts(90_000, "assistant"),
}


# --- the measure ----------------------------------------------------------------------------------


@pytest.mark.parametrize("slower", [0.5, 1, 2, 7])
def test_a_cost_is_the_same_on_a_slower_machine(slower: float):
    ticks = (n * PIECE * slower for n in itertools.count())
    assert comparable(BOUND * slower, clock=lambda: next(ticks)) == pytest.approx(BOUND)


async def test_a_step_that_is_too_long_is_seen(monkeypatch):
    def hold_up() -> None:
        for _ in range(round(3 * BOUND / PIECE)):
            piece()

    with watched(monkeypatch) as seen:
        asyncio.get_running_loop().call_soon(hold_up)
        await asyncio.sleep(0.01)
    assert seen.worst > BOUND, seen
    assert "hold_up" in seen.what


# --- one callback ---------------------------------------------------------------------------------


async def one_turn(service: Any, messages: list[Any], patch: Any, turns: int = 1, **options: Any):
    """Hold a turn with the loop watched; returns what was seen, and the call."""
    async with Call(service, **options) as call:
        assert await call.say("Hello.") == "It is noon."  # loads what is loaded with the first
        call.context.add_messages(messages)
        before = call.count(LLMFullResponseEndFrame)
        with watched(patch) as seen:
            await call.begin("And now?")
            await call.until(lambda: call.count(LLMFullResponseEndFrame) >= before + turns, 60)
            await asyncio.sleep(0.05)
    return seen, call


@pytest.mark.parametrize("name", CONTEXTS)
async def test_a_large_context_is_prepared_beside_the_loop(name: str, service_for, monkeypatch):
    with LocalMistral(Server(), Lenient()) as mistral:
        seen, call = await one_turn(service_for(mistral), CONTEXTS[name](), monkeypatch)
    assert call.words == "It is noon." * 2
    assert seen.worst < BOUND, seen


def many_calls(count: int, values: int) -> bytes:
    arguments = json.dumps({"v": [{"a": 1}] * values})
    calls = [{"index": n, **call_of(n, arguments)} for n in range(count)]
    return events({"choices": [{"delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}]})


MARKERS = "[TOOL_CALLS]" * 80_000
REPLIES: dict[str, bytes] = {
    "250,000 values": events(said("Hm.", x=[{"a": 0}] * 120_000)),
    "as many values as allowed": events(said("Hm.", x=[{"a": 0}] * 12_000), said("", "stop")),
    "80,000 parts": events(said([{"type": "text", "text": "a"}] * 80_000)),
    "a text of 16 MB": events(said("a b " * 4_000_000)),
    "a text of 3 MB": events(said("a b " * 750_000), said("", "stop")),
    "3 MB of short sentences": events(said("Yes. " * 600_000), said("", "stop")),
    "1 MB of empty lines": events(said("a" + "\n" * 1_000_000), said("", "stop")),
    "nothing but empty lines": events(said("\n" * 1_000_000), said("", "stop")),
    "markers in one event": events(said(MARKERS), said("", "stop")),
    "markers in many events": events(
        *(said(MARKERS[at : at + 20_000]) for at in range(0, len(MARKERS), 20_000)),
        said("", "stop"),
    ),
    "empty events": b"data: {}\n\n" * 26_000 + events(said("a", "stop")),
    "many tokens at once": events(*[said("a ")] * 20_000, said("", "stop")),
    "64 calls of many values": many_calls(64, 900),
    "a call of many values": many_calls(1, 11_000),
    "a call of too many values": many_calls(1, 100_000),
}


@pytest.mark.parametrize("name", REPLIES)
async def test_a_large_reply_is_read_in_short_steps(name: str, service_for, monkeypatch):
    with LocalMistral(Server(HELLO, REPLIES[name]), Lenient()) as mistral:
        seen, call = await one_turn(service_for(mistral), [], monkeypatch)
    assert call.count(LLMFullResponseEndFrame) >= 2
    assert seen.worst < BOUND, seen


RESULTS: dict[str, Any] = {
    "4 MB of small values": {"values": [{"a": n, "b": "t"} for n in range(150_000)]},
    "a text of 4 MB": "a b " * 1_000_000,
    "as many values as allowed": [{"a": n} for n in range(MAX_RESULT // 45)],
    "values that JSON cannot hold": [object()] * 100_000,
}


@pytest.mark.parametrize("name", RESULTS)
async def test_a_large_result_is_written_in_time(name: str, service_for, monkeypatch):
    called = many_calls(1, 1)

    async def read(params: Any) -> None:
        await params.result_callback(RESULTS[name])

    tools = ToolsSchema(standard_tools=[FunctionSchema("read", "Reads.", {"v": {}}, [])])
    with LocalMistral(Server(HELLO, called), Lenient()) as mistral:
        service = service_for(mistral)
        service.register_function("read", read)
        seen, call = await one_turn(service, [], monkeypatch, turns=2, tools=tools)
    assert call.words == "It is noon." * 2
    assert seen.worst < BOUND, seen


async def test_many_tools_are_judged_beside_the_loop(service_for, monkeypatch):
    properties = {f"p{n}": {"type": "string", "description": "d" * 100} for n in range(70)}
    tools = ToolsSchema(
        standard_tools=[FunctionSchema(f"f{n}", "Reads.", properties, []) for n in range(128)]
    )
    with LocalMistral(Server(), Lenient()) as mistral:
        async with Call(service_for(mistral)) as call:
            await call.say("Hello.")
            call.context.set_tools(tools)
            with watched(monkeypatch) as seen:
                assert await call.say("And now?") == "It is noon."
        assert len(mistral.exchanges[-1].request["tools"]) == 128
    assert seen.worst < BOUND, seen


async def test_tools_that_no_model_can_read_are_an_error_that_says_so(service_for):
    properties = {f"p{n}": {"enum": ["v" * 50] * 100} for n in range(100)}
    tools = ToolsSchema(
        standard_tools=[FunctionSchema(f"f{n}", "Reads.", properties, []) for n in range(10)]
    )
    with LocalMistral(Server(), Lenient()) as mistral:
        async with Call(service_for(mistral), tools=tools) as call:
            await call.say("Hello.")
        assert not mistral.exchanges
    [error] = call.errors
    assert "bytes as JSON, and 2,000,000 are the most" in error.error


# --- work that grows as what it is done for -------------------------------------------------------


def late_results(count: int) -> list[Any]:
    asked = [[{"role": "assistant", "tool_calls": [call_of(n)]}, USER] for n in range(count)]
    results = [
        {"role": "tool", "tool_call_id": f"call{n:05}", "content": "b"} for n in range(count)
    ]
    return [message for pair in asked for message in pair] + results


def results_of_one_call(count: int) -> list[Any]:
    call = {"role": "assistant", "tool_calls": [call_of(1)]}
    results = [
        {"role": "tool", "tool_call_id": "call00001", "content": f"b{n}"} for n in range(count)
    ]
    return [USER, call, *results]


def calls_of_one_id(count: int, call_id: str) -> list[Any]:
    calls = [{**call_of(1), "id": call_id} for _ in range(count)]
    results = [{"role": "tool", "tool_call_id": call_id, "content": "b"}] * count
    return [USER, {"role": "assistant", "tool_calls": calls}, *results]


def jobs(count: int) -> list[Any]:
    messages = calls_and_results(count, 1, "call_foreign_{}")
    for message in messages:
        if message["role"] == "tool":
            job = {"type": "async_tool", "tool_call_id": message["tool_call_id"]}
            message["content"] = json.dumps(job)
    return messages


GROWING: dict[str, Callable[[int], list[Any]]] = {
    "neighbours": lambda count: [dict(USER) for _ in range(count)],
    "late results": late_results,
    "results of one call": results_of_one_call,
    "calls of one id": lambda count: calls_of_one_id(count, "call00001"),
    "calls without ids": lambda count: calls_of_one_id(count, ""),
    "jobs": jobs,
    "foreign ids": lambda count: calls_and_results(count, 1, "call_foreign_{}"),
    "a group": group,
}


@pytest.mark.parametrize("name", GROWING)
def test_the_rules_do_work_in_proportion_to_the_conversation(name: str):
    def work(count: int) -> int:
        messages = GROWING[name](count)
        return lines_of(lambda: apply_rules(messages, Conversion(has_tools=True)))

    assert work(400) < 5 * work(100)


@pytest.mark.parametrize("name", GROWING)
def test_the_ledger_does_work_in_proportion_to_the_conversation(name: str):
    def learn(count: int) -> int:
        messages = GROWING[name](count) + [USER, NOON] * count
        ledger, rounds = CallLedger(), Rounds()
        return lines_of(lambda: (ledger.learn(messages), rounds.begin(messages)))

    assert learn(400) < 5 * learn(100)


def test_neighbours_are_joined_at_once():
    messages = [{"role": "user", "content": "a" * 1_000} for _ in range(400)]
    tracemalloc.start()
    try:
        [joined] = apply_rules(messages)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert joined["content"] == "\n\n".join(["a" * 1_000] * 400)
    assert peak < 4_000_000  # one by one they would take 80 MB


def test_the_ledger_knows_the_newest_calls_of_a_context_that_has_more_than_it_remembers():
    messages = calls_and_results(2_500, 1)
    ledger = CallLedger()
    for _ in range(3):  # what is learnt again does not push out what is newer
        ledger.learn(messages)
    last = messages[-2]["tool_calls"][0]
    call = ToolCall(last["id"], "read", last["function"]["arguments"])
    assert ledger.plan([call]).repeated == [call]


# --- bounds ---------------------------------------------------------------------------------------


def test_a_result_is_read_up_to_the_bound_and_no_further():
    assert readable("a" * (MAX_RESULT - 100)) == "a" * (MAX_RESULT - 100)
    assert readable("a" * MAX_RESULT) is TOO_LARGE
    assert readable([0] * (MAX_RESULT // 20)) is TOO_LARGE
    endless: list[Any] = [1]
    endless.append(endless)
    assert readable(endless) == "[1, [...]]"


def test_an_event_has_values_up_to_the_bound():
    few = json.dumps(said("Hm.", x=[0] * (MAX_EVENT_VALUES - 100)))
    chunk, fault = read_payload(few)
    assert chunk is not None
    assert (chunk.text, fault) == ("Hm.", None)
    chunk, fault = read_payload(json.dumps(said("Hm.", x=[0] * (MAX_EVENT_VALUES + 1))))
    assert chunk is None
    assert fault is not None


def test_calls_with_more_values_than_the_bound_end_the_reply():
    reader = ReplyReader()
    reader.feed(Chunk(tool_calls=(ToolCallDelta(0, "call00001", "read", '{"v": [0'),)))
    assert not reader.overflows
    for _ in range(MAX_EVENT_VALUES // 100 + 1):
        reader.feed(Chunk(tool_calls=(ToolCallDelta(0, arguments=", 0" * 100),)))
    assert reader.overflows


def test_words_beyond_the_bound_end_the_reply():
    reader = ReplyReader()
    reader.feed(Chunk(text="a" * MAX_WORDS))
    assert not reader.overflows
    reader.feed(Chunk(text="a"))
    assert reader.overflows


def test_portions_say_what_the_chunks_say():
    chunks = [
        Chunk("m", text="Hm. "),
        Chunk(
            "m",
            text="é" * 10_001,
            parts=({"type": "text", "text": "b" * 9_000}, {"type": "text", "text": "c"}),
            thought="t" * 5_000,
            tool_calls=tuple(ToolCallDelta(n, f"call{n:05}", "read", "{}") for n in range(400)),
            finish_reason="tool_calls",
            usage=Usage(1, 2, 3),
        ),
    ]
    whole, divided = ReplyReader(["read"], most_calls=500), ReplyReader(["read"], most_calls=500)
    one = [*whole.feed_all(chunks), *whole.finish()]
    two: list[Any] = []
    count = 0
    for portion in portions(chunks):
        count += 1
        assert sum(len(chunk.text) + len(chunk.thought) for chunk in portion) <= 2 * PORTION
        two += divided.feed_all(portion)
    two += divided.finish()
    assert count > 3

    def told(found: list[Any]) -> list[Any]:
        text: dict[str, str] = {}
        for event in found:
            if hasattr(event, "text"):
                text[type(event).__name__] = text.get(type(event).__name__, "") + event.text
        return [text, [event for event in found if not hasattr(event, "text")]]

    assert told(one) == told(two)


# --- what a voice says ----------------------------------------------------------------------------


def test_sentences_that_come_faster_than_they_are_spoken_are_looked_through_in_part():
    looked = 0

    def first(text: str) -> int:
        nonlocal looked
        looked += len(text)
        return match_endofsentence(text)

    sentences = Sentences(2.0, first, silence=4.0)
    for n in range(100):
        assert sentences.feed("Yes, it is. " * 100, 0.1 + n / 1_000) == "Yes, it is. " * 100
    assert sentences.silent_since > 1_000  # a voice has enough to say
    assert looked < 200_000  # of 120,000 characters, at each of whose sentences all were looked at


def test_a_long_sentence_without_an_end_still_gets_one():
    sentences = Sentences(2.0, match_endofsentence, silence=4.0)
    text, heard = "word " * 20, ""
    for n in range(100):
        heard += sentences.feed(text, n / 10)
    assert "." in heard


@pytest.mark.timeout(20)
def test_empty_lines_are_looked_through_once():
    assert not has_words("\n" * 1_000_000)
    assert has_words("<b>" + "\n" * 1_000_000 + "a")
    assert not has_words("  \n\n   ```python")
    assert not has_words("<b></b> ](http://a) &amp;")
    assert has_words("Hm <b>")
    assert has_words("<b>Hm")
    assert not has_words("... _ -")
